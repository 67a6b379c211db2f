"""Where passwords are found, what a secret file may say, and that none is ever shown."""

import os
from pathlib import Path

import msgspec
import pytest
from redis.exceptions import AuthenticationError

from soulsai.config.schema import RedisSettings
from soulsai.errors import AccessDenied, ConfigError, CredentialsRefused
from soulsai.wire.invite import Invite
from soulsai.wire.names import ROLES
from soulsai.wire.redis.connection import RedisConnection
from soulsai.wire.secrets import PASSWORD_FILE, Server, read_secret, server_for, write_secret


@pytest.mark.parametrize(
    ("text", "password"),
    [
        ("requirepass hunter2", "hunter2"),
        ("requirepass hunter2\n", "hunter2"),
        ("requirepass hunter2\r\n", "hunter2"),
        ("  requirepass   hunter2  \n\n", "hunter2"),
        ('requirepass "with space"\n', "with space"),
        ("REQUIREPASS hunter2", "hunter2"),
        ("hunter2", "hunter2"),
        ("hunter2\n", "hunter2"),
        ("with space\n", "with space"),
        ("pässword\n", "pässword"),
    ],
)
def test_a_secret_is_one_line(tmp_path, text, password):
    path = tmp_path / "redis.secret"
    path.write_bytes(text.encode())
    assert read_secret(path) == password


@pytest.mark.parametrize(
    "data",
    [b"", b"\n", b"requirepass", b'requirepass ""', b"a\nb", b"\xff\xfe", b"a\0b", b"x" * 5000],
)
def test_anything_else_is_refused_without_repeating_it(tmp_path, data):
    path = tmp_path / "redis.secret"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"redis\.secret") as caught:
        read_secret(path)
    assert "xxx" not in str(caught.value)


def test_a_folder_is_no_secret(tmp_path):
    with pytest.raises(ConfigError):
        read_secret(tmp_path)


def test_a_secret_is_written_for_us_alone(tmp_path):
    path = tmp_path / "redis.secret"
    path.write_text("older and readable")
    path.chmod(0o644)
    write_secret(path, "hunter2")
    assert read_secret(path) == "hunter2"
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_a_server_does_not_show_its_password():
    server = Server("redis://host:6379", "client", "hunter2")
    assert "hunter2" not in repr(server)
    assert "hunter2" not in str(server)


@pytest.fixture
def redis(tmp_path):
    (tmp_path / "secrets").mkdir()
    return RedisSettings(url="rediss://host", secrets=str(tmp_path / "secrets"), ca_file="ca.pem")


def put(redis, name, password):
    write_secret(Path(redis.secrets) / name, password)


def test_without_a_secret_there_is_no_password(redis):
    for role in ROLES:
        assert server_for(role, redis, {}) == Server("rediss://host", "", "", "ca.pem")


def test_the_common_secret_opens_the_client_and_plain_servers(redis):
    put(redis, "redis.secret", "common")
    assert server_for("client", redis, {}) == Server("rediss://host", "client", "common", "ca.pem")
    for role in ("training_node", "telemetry_node", "operator"):
        assert server_for(role, redis, {}) == Server("rediss://host", "", "common", "ca.pem")


def test_a_node_with_its_own_secret_is_its_own_user(redis):
    put(redis, "redis.secret", "common")
    put(redis, "training_node.secret", "own")
    put(redis, "client.secret", "never used")
    server = server_for("training_node", redis, {})
    assert (server.username, server.password) == ("training_node", "own")
    assert server_for("operator", redis, {}).password == "common"
    assert server_for("client", redis, {}).password == "common"


def test_only_a_client_refuses_to_speak_in_the_clear(redis):
    put(redis, "redis.secret", "common")
    plain = msgspec.structs.replace(redis, url="redis://host")
    with pytest.raises(ConfigError, match="--insecure"):
        server_for("client", plain, {})
    server_for("client", msgspec.structs.replace(plain, insecure=True), {})
    server_for("training_node", plain, {})  # beside the server, in a network of containers


def test_what_the_server_gave_us_to_know_it_by_is_found_beside_the_secret(redis):
    put(redis, "redis.secret", "common")
    folder = Path(redis.secrets)
    (folder / "manifest.pub").write_text("ed25519:x\n")
    (folder / "ca.pem").write_text("PEM")
    named = msgspec.structs.replace(redis, ca_file="")
    server = server_for("client", named, {})
    assert (server.public_key, server.ca_file) == ("ed25519:x", str(folder / "ca.pem"))
    assert server_for("training_node", named, {}).public_key == "", "it has the private one"
    assert server_for("client", redis, {}).ca_file == "ca.pem", "what is set comes first"
    plain = msgspec.structs.replace(named, url="redis://localhost")
    assert server_for("client", plain, {}).ca_file == ""


def test_a_file_named_by_the_environment_comes_first(redis, tmp_path):
    put(redis, "redis.secret", "common")
    other = tmp_path / "other"
    write_secret(other, "named")
    assert server_for("client", redis, {PASSWORD_FILE: str(other)}).password == "named"


def test_a_named_file_that_is_not_there_is_an_error(redis, tmp_path):
    with pytest.raises(ConfigError, match=PASSWORD_FILE):
        server_for("client", redis, {PASSWORD_FILE: str(tmp_path / "missing")})
    put(redis, "redis.secret", "common")
    with pytest.raises(ConfigError, match=PASSWORD_FILE):
        server_for("client", redis, {PASSWORD_FILE: str(tmp_path / "missing")})


def test_a_file_that_a_killed_process_left_does_not_block_the_next(tmp_path):
    path = tmp_path / "redis.secret"
    # In a container the next process has the number of the one that was killed.
    (tmp_path / f".redis.secret.{os.getpid()}.new").touch()
    write_secret(path, "second")
    assert read_secret(path) == "second"
    assert path.stat().st_mode & 0o777 == 0o600


def test_without_a_password_the_places_are_named(tmp_path):
    redis = RedisSettings(url="redis://127.0.0.1", secrets=str(tmp_path))
    server = server_for("training_node", redis, {})
    for place in ("training_node.secret", "redis.secret", "/run/secrets/redis_secret"):
        assert place in server.source
    error = RedisConnection(server, "t").translated(AuthenticationError("NOAUTH"))
    assert isinstance(error, AccessDenied)
    assert "none was sent: no file" in str(error)
    write_secret(tmp_path / "redis.secret", "common")
    error = RedisConnection(server_for("client", redis, {}), "t").translated(
        AuthenticationError("WRONGPASS")
    )
    assert f"refuses the password in {tmp_path / 'redis.secret'}: copy" in str(error)
    write_secret(tmp_path / "operator.secret", "own")
    error = RedisConnection(server_for("operator", redis, {}), "t").translated(
        AuthenticationError("WRONGPASS")
    )
    assert "operator.secret: start the server with the users.acl" in str(error)
    invite = Invite("redis://127.0.0.1", "run", "lab", "password")
    error = RedisConnection(invite.server(redis), "t").translated(AuthenticationError("WRONGPASS"))
    assert "refuses the invite of lab: it was revoked or replaced" in str(error)
    assert isinstance(error, CredentialsRefused)
    assert error.exit_code == 5


def test_the_common_secret_may_lie_in_config_itself(tmp_path):
    settings = RedisSettings(url="redis://localhost", secrets=str(tmp_path / "config" / "secrets"))
    (tmp_path / "config" / "secrets").mkdir(parents=True)
    write_secret(tmp_path / "config" / "redis.secret", "common")
    for role in ("client", "training_node"):
        server = server_for(role, settings, {})
        assert (server.password, server.source) == (
            "common", str(tmp_path / "config" / "redis.secret"),
        )  # fmt: skip
    write_secret(tmp_path / "config" / "secrets" / "redis.secret", "common")
    assert server_for("client", settings, {}).password == "common"


def test_two_common_secrets_that_differ_are_an_error_that_names_both(tmp_path):
    folder = tmp_path / "config" / "secrets"
    folder.mkdir(parents=True)
    write_secret(folder.parent / "redis.secret", "one")
    write_secret(folder / "redis.secret", "two")
    settings = RedisSettings(url="redis://localhost", secrets=str(folder))
    with pytest.raises(ConfigError, match=r"secrets.redis\.secret and .*config.redis\.secret hold"):
        server_for("client", settings, {})
