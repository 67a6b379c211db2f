"""Event files: the real TensorBoard reads them."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import crc32c as their_crc32c

from soulsai.telemetry_node.connectors import Point
from soulsai.telemetry_node.sinks.tensorboard import EventFile, crc32c

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.parametrize("data", [b"", b"a", b"123456789", bytes(range(256)) * 3])
def test_our_checksum_is_theirs(data: bytes) -> None:
    assert crc32c(data) == their_crc32c(data)
    assert crc32c(b"123456789") == 0xE3069283


def test_tensorboard_reads_what_we_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soulsai.telemetry_node.connectors.SHORTEST", 0.0)
    file = EventFile(tmp_path / "tensorboard")
    file.flush()
    for number in range(200):
        values = {"exploring/reward": number * 0.5 - 20.0, "exploring/café": float(number)}
        file.write(Point(1e9 + number, 240 * number, values))
    file.write(Point(1e9 + 300, 2**40, {"training/loss": 1e300}))
    file.close()

    reader = EventAccumulator(str(tmp_path / "tensorboard"), {"scalars": 0})
    reader.Reload()
    assert set(reader.Tags()["scalars"]) == {
        "exploring/reward", "exploring/café", "training/loss",
    }  # fmt: skip
    rewards = reader.Scalars("exploring/reward")
    assert [one.step for one in rewards] == [240 * number for number in range(200)]
    assert [one.value for one in rewards] == [number * 0.5 - 20.0 for number in range(200)]
    assert rewards[7].wall_time == 1e9 + 7
    assert reader.Scalars("training/loss")[0].step == 2**40


def test_nothing_told_is_no_file(tmp_path: Path) -> None:
    file = EventFile(tmp_path / "tensorboard")
    file.close()
    assert not (tmp_path / "tensorboard").exists()


def test_a_disk_that_is_full_is_an_error_for_the_connector(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="tensorboard"):
        EventFile(tmp_path / "tensorboard").write(Point(1.0, 1, {"x": 1.0}))
