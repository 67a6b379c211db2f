"""What ``soulsai secrets init`` makes: complete, kept the next time, and for those meant."""

import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from soulsai.errors import ConfigError
from soulsai.identity.folder import init, replace_user
from soulsai.wire.names import ROLES, user_line
from soulsai.wire.redis.server_settings import local_url
from soulsai.wire.secrets import file_of, read_secret
from soulsai.wire.signing import read_signer

REPOSITORY = Path(__file__).parents[3]
NOW = datetime(2026, 11, 22, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "new" / "secrets"


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def certificate(path):
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_every_role_has_a_secret_and_a_user(folder):
    made = init(folder, now=NOW)
    users = (folder / "users.acl").read_text()
    passwords = {read_secret(file_of(folder, role)) for role in ROLES}
    assert len(passwords) == len(ROLES)
    assert all(len(password) >= 43 for password in passwords), "256 bits"
    assert not any(password in users for password in passwords)
    assert [line.split()[1] for line in users.splitlines()] == ["default", *ROLES]
    for role in ROLES:
        assert user_line(role, read_secret(file_of(folder, role))) in users
        assert file_of(folder, role).read_text().startswith("requirepass ")
    assert set(made.made) >= {file_of(folder, role).name for role in ROLES}
    assert not (folder / "ca.pem").exists(), "nobody has named a host"


def test_a_second_time_changes_nothing(folder):
    init(folder, hosts=["train.example.org"], now=NOW)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    made = init(folder, now=NOW + timedelta(days=100))
    after = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert after == before
    assert made.made == ()


def test_the_users_own_password_and_enrolled_clients_stay(folder):
    folder.mkdir(parents=True)
    (folder / "redis.secret").write_text("requirepass chosen by the user\n")
    init(folder, now=NOW)
    lab = user_line("client", "secret", "lab")
    users = folder / "users.acl"
    users.write_text(f"{users.read_text()}{lab}\nuser mallory on nopass ~* +@all\n")
    file_of(folder, "operator").unlink()
    made = init(folder, now=NOW)
    assert read_secret(folder / "redis.secret") == "chosen by the user"
    assert made.enrolled == ("lab",)
    assert made.made == ("operator.secret",)
    assert users.read_text().splitlines()[-1] == lab
    assert "mallory" not in users.read_text(), "whoever is nobody's user"


def test_secrets_are_for_us_alone_or_for_containers_but_never_the_keys_to_everything(folder):
    init(folder, hosts=["h"], now=NOW)
    assert mode(folder) == 0o700
    public = {"ca.pem", "server.pem", "manifest.pub", "address"}
    assert {path.name for path in folder.iterdir() if mode(path) not in (0o600, 0o700)} == public
    init(folder, hosts=["h"], now=NOW, for_containers=True)
    assert mode(folder) == 0o700, "only what is mounted can be read"
    private = {path.name for path in folder.iterdir() if mode(path) == 0o600}
    assert private == {"admin.secret", "ca.key", "redis.conf"}
    init(folder, hosts=["h"], now=NOW)
    assert {path.name for path in folder.iterdir() if mode(path) not in (0o600, 0o700)} == public


def test_without_a_common_secret_there_is_no_common_user(folder):
    made = init(folder, now=NOW, enrolled_only=True)
    assert not (folder / "redis.secret").exists()
    assert "user client " not in (folder / "users.acl").read_text()
    assert "redis.secret" not in made.made


def test_the_signing_key_and_its_public_half_belong_together(folder):
    init(folder, now=NOW)
    key = read_signer(folder / "manifest.key")
    assert (folder / "manifest.pub").read_text() == f"{key.public}\n"
    assert read_secret(folder / "manifest.key") not in repr(key)
    (folder / "manifest.pub").write_text("ed25519:another")
    init(folder, now=NOW)
    assert (folder / "manifest.pub").read_text() == f"{key.public}\n"


@pytest.mark.parametrize("text", ["", "ed25519:", "ed25519:AAAA", "rsa:x", "ed25519:" + "!" * 43])
def test_a_damaged_key_is_said_and_not_replaced(folder, text):
    init(folder, now=NOW)
    (folder / "manifest.key").write_text(text)
    with pytest.raises(ConfigError, match=r"manifest\.key"):
        init(folder, now=NOW)


def test_certificates_are_of_our_own_authority(folder):
    init(folder, hosts=["train.example.org", "10.0.0.7"], port=6390, now=NOW)
    assert (folder / "address").read_text() == "rediss://train.example.org:6390\n"
    authority, server = certificate(folder / "ca.pem"), certificate(folder / "server.pem")
    server.verify_directly_issued_by(authority)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["train.example.org", "localhost"]
    addresses = map(str, names.get_values_for_type(x509.IPAddress))
    assert list(addresses) == ["10.0.0.7", "127.0.0.1"]
    assert server.not_valid_after_utc - NOW < timedelta(days=398)


def test_an_address_of_numbers_is_written_as_one(folder):
    init(folder, hosts=["::1"], now=NOW)
    assert (folder / "address").read_text() == "rediss://[::1]:6380\n"


def test_the_server_is_vouched_for_anew_before_the_end_and_for_another_name(folder):
    init(folder, hosts=["h"], now=NOW)
    authority, server = ((folder / name).read_bytes() for name in ("ca.pem", "server.pem"))
    assert set(init(folder, now=NOW + timedelta(days=370)).made) == {"server.key", "server.pem"}
    renewed = (folder / "server.pem").read_bytes()
    assert renewed != server
    made = init(folder, hosts=["other"], now=NOW + timedelta(days=370)).made
    assert set(made) == {"server.key", "server.pem", "address"}
    assert (folder / "ca.pem").read_bytes() == authority, "clients know this one"


def test_a_certificate_of_another_authority_is_replaced(folder, tmp_path):
    init(folder, hosts=["h"], now=NOW)
    init(tmp_path / "other", hosts=["h"], now=NOW)
    (tmp_path / "other" / "server.pem").replace(folder / "server.pem")
    assert set(init(folder, now=NOW).made) == {"server.key", "server.pem"}


@pytest.mark.parametrize("name", ["ca.pem", "server.pem", "ca.key", "users.acl", "operator.secret"])
def test_a_damaged_file_is_said_by_name(folder, name):
    init(folder, hosts=["h"], now=NOW)
    (folder / name).write_bytes(b"\xff\xfe nonsense")
    with pytest.raises(ConfigError, match=name):
        init(folder, hosts=["another"], now=NOW)


@pytest.mark.parametrize("host", ["bücher.example", "\udcff"])
def test_what_is_no_name_for_a_certificate_is_refused(folder, host):
    with pytest.raises(ConfigError, match="--host"):
        init(folder, hosts=[host], now=NOW)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "secrets").write_text("")
    with pytest.raises(ConfigError, match="is not a folder"):
        init(tmp_path / "secrets", now=NOW)


def test_two_who_change_the_users_at_once_lose_nothing(folder):
    init(folder, now=NOW)

    def enroll(part):
        for number in range(40):
            name = f"client-{part}-{number}"
            replace_user(folder / "users.acl", name, f"user {name} on nopass")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(enroll, range(4)))
    lines = (folder / "users.acl").read_text().splitlines()
    assert len([line for line in lines if line.endswith("on nopass")]) == 160


def test_a_password_that_the_user_put_into_config_becomes_the_common_one(folder):
    folder.parent.mkdir()
    (folder.parent / "redis.secret").write_text("requirepass our-own-long-password\n")
    made = init(folder, now=NOW)
    assert read_secret(folder / "redis.secret") == "our-own-long-password"
    assert user_line("client", "our-own-long-password") in (folder / "users.acl").read_text()
    assert "redis.secret" in made.made


def test_two_passwords_that_differ_are_an_error_before_anything_is_written(folder):
    folder.mkdir(parents=True)
    for place, word in ((folder, "one"), (folder.parent, "two")):
        (place / "redis.secret").write_text(f"requirepass {word}\n")
    with pytest.raises(ConfigError, match=r"secrets/redis\.secret and .*new/redis\.secret hold"):
        init(folder, now=NOW)
    assert [file.name for file in folder.iterdir()] == ["redis.secret"]
    (folder.parent / "redis.secret").write_text("one")
    init(folder, now=NOW)  # the same, written otherwise


def test_the_servers_settings_are_complete_and_follow_until_the_user_changes_them(folder):
    made = init(folder, now=NOW)
    file = folder / "redis.conf"
    assert "redis.conf" in made.made
    assert (folder / "data").is_dir()
    assert local_url(file) == "redis://localhost:6379"
    assert "bind 127.0.0.1 -::1\n" in file.read_text(), "plain text stays on this machine"
    init(folder, hosts=["train.example.org"], now=NOW)
    assert local_url(file) == "rediss://localhost:6380"
    assert "port 0\n" in file.read_text(), "no plain port that bind would open to the network"
    assert "redis.conf" in init(folder, port=7000, now=NOW).made
    assert local_url(file) == "rediss://localhost:7000"
    assert "redis.conf" not in init(folder, now=NOW).made
    assert local_url(file) == "rediss://localhost:7000"
    own = file.read_text().replace("maxmemory 1536mb", "maxmemory 8gb")
    file.write_text(own)
    init(folder, hosts=["train.example.org"], port=7001, now=NOW)
    assert file.read_text() == own


def test_the_servers_settings_have_the_limits_of_the_deployed_ones(folder):
    init(folder, hosts=["h"], now=NOW)
    written = set((folder / "redis.conf").read_text().splitlines())
    deployed = (REPOSITORY / "deploy" / "redis" / "redis.conf").read_text().splitlines()
    own = ("bind", "port", "protected-mode", "aclfile", "dir", "timeout", "#")
    assert {line for line in deployed if line and not line.startswith(own)} <= written


def test_without_a_server_of_our_own_there_are_no_settings_of_it(folder):
    init(folder, now=NOW, with_server=False)
    assert not (folder / "redis.conf").exists()
    assert not (folder / "data").exists()


@pytest.mark.parametrize("text", ["", "port 0\n", "maxmemory 1gb\n", "port x\n"])
def test_settings_without_a_port_are_said_by_name(folder, text):
    init(folder, now=NOW)
    (folder / "redis.conf").write_text(text)
    with pytest.raises(ConfigError, match=r"redis\.conf"):
        local_url(folder / "redis.conf")
