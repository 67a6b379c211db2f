"""No secret gets where it does not belong: layers, logs, environment, arguments."""

import re
import subprocess

import pytest

from tests.stack.stack_cases import CORE, MONITORING, run

pytestmark = pytest.mark.stack

# Prints every process's arguments and environment, where we may see them.
PROCESSES = "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'"


def secrets(stack):
    found = {}
    for file in (stack.folder / "config/secrets").iterdir():
        if file.suffix in (".secret", ".token", ".key"):
            found[file.name] = file.read_text().split()[-1]
    assert len(found) >= 9
    assert all(len(secret) >= 32 for secret in found.values())
    return found


def test_the_canary_finds_a_secret_where_there_is_one(stack):
    redis = stack.containers()["redis"][0]
    seen = stack.execute(redis, "cat /run/secrets/metrics.secret")
    assert hits(secrets(stack), seen) == ["metrics.secret"]


def test_no_secret_is_in_logs_settings_arguments_or_environment(stack):
    known = secrets(stack)
    for files in (CORE, MONITORING):
        assert not hits(known, stack.compose(files, "logs"))
        assert not hits(known, stack.compose(files, "config"))
    for container in stack.names():
        assert not hits(known, run("docker", "inspect", container, cwd="/"))
        assert not hits(known, stack.execute(container, PROCESSES)), container


def test_no_secret_is_in_what_a_run_leaves(stack):
    known = secrets(stack)
    for file in (stack.folder / "saves").rglob("*"):
        if file.is_file() and file.suffix in (".json", ".jsonl", ".log", ".msgpack"):
            assert not hits(known, file.read_text(errors="replace")), file


@pytest.mark.parametrize("image", ["soulsai-node:local", "soulsai-client:local"])
def test_no_secret_is_in_the_layers_of_an_image(stack, image):
    known = re.compile("|".join(map(re.escape, secrets(stack).values())).encode())
    longest = 200
    with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saving:
        before = b""
        while block := saving.stdout.read(1 << 24):
            assert not known.search(before + block)
            before = block[-longest:]
    assert saving.returncode == 0
    history = run("docker", "history", "--no-trunc", image, cwd="/")
    assert not known.search(history.encode())
    listed = run(
        *("docker", "run", "--rm", "--network=none", "--entrypoint", "find", image),
        *("/app", "/opt", "/root", "/run", "-name", "*.secret", "-o", "-name", "*.token"),
        *("-o", "-name", "users.acl", "-o", "-name", ".env", "-o", "-name", ".git"),
        cwd="/",
        check=False,
    )
    assert listed.split() == []


def hits(known, text):
    return [name for name, secret in known.items() if secret in text]
