"""What is kept in files comes back as it was, room is counted, and a disk that is full is told of."""

from pathlib import Path

import pytest
import torch

from planish.ir.errors import UsageError
from planish.passes import storage
from planish.passes.storage import Storage

ROW = torch.arange(6, dtype=torch.float32)


@pytest.fixture(autouse=True)
def _room_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_MOST_BYTES", ROW.nbytes)


def test_what_memory_does_not_hold_comes_back_from_files(tmp_path: Path) -> None:
    held = Storage[str, object](tmp_path)
    for number in range(3):
        held.put(number, {"row": ROW + number, "half": (ROW + number).bfloat16()[:0], "none": None})
    assert len(list(tmp_path.iterdir())) == 2
    for number in (2, 0, 1):
        for values in (held.get(number), held.take(number)):
            assert torch.equal(values["row"], ROW + number)
            assert values["half"].dtype is torch.bfloat16
            assert values["none"] is None
        assert number not in held
    assert not list(tmp_path.iterdir())
    held.put(0, {"row": ROW})
    assert not list(tmp_path.iterdir())  # there is room in memory again


def test_what_there_is_no_room_for_is_dropped(tmp_path: Path) -> None:
    held = Storage[str, torch.Tensor](tmp_path, ROW.nbytes)
    for number in range(3):
        held.put(number, {"row": ROW})
    assert [number in held for number in range(3)] == [True, True, False]
    held.take(1)
    held.put(2, {"row": ROW})
    assert 2 in held


def test_a_disk_that_is_full_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "1").symlink_to("/dev/full")
    held = Storage[str, torch.Tensor](tmp_path)
    held.put(0, {"row": ROW})
    with pytest.raises(UsageError, match=r"No space left on device; make room there"):
        held.put(1, {"row": ROW})
