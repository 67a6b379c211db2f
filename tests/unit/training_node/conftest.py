"""What the tests of the training node share: policies are exported in this process."""

import pytest

from soulsai.training_node import export_job


@pytest.fixture(autouse=True)
def exported_here(monkeypatch):
    """Export without another process, which takes ten times as long as the export.

    ``test_export_job`` has a fixture of this name that leaves it as it is.
    """
    monkeypatch.setattr(export_job, "exported", lambda job, *, keep: None)
