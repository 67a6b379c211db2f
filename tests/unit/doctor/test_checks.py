"""The judgements of ``soulsai doctor`` that need no server: clocks, speed, disks, secrets."""

from types import SimpleNamespace

import pytest

from soulsai.doctor import checks
from soulsai.doctor.checks import server_version
from soulsai.doctor.command import CLIENT_PACKAGES
from soulsai.errors import AccessDenied, Unreachable


class FakeLink:
    """Answers every question with the same, taking so many seconds for each byte."""

    def __init__(self, answer=None, error=None, per_byte=0.0, delay=0.0):
        self.now, self._answer, self._error = 0.0, answer, error
        self._per_byte, self._delay = per_byte, delay

    def execute(self, *words):
        if self._error is not None:
            raise self._error
        self.now += self._delay + self._per_byte * sum(len(word) for word in words[1:])
        return self._answer


@pytest.mark.parametrize(
    ("ours", "state", "said"),
    [
        (1000.0, "ok", "within 0.0 s"),
        (1030.0, "ok", "within 30.0 s"),
        (8200.0, "warning", "7,200 s ahead of"),
        (1000.0 - 86400 * 365 * 10, "warning", "behind"),
    ],
)
def test_clocks_are_compared_with_the_servers(ours, state, said):
    found = checks.clock_skew(FakeLink([b"1000", b"0"]), lambda: ours)
    assert found.state == state
    assert said in found.said


def test_a_server_that_does_not_tell_its_time_is_no_failure():
    found = checks.clock_skew(FakeLink(error=AccessDenied("no")), lambda: 0.0)
    assert found.state == "warning"


@pytest.mark.parametrize(
    ("link", "state"),
    [
        (FakeLink(per_byte=1e-9, delay=0.001), "ok"),
        (FakeLink(per_byte=1e-9, delay=1.5), "warning"),
        (FakeLink(per_byte=1e-4, delay=0.001), "warning"),
        (FakeLink(error=Unreachable("gone")), "failure"),
    ],
)
def test_a_slow_road_is_said(link, state):
    assert checks.speed(link, lambda: link.now).state == state


@pytest.mark.parametrize(
    ("free", "state"), [(5_000_000_000, "ok"), (500_000_000, "warning"), (1_000, "failure")]
)
def test_room_on_the_disk(tmp_path, monkeypatch, free, state):
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert checks.disk(tmp_path / "not" / "yet" / "there", "runs").state == state


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "saves").write_text("")
    assert checks.disk(tmp_path / "saves", "runs").state == "failure"


def test_what_is_not_installed_is_named_with_how_to_get_it():
    found = checks.software(("numpy", "surely_not_there"), "server")
    assert (found.state, found.mend) == ("failure", 'pip install "soulsai[server]"')
    assert "surely_not_there" in found.said
    assert checks.software(CLIENT_PACKAGES, "").state == "ok"


def secrets(folder, **files):
    folder.mkdir()
    folder.chmod(0o755)
    for name, mode in files.items():
        path = folder / f"{name}.secret"
        path.write_text(f"requirepass {'x' * 40}\n")
        path.chmod(mode)
    return folder


def test_secrets_that_others_can_read_are_said(tmp_path):
    folder = secrets(tmp_path / "open", redis=0o600, operator=0o644)
    (found,) = checks.secrets(folder)
    assert found.state == "warning"
    assert "operator.secret" in found.said
    assert "redis.secret" not in found.said
    folder.chmod(0o700)
    (found,) = checks.secrets(folder)
    assert found.state == "ok", "for containers: nobody else gets at them"
    (folder / "admin.secret").write_text(f"requirepass {'x' * 40}\n")
    (folder / "admin.secret").chmod(0o644)
    (found,) = checks.secrets(folder)
    assert "admin.secret" in found.said


def test_a_short_password_is_said_without_repeating_it(tmp_path):
    folder = secrets(tmp_path / "weak")
    (folder / "redis.secret").write_text("requirepass hunter2\n")
    (folder / "redis.secret").chmod(0o600)
    (found,) = checks.secrets(folder)
    assert found.state == "warning"
    assert "hunter2" not in found.said + found.mend


def test_no_secrets_are_nothing_to_judge(tmp_path):
    assert list(checks.secrets(tmp_path / "nothing")) == []


@pytest.mark.parametrize(
    ("told", "state"),
    [
        ({"redis_version": "7.0.15"}, "ok"),
        ({"redis_version": "7.0.14"}, "warning"),
        ({"redis_version": "7.4.0"}, "warning"),
        ({"redis_version": "8.6.3"}, "ok"),
        ({"redis_version": "6.2.14"}, "failure"),
        ({"redis_version": "7.2.4", "valkey_version": "9.1.2"}, "ok"),
        ({"redis_version": "7.2.4", "valkey_version": "7.2.5"}, "warning"),
        ({}, "failure"),
    ],
)
def test_servers_are_judged_by_their_version(told, state):
    assert server_version(told).state == state


def test_a_game_is_checked_before_a_fight_and_other_environments_are_not(monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    found = list(checks.game("soulsgym:SoulsGymIudex-v0"))
    assert (found[0].check, found[0].state) == ("game", "failure")
    assert "SoulsGym needs Windows" in found[0].said
    assert "soulsai.testing:SoulsGymIudex-v0" in found[0].mend
    (stand_in,) = checks.game("soulsai.testing:SoulsGymIudex-v0")
    assert stand_in.state == "ok"
    assert list(checks.game("CartPole-v1")) == []
