"""Clients are let in and shut out on a running server, and stay so when it starts again."""

import json
import threading
import time
from contextlib import suppress

import pytest
from redis.exceptions import NoPermissionError

from soulsai.config.schema import Config, RedisSettings
from soulsai.errors import AccessDenied, ConfigError, WireError
from soulsai.identity import folder as secrets_folder
from soulsai.identity.users import Enrolment, NotEnrolled, foreign_streams, page_enroller
from soulsai.wire.invite import Invite, from_line
from soulsai.wire.names import Keys
from soulsai.wire.protocols import Position
from soulsai.wire.redis.connection import RedisConnection, scan
from soulsai.wire.redis.roles import connect_client, connect_training
from soulsai.wire.secrets import Server, write_file
from soulsai.wire.signing import signer_in
from tests.system.identity_cases import KINDS, TLS_KIND, guarded, until

ADDRESS = "redis://127.0.0.1:1"


@pytest.fixture(params=KINDS)
def server(request, tmp_path):
    with guarded(tmp_path, request.param) as started:
        yield started


@pytest.fixture
def enrolment(server):
    link = server.link()
    yield Enrolment(link, server.secrets)
    link.close()


def as_client(server, name, password):
    return Server(server.url, f"c-{name}", password)


def gets_in(server, name, password) -> bool:
    link = RedisConnection(as_client(server, name, password), "t")
    try:
        return link.execute("PING") == b"PONG"
    except AccessDenied:
        return False
    finally:
        link.close()


def test_an_enrolled_client_has_its_own_stream_and_nothing_else(server, enrolment):
    password = enrolment.enroll("lab", run="soulsai")
    assert len(password) >= 43, "256 bits"
    link = RedisConnection(as_client(server, "lab", password), "t")
    link.execute("XADD", "soulsai:{soulsai}:exp:lab", "*", "d", "x")
    for words in (
        ("XADD", "soulsai:{soulsai}:exp:other", "*", "d", "x"),
        ("XADD", "soulsai:{soulsai}:exp:lab2", "*", "d", "x"),
        ("GET", "soulsai:{soulsai}:status"),
        ("ACL", "WHOAMI"),
        ("ACL", "SETUSER", "c-lab", "+@all"),
    ):
        with pytest.raises(AccessDenied):
            link.execute(*words)
    link.close()


def test_an_invite_holds_for_its_runs_alone(server, enrolment):
    for runs, allowed in (("soulsai", ["soulsai"]), ("dqn-*", ["dqn-1", "dqn-2"])):
        password = enrolment.enroll("lab", run=runs, renew=runs != "soulsai")
        link = RedisConnection(as_client(server, "lab", password), "t")
        for run in ("soulsai", "dqn-1", "dqn-2", "other"):
            add = ("XADD", f"soulsai:{{{run}}}:exp:lab", "*", "d", "x")
            weights = ("GETRANGE", f"soulsai:{{{run}}}:model", 0, 1)
            for command in (add, weights):
                if run in allowed:
                    link.execute(*command)
                else:
                    with pytest.raises(AccessDenied):
                        link.execute(*command)
            if run not in allowed:
                pubsub = link.subscribe([f"soulsai:{{{run}}}:model"])
                with pytest.raises(NoPermissionError):
                    pubsub.get_message(timeout=5)
                pubsub.close()
        link.close()
    with pytest.raises(ConfigError, match="--runs"):
        enrolment.enroll("two", run="a b")


def test_revoking_deletes_streams_and_foreign_ones_are_found(server, enrolment):
    client = connect_client(server.access("client"), "nobody-knows-it", "stray")
    client.push([(Position(1, 1), b"x")])
    lab = connect_client(as_client(server, "lab", enrolment.enroll("lab", run="*")), "x", "lab")
    lab.push([(Position(1, 1), b"x")])
    link = server.link("training_node")
    keys = ["soulsai:{nobody-knows-it}:exp:stray", "soulsai:{x}:exp:lab"]
    assert foreign_streams(link) == keys
    for key in (Keys("x").notice("lab"), Keys("x").received("lab")):
        link.execute("SET", key, b"1-1")
    enrolment.revoke("lab")
    assert enrolment.delete_streams("lab")
    assert not [key for key in scan(link, "*") if key.endswith(":lab")]
    assert foreign_streams(link) == keys[:1]
    assert enrolment.remove_foreign_streams() == keys[:1]
    assert foreign_streams(link) == []
    for wire in (client, link):
        wire.close()
    lab.close()


@pytest.mark.parametrize("crash", [True, False])
def test_who_is_enrolled_stays_so_when_the_server_starts_again(server, enrolment, crash):
    lab, other = enrolment.enroll("lab", run="soulsai"), enrolment.enroll("other", run="soulsai")
    enrolment.revoke("other")
    assert enrolment.keep()
    server.kill() if crash else server.process.terminate()
    server.process.wait()
    server.start()
    assert gets_in(server, "lab", lab)
    assert not gets_in(server, "other", other)
    assert gets_in(server, "lab", lab)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_users_that_the_server_cannot_write_is_kept_for_it(kind, tmp_path):
    # As in a container, into which only a copy of the file is mounted.
    copy = tmp_path / "mounted" / "users.acl"
    copy.parent.mkdir()
    with guarded(tmp_path, kind, settings=(f'aclfile "{copy}"',), start=False) as server:
        copy.write_text((server.secrets / "users.acl").read_text())
        server.start()
        copy.unlink()
        copy.mkdir()  # nobody can write a file there now
        link = server.link()
        enrolment = Enrolment(link, server.secrets)
        lab, other = (
            enrolment.enroll("lab", run="soulsai"),
            enrolment.enroll("other", run="soulsai"),
        )
        enrolment.revoke("other")
        assert enrolment.keep()
        link.close()
        server.kill()
        copy.rmdir()
        copy.write_text((server.secrets / "users.acl").read_text())
        server.start()
        assert gets_in(server, "lab", lab)
        assert not gets_in(server, "other", other)


def test_a_server_without_a_file_of_users_forgets_and_that_is_said(tmp_path, capsys):
    with guarded(tmp_path, KINDS[0], settings=("user default on nopass ~* &* +@all",),
                 start=False) as server:  # fmt: skip
        (server.secrets / "users.acl").unlink()
        (server.secrets / "admin.secret").unlink()
        (server.secrets / "redis.secret").unlink()
        server.start(ready=b"+PONG")
        assert server.command("enroll", "lab", "--address", ADDRESS) == 0
    said = capsys.readouterr()
    assert said.out.startswith("soulsai1:")
    assert "a restart of the server forgets this" in said.err


def test_nobody_is_enrolled_twice_but_may_get_a_new_password(server, enrolment):
    first = enrolment.enroll("lab", run="soulsai")
    with pytest.raises(NotEnrolled, match="enrolled already"):
        enrolment.enroll("lab", run="soulsai")
    assert gets_in(server, "lab", first)
    second = enrolment.enroll("lab", renew=True, run="soulsai")
    assert not gets_in(server, "lab", first)
    assert gets_in(server, "lab", second)
    enrolment.revoke("lab")
    assert not gets_in(server, "lab", second)
    with pytest.raises(NotEnrolled, match="lab is not enrolled"):
        enrolment.revoke("lab")


def test_a_demonstrator_is_listed_until_it_is_revoked_or_gets_another_role(server, capsys):
    listed = server.secrets / "demonstrators"
    role = ("--role", "demonstrator")
    assert server.command("enroll", "anna", "--address", ADDRESS, *role) == 0
    assert server.command("enroll", "bert", "--address", ADDRESS, *role) == 0
    assert listed.read_text().split() == ["anna", "bert"]
    assert server.command("enroll", "bert", "--address", ADDRESS, "--renew") == 0
    assert listed.read_text().split() == ["anna"]
    assert server.command("revoke", "anna") == 0
    assert listed.read_text() == ""
    assert server.command("revoke", "bert") == 0
    capsys.readouterr()


def test_revoked_clients_stop_within_a_second_and_the_others_go_on(server, enrolment):
    """S7: one of ten."""
    players = [
        Pusher(
            connect_client(
                as_client(server, name, enrolment.enroll(name, run="soulsai")), "soulsai", name
            )
        )
        for name in (f"c{number}" for number in range(10))
    ]
    for player in players:
        player.thread.start()
    until(lambda: all(player.pushed > 20 for player in players))
    revoked, *others = players
    began = time.monotonic()
    enrolment.revoke("c0")
    until(lambda: revoked.ended)
    stopped_after = revoked.ended - began
    before = [player.pushed for player in others]
    until(lambda: all(now.pushed > then + 20 for now, then in zip(others, before, strict=True)))
    assert [player.error for player in others] == [None] * 9
    for player in others:
        player.go_on = False
    for player in players:
        player.thread.join()
        player.wire.close()
    assert isinstance(revoked.error, AccessDenied)
    assert revoked.last - began < 1.0, "nothing of it was stored later"
    assert stopped_after < 1.0
    assert "revoked" in str(revoked.error)


class Pusher:
    """A client that speaks without end, in a thread, until it is told that it may not."""

    def __init__(self, wire):
        self.wire, self.go_on, self.error = wire, True, None
        self.pushed, self.last, self.ended = 0, 0.0, 0.0
        self.thread = threading.Thread(target=self.live)

    def live(self):
        position = None
        while self.go_on:
            try:
                if position is None:
                    position = self.wire._connection.execute(
                        "XADD", self.wire._stream, "*", "d", b"x"
                    )
                    epoch, seq = map(int, position.split(b"-"))
                seq += 1
                self.wire.push([(Position(epoch, seq), b"x")])
            except AccessDenied as error:
                self.error, self.ended = error, time.monotonic()
                return
            except WireError:
                continue
            self.pushed += 1
            self.last = time.monotonic()
            time.sleep(0.001)


def test_the_list_says_who_may_come_and_who_is_there(server, enrolment, capsys):
    assert [one.client for one in enrolment.clients()] == [""], "only the common secret"
    lab = enrolment.enroll("lab", run="soulsai")
    enrolment.enroll("away", run="soulsai")
    link = RedisConnection(as_client(server, "lab", lab), "t")
    link.execute("PING")
    listed = {one.client: one.connections for one in enrolment.clients()}
    assert listed == {"away": 0, "lab": 1, "": 0}
    assert server.command("clients") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "away  not connected"
    assert said[1].startswith("lab  1 connections")
    assert server.command("clients", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [one["client"] for one in listed] == ["away", "lab", ""]
    link.close()


def test_the_common_secret_can_be_shut_out(server, enrolment, capsys):
    shared = connect_client(server.access("client"), "soulsai", "anybody")
    assert shared.pointer() is None
    assert server.command("revoke", "--shared") == 0
    with suppress(WireError):
        shared.pointer()
    with pytest.raises(AccessDenied):
        shared.pointer()
    shared.close()
    assert [one.client for one in enrolment.clients()] == []
    assert server.command("clients") == 0
    assert "no client is enrolled" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["enroll", "Lab"], 2, "'Lab' is not a name"),
        (["enroll", "../lab"], 2, "is not a name"),
        (["enroll", "con"], 2, "is not a name"),
        (["enroll", "lab"], 2, "--address rediss://"),
        (["enroll", "lab", "--address", "http://x"], 2, "not an address"),
        (["revoke", "lab"], 1, "lab is not enrolled"),
        (["revoke"], 2, "name one client, or give --shared"),
        (["revoke", "lab", "--shared"], 2, "name one client, or give --shared"),
    ],
)
def test_what_cannot_be_done_is_one_line(server, enrolment, capsys, words, code, said):
    assert server.command(*words) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert [one.client for one in enrolment.clients()] == [""], "nothing has changed"


def test_without_the_admins_secret_nobody_is_enrolled(server, capsys):
    (server.secrets / "admin.secret").unlink()
    assert server.command("enroll", "lab", "--address", ADDRESS) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "admin.secret" in line


@pytest.mark.tools  # TLS needs Debian's redis-server
def test_the_invite_opens_the_door_over_tls_and_knows_the_right_server(tmp_path, capsys):
    with guarded(tmp_path, TLS_KIND, tls=True) as server:
        node = connect_training(
            server.access("training_node"), "soulsai", signer=signer_in(server.secrets)
        )
        assert server.command("enroll", "lab", "--out", tmp_path / "lab.invite") == 0
        said = capsys.readouterr()
        assert "lab.invite: written" in said.out
        assert (tmp_path / "lab.invite").stat().st_mode & 0o777 == 0o600
        invite = from_line((tmp_path / "lab.invite").read_text(), "test")
        assert invite.password not in said.out + said.err
        assert invite.url == f"rediss://localhost:{server.tls_port}"
        assert invite.password not in repr(invite)
        assert invite.key == (server.secrets / "manifest.pub").read_text().strip()
        wire = connect_client(invite.server(RedisSettings(url=invite.url)), "soulsai", "lab")
        assert wire.pointer() is None
        wire.close()
        node.close()


def test_a_fresh_invite_is_that_of_the_command(server, capsys):
    assert server.command("enroll", "lab", "--address", server.url) == 0
    invite = from_line(capsys.readouterr().out, "test")
    assert isinstance(invite, Invite)
    assert gets_in(server, "lab", invite.password)
    assert server.command("enroll", "lab", "--address", server.url, "--renew", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["lasting"] is True
    assert not gets_in(server, "lab", invite.password)
    assert gets_in(server, "lab", from_line(said["invite"], "test").password)


def test_the_page_of_a_node_that_has_the_secret_lets_in_and_shuts_out(server):
    settings = Config(redis=RedisSettings(url=server.url, secrets=str(server.secrets)))
    door = page_enroller(settings)
    assert door is not None
    assert not door.can_enroll()
    with pytest.raises(ConfigError, match="say where"):
        door.enroll("guest")
    write_file(server.secrets / secrets_folder.ADDRESS, f"{ADDRESS}\n")
    assert door.can_enroll()
    invited = from_line(door.enroll("guest"), "the page")
    assert gets_in(server, "guest", invited.password)
    with pytest.raises(NotEnrolled, match="enrolled already"):
        door.enroll("guest")
    assert "guest" in door.revoke("guest")
    assert not gets_in(server, "guest", invited.password)
    with pytest.raises(NotEnrolled, match="not enrolled"):
        door.revoke("guest")
    (server.secrets / "admin.secret").rename(server.secrets / "elsewhere")
    assert page_enroller(settings) is None
