"""The stack that tests of the stack share: core, monitoring, and a fleet of four."""

import pytest

from tests.stack.stack_cases import CORE, MONITORING, Stack, run

FLEET = 4


@pytest.fixture(scope="session")
def stack(tmp_path_factory):
    """Start as the original description says, word for word, and by our setup."""
    stack = Stack(tmp_path_factory.mktemp("stack") / "soulsai")
    try:
        stack.by_hand = run("docker", "network", "create", "train_server_net", cwd="/").strip()
        stack.password = "a-password-of-the-operators-own-choice"
        (stack.folder / "config/redis.secret").write_text(f"requirepass {stack.password}\n")
        stack.setup()
        stack.up(CORE, "--scale", f"client={FLEET}")
        stack.up(MONITORING)
        yield stack
    finally:
        stack.down()
