"""The client's bundle, in a root folder with nothing but the C library: no Python, no package."""

import re
import shutil
import subprocess

import psutil
import pytest

from tests.documents.blocks import ROOT
from tests.documents.machines import Machine, copy_checkout
from tests.documents.test_run_blocks import until_learnt_from

pytestmark = [pytest.mark.dist, pytest.mark.timeout(1800)]

BUNDLE = ROOT / "build" / "soulsai-client"
MOST_MB = 120
LIBRARIES = ("librt.so.1", "libm.so.6", "libresolv.so.2", "libnss_files.so.2")
SECONDS = 120


@pytest.fixture
def bare(tmp_path):
    """Return a root folder with the bundle and the C library."""
    assert BUNDLE.is_file(), "run `make client-bundle`"
    root = tmp_path / "root"
    for folder in ("tmp", "etc", "dev", "proc"):
        (root / folder).mkdir(parents=True)
    shutil.copy2(BUNDLE, root / BUNDLE.name)
    linked = subprocess.run(["ldd", str(BUNDLE)], capture_output=True, text=True, check=True).stdout
    known = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    files = re.findall(r"(/\S+) \(", linked)
    for name in LIBRARIES:
        files += re.findall(rf"{re.escape(name)} .*x86-64.* => (\S+)", known)[:1]
    for file in files:
        (root / file[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, root / file[1:])
    (root / "etc" / "hosts").write_text("127.0.0.1 localhost\n")
    return root


def within(root, *words, **more):
    apart = ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child"]
    enter = 'mount -t proc proc "$1/proc" && exec chroot "$@"'
    command = [*apart, "sh", "-c", enter, "sh", str(root), f"/{BUNDLE.name}"]
    return subprocess.Popen(
        [*command, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more
    )


def test_it_is_small_and_starts(bare):
    assert BUNDLE.stat().st_size <= MOST_MB * 1e6
    inside = [file for file in bare.rglob("*") if file.is_file()]
    assert not [file for file in inside if "python" in file.name]
    said, _ = within(bare, "--version").communicate(timeout=SECONDS)
    assert re.fullmatch(r"soulsai \S+\n", said), said
    for env in ("LunarLander-v3", "CartPole-v1"):
        said, _ = within(bare, "check-env", env).communicate(timeout=SECONDS)
        assert f"OK: {env} played" in said, said


def test_it_plays_by_an_invite(bare, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    copy_checkout(source)
    wheels = tmp_path / "wheels"
    subprocess.run(["pip", "wheel", "-q", "--no-deps", "-w", str(wheels), str(source)], check=True)
    server = Machine(tmp_path / "server", wheels)
    try:
        server.run('pip install "soulsai[server,box2d]"')
        server.run("soulsai serve --host localhost")
        server.going[-1].until("waiting", SECONDS)
        server.run("soulsai enroll lab --out lab.invite")
        shutil.copy(server.folder / "lab.invite", bare / "lab.invite")
        client = within(bare, "client", "--invite", "/lab.invite")
        try:
            until_learnt_from(server)
        finally:
            for inside in psutil.Process(client.pid).children():  # unshare itself ignores SIGTERM
                inside.terminate()
            said, _ = client.communicate(timeout=60)
        assert "environment=LunarLander-v3" in said
        server.leave_all()
    finally:
        server.kill_all()
