"""``soulsai doctor`` names what is wrong, on both ends, each finding with its mend."""

import json
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from soulsai.__main__ import run
from soulsai.identity.folder import init
from soulsai.testing.policy import toy_run
from soulsai.types import PROTOCOL, EnvironmentOffer, Weights
from soulsai.wire.invite import from_line, to_line
from soulsai.wire.names import user_rules
from soulsai.wire.redis.roles import connect_training
from soulsai.wire.signing import Signer, signer_in
from tests.system.identity_cases import TLS_KIND, free_port, guarded

pytestmark = pytest.mark.tools  # TLS needs Debian's redis-server
TOY = "soulsai.testing:ToyEnv"
DAY = timedelta(days=1)
DURABLE = ("maxmemory 100mb", "maxmemory-policy noeviction", "appendonly yes")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with guarded(tmp_path_factory.mktemp("doctor"), TLS_KIND, tls=True, settings=DURABLE) as one:
        yield one


class Run:
    """A run on that server, as its training node published it."""

    def __init__(self, server):
        self.server = server
        self.spec, self.program, self.arrays = toy_run(EnvironmentOffer(TOY))

    def publish(self, signer="own", **changes):
        if signer == "own":
            signer = signer_in(self.server.secrets)
        node = connect_training(self.server.access("training_node"), "soulsai", signer=signer)
        spec = msgspec.structs.replace(self.spec, **changes)
        generation = node.open(spec, self.program, fresh=True)
        node.publish(Weights(spec.run, generation, 1, self.arrays))
        node.close()


@pytest.fixture(scope="module")
def a_run(server):
    return Run(server)


@pytest.fixture(scope="module")
def invite(server):
    path = server.folder / "lab.invite"
    assert server.command("enroll", "lab", "--out", path) == 0
    return path


@pytest.fixture
def doctor(capsys, tmp_path, monkeypatch):
    """Give a function that runs the command, and returns its exit code and findings by check."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("soulsai.doctor.checks.SECONDS", 2.0)

    def examine(*words):
        settings = ("--set", "environment.id=CartPole-v1")
        code = run(["doctor", *map(str, words), *settings, "--json"])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        answer = json.loads(said.out.splitlines()[-1])
        findings = {finding["check"]: finding for finding in answer["findings"]}
        assert all(one["mend"] for one in findings.values() if one["state"] != "ok")
        assert code == (1 if answer["failed"] else 0)
        return code, findings

    return examine


def bad(findings):
    return {check: one["state"] for check, one in findings.items() if one["state"] != "ok"}


def test_all_is_well_with_a_client(server, a_run, invite, doctor):
    a_run.publish()
    code, findings = doctor("--invite", invite, "--env", TOY)
    assert (code, bad(findings)) == (0, {})
    assert set(findings) == {
        "software", "disk", "address", "certificate", "client", "client rights", "clock", "speed",
        "run", "protocol", "signature", "environment", "policy",
    }  # fmt: skip


def test_all_is_well_with_a_server(server, a_run, doctor):
    a_run.publish()
    code, findings = doctor("--redis", server.url, "--secrets", server.secrets)
    assert (code, bad(findings)) == (0, {"run": "warning"}), "nobody learns"
    for role in ("training_node", "telemetry_node", "operator", "metrics", "admin"):
        assert findings[f"{role} rights"]["said"] == "all that it needs, and no more"
    assert {"server", "memory", "durability", "secrets", "signature"} <= set(findings)


def test_a_person_reads_lines_and_the_mend(server, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    port = free_port()
    assert run(["doctor", "--client", "--redis", f"redis://127.0.0.1:{port}"]) == 1
    said = capsys.readouterr().out.splitlines()
    (at,) = [number for number, line in enumerate(said) if line.startswith("failure  address")]
    assert "Connection refused" in said[at]
    assert said[at + 1].lstrip().startswith("-> the machine is there, but no server listens")


@pytest.mark.parametrize(
    ("changes", "failed", "said"),
    [
        ({"url": "redis://train.example.org"}, "settings", "--insecure"),
        ({"url": "rediss://nowhere.invalid"}, "address", "nowhere.invalid"),
        ({"password": "wrong"}, "client", "refuses the invite of lab"),
        ({"client": "nobody"}, "client", "refuses the invite of nobody"),
        ({"ca": ""}, "certificate", "self"),
        ({"key": Signer(bytes(32)).public}, "signature", "belongs to another key"),
    ],
)
def test_an_invite_that_does_not_fit(server, a_run, invite, doctor, changes, failed, said):
    a_run.publish()
    changed = msgspec.structs.replace(from_line(invite.read_text(), "test"), **changes)
    file = server.folder / "changed.invite"
    file.write_text(to_line(changed))
    code, findings = doctor("--invite", file)
    assert code == 1
    assert bad(findings)[failed] == "failure"
    assert said in findings[failed]["said"]
    assert changed.password not in json.dumps(findings)


@pytest.mark.parametrize(
    ("issued", "host", "said"), [(-400, "localhost", "expired"), (0, "elsewhere", "ismatch")]
)
def test_a_certificate_that_does_not_fit(tmp_path, doctor, monkeypatch, issued, host, said):
    monkeypatch.setattr("soulsai.identity.certificates._HOSTS_ALWAYS", ())
    with guarded(tmp_path, TLS_KIND, tls=True, start=False) as server:
        init(server.secrets, hosts=["localhost"], now=datetime.now(UTC) - 1000 * DAY)
        (server.secrets / "server.pem").unlink()
        init(server.secrets, hosts=[host], now=datetime.now(UTC) + issued * DAY)
        server.start()
        code, findings = doctor(
            "--client",
            "--secrets",
            server.secrets,
            "--redis",
            f"rediss://localhost:{server.tls_port}",
        )
    assert code == 1
    assert said in findings["certificate"]["said"]
    assert "soulsai secrets init" in findings["certificate"]["mend"]


def test_a_certificate_near_its_end_and_a_port_without_tls(server, doctor, monkeypatch):
    monkeypatch.setattr("soulsai.doctor.checks.EXPIRES_DAYS", 1000)
    place = ("--client", "--secrets", server.secrets, "--redis")
    _, findings = doctor(*place, f"rediss://localhost:{server.tls_port}")
    assert findings["certificate"]["state"] == "warning"
    code, findings = doctor(*place, f"rediss://localhost:{server.port}")
    assert code == 1
    assert "TLS port" in findings["certificate"]["mend"]


@pytest.mark.parametrize(
    ("changes", "check", "state", "said"),
    [
        ({"protocol": PROTOCOL + 1}, "protocol", "warning", "update the client before"),
        (
            {"protocol": PROTOCOL + 1, "oldest_protocol": PROTOCOL + 1},
            "protocol", "failure", "update the client",
        ),
        ({"protocol": PROTOCOL - 1, "oldest_protocol": 0}, "protocol", "failure", "the server,"),
        (
            {"environment": EnvironmentOffer("evil:Env")},
            "environment", "failure", "does not allow",
        ),
        ({"environment": EnvironmentOffer("CartPole-v1")}, "environment", "failure", "not that of"),
        ({"signer": None}, "signature", "failure", "is missing"),
    ],
)  # fmt: skip
def test_a_run_that_does_not_fit(a_run, invite, doctor, changes, check, state, said):
    a_run.publish(**changes)
    code, findings = doctor("--invite", invite)
    assert findings[check]["state"] == state
    assert said in findings[check]["said"]
    assert code == 1 or state == "warning"


def test_values_of_this_client_must_be_listed_by_the_run(a_run, invite, doctor):
    a_run.publish()
    code, findings = doctor("--invite", invite, "--env", TOY, "--set", "client.kwargs.length=5")
    assert code == 1
    assert (
        "client.kwargs.length: the run lets clients set nothing" in findings["environment"]["said"]
    )
    a_run.publish(environment=EnvironmentOffer(TOY, {"length": 8}, ("length",)))
    code, findings = doctor("--invite", invite, "--env", TOY, "--set", "client.kwargs.length=5")
    assert (code, findings["environment"]["state"]) == (0, "ok")


def test_no_run_is_a_warning(server, invite, doctor):
    link = server.link("training_node")
    link.execute("UNLINK", "soulsai:{soulsai}:spec")
    link.close()
    code, findings = doctor("--invite", invite)
    assert (code, bad(findings)) == (0, {"run": "warning"})


def test_users_of_an_older_version_lack_rights(server, a_run, doctor):
    a_run.publish()
    file = server.folder / "old.invite"
    assert server.command("enroll", "old", "--out", file) == 0
    link = server.link()
    link.execute("ACL", "SETUSER", "c-old", "clearselectors", "(%W~soulsai:{*}:exp:old +xadd)")
    link.close()
    code, findings = doctor("--invite", file)
    assert code == 1
    assert "may not GETRANGE soulsai:{soulsai}:spec" in findings["client rights"]["said"]
    assert "soulsai enroll old --renew" in findings["client rights"]["mend"]


EARLIER = (  # selectors of clients before they could read how far the training node has come
    "(%R~soulsai:{*}:spec %R~soulsai:{*}:program %R~soulsai:{*}:manifest %R~soulsai:{*}:model* "
    "%R~soulsai:{*}:control %R~soulsai:{*}:notice:old2 +getrange)",
    "(%W~soulsai:{*}:exp:old2 +xadd)",
)


def test_an_invite_of_an_earlier_release_is_told_what_it_lacks(server, a_run, doctor):
    a_run.publish()
    file = server.folder / "old2.invite"
    assert server.command("enroll", "old2", "--out", file) == 0
    link = server.link()
    link.execute("ACL", "SETUSER", "c-old2", "clearselectors", *EARLIER)
    link.close()
    code, findings = doctor("--invite", file, "--env", TOY)
    assert (code, bad(findings)) == (0, {"client rights": "warning"})
    assert "may not read soulsai:{soulsai}:received:old2" in findings["client rights"]["said"]
    assert "notice" not in findings["client rights"]["said"]
    assert "soulsai enroll old2 --renew" in findings["client rights"]["mend"]
    assert server.command("enroll", "old2", "--renew", "--out", file) == 0
    code, findings = doctor("--invite", file, "--env", TOY)
    assert (code, bad(findings)) == (0, {})


def test_users_of_an_earlier_release_lack_it_for_all_with_the_common_secret(server, a_run, doctor):
    a_run.publish()
    here = ("--client", "--redis", server.url, "--secrets", server.secrets, "--env", TOY)
    assert bad(doctor(*here)[1]) == {}, "no invite, so no mend of invites"
    link = server.link()
    selectors = (rule.replace("old2", "*").replace(":notice:*", ":other") for rule in EARLIER)
    try:
        link.execute("ACL", "SETUSER", "client", "clearselectors", *selectors)
        code, findings = doctor(*here)
    finally:
        link.execute("ACL", "SETUSER", "client", *user_rules("client", server.password("client")))
        link.close()
    assert bad(doctor(*here)[1]) == {}
    assert (code, bad(findings)) == (0, {"client rights": "warning"})
    found = findings["client rights"]
    assert ":notice:" in found["said"]
    assert ":received:" in found["said"]
    assert "soulsai secrets init" in found["mend"]
    assert "enroll" not in found["mend"]


def test_an_invite_for_every_run_and_streams_of_no_run_are_told(server, a_run, doctor, capsys):
    a_run.publish()
    file = server.folder / "wide.invite"
    assert server.command("enroll", "wide", "--runs", "*", "--out", file) == 0
    code, findings = doctor("--invite", file, "--env", TOY)
    assert (code, bad(findings)) == (0, {"client rights": "warning"})
    assert "soulsai enroll wide --renew" in findings["client rights"]["mend"]
    link = server.link("client")
    link.execute("XADD", "soulsai:{nobody-knows-it}:exp:c1", "*", "d", b"x")
    link.close()
    here = ("--redis", server.url, "--secrets", server.secrets)
    assert "1 streams" in doctor(*here)[1]["streams"]["said"]
    assert server.command("revoke", "--foreign") == 0
    assert "soulsai:{nobody-knows-it}:exp:c1" in capsys.readouterr().out
    assert doctor(*here)[1]["streams"]["state"] == "ok"


def test_a_server_with_one_password_for_everything(tmp_path, doctor):
    settings = ("user default on >chosen-by-the-user ~* &* +@all",)
    with guarded(tmp_path, TLS_KIND, settings=settings, start=False) as server:
        for file in server.secrets.iterdir():
            if file.is_file():
                file.unlink()
        (server.secrets / "redis.secret").write_text("requirepass chosen-by-the-user\n")
        server.start()
        for side in ("--client", "--server"):
            _, findings = doctor(side, "--redis", server.url, "--secrets", server.secrets)
            (found,) = (one for check, one in findings.items() if check.endswith("rights"))
            assert found["state"] == "warning"
            assert "may do anything" in found["said"]


def test_a_server_that_throws_away_what_it_likes(tmp_path, doctor):
    settings = ("maxmemory 50mb", "maxmemory-policy allkeys-lru")
    with guarded(tmp_path, TLS_KIND, settings=settings) as server:
        (server.secrets / "operator.secret").write_text("requirepass wrong\n")
        code, findings = doctor("--redis", server.url, "--secrets", server.secrets)
    assert code == 1
    assert findings["memory"]["state"] == "failure"
    assert findings["durability"]["state"] == "warning"
    assert findings["operator"]["state"] == "failure"
    assert "secrets init" in findings["operator"]["mend"]


def test_nothing_is_left_behind(server, a_run, invite, doctor):
    a_run.publish()
    link = server.link("training_node")
    before = sorted(link.execute("SCAN", 0, "COUNT", 1000)[1])
    doctor("--invite", invite, "--env", TOY)
    doctor("--redis", server.url, "--secrets", server.secrets)
    assert sorted(link.execute("SCAN", 0, "COUNT", 1000)[1]) == before
    link.close()
