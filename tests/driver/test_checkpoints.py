"""Checkpoints lie beside the output, for as long as somebody may go on from them."""

from pathlib import Path

import pytest

from planish.driver.checkpoints import checkpoints_beside


@pytest.mark.parametrize(("error", "stays"), [(None, False), (ValueError, False), (KeyboardInterrupt, True)])
def test_an_interrupt_leaves_them_and_an_end_does_not(
    tmp_path: Path, error: type[BaseException] | None, stays: bool
) -> None:
    def work() -> None:
        with checkpoints_beside(tmp_path / "dist") as folder:
            folder.mkdir()
            if error is not None:
                raise error

    if error is None:
        work()
    else:
        with pytest.raises(error):
            work()
    assert [file.name for file in tmp_path.iterdir()] == [".planish-checkpoints-dist"] * stays
