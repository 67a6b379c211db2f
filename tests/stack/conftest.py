"""The stack that tests of the stack share: core, monitoring, and a fleet of four."""

import pytest

from tests.stack.stack_cases import CORE, MONITORING, Stack

FLEET = 4


@pytest.fixture(scope="session")
def stack(tmp_path_factory):
    stack = Stack(tmp_path_factory.mktemp("stack") / "soulsai")
    try:
        stack.setup()
        stack.up(CORE, "--scale", f"client={FLEET}")
        stack.up(MONITORING)
        yield stack
    finally:
        stack.down()
