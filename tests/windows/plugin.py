"""A plugin of pytest: the tests run against soulsai as it is on Windows (make test-windows)."""

from tests.windows import simulation

simulation.install()


def pytest_collection_modifyitems(items, config):
    """Leave out the tests that one system alone can pass."""
    bound = [item for item in items if item.get_closest_marker("skipif")]
    config.hook.pytest_deselected(items=bound)
    items[:] = [item for item in items if item not in bound]
