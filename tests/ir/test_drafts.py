"""Drafts of dead processes are swept, those of others aren't, and a folder takes another one's place in one step."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from planish.ir import drafts
from planish.ir.drafts import beside, put, replacing, sweep, workspace
from planish.ir.errors import UsageError

HOLD = """
import sys, time
from pathlib import Path
from planish.ir import drafts
with drafts.beside(Path(sys.argv[1])) as folder:
    print(folder, flush=True)
    time.sleep(600)
"""


def folder_with(path: Path, text: str) -> Path:
    path.mkdir(parents=True)
    (path / "content").write_text(text)
    return path


def killed(work: Callable[[], object]) -> None:
    """Do some work in a fork that is killed at its end."""
    number = os.fork()
    if not number:
        try:
            work()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(number, 0)


def test_a_draft_is_swept_once_its_process_has_died_and_not_before(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path / "dist")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        draft = Path(process.stdout.readline().strip())
        (draft / "content").touch()
        sweep(tmp_path)
        assert (draft / "content").exists()
        process.kill()
    with beside(tmp_path / "other") as another:
        assert list(tmp_path.iterdir()) == [another]
    assert not list(tmp_path.iterdir())


def test_a_file_is_replaced_once_the_new_one_is_whole(tmp_path: Path) -> None:
    place = tmp_path / "file"
    for text in ("old", "new"):
        with replacing(place) as draft:
            draft.write_text(text)
    with pytest.raises(RuntimeError), replacing(place) as draft:
        draft.write_text("half")
        raise RuntimeError
    assert (list(tmp_path.iterdir()), place.read_text()) == ([place], "new")


def test_a_file_is_written_into_no_folder_that_is_not_there(tmp_path: Path) -> None:
    place = tmp_path / "folder" / "file"
    with pytest.raises(FileNotFoundError, match=str(place.parent)), replacing(place):
        pytest.fail("there is no draft")
    assert not list(tmp_path.iterdir())


def test_what_is_no_draft_is_left_alone(tmp_path: Path) -> None:
    others = {tmp_path / ".planish-draft-file", tmp_path / ".planish-draft-link", tmp_path / "planish-draft"}
    target = folder_with(tmp_path / "target", "mine")
    for path in others:
        path.symlink_to(target) if path.name.endswith("link") else path.touch()
    sweep(tmp_path)
    assert set(tmp_path.iterdir()) == {*others, target}
    assert (target / "content").read_text() == "mine"


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_takes_the_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    if not can_exchange:
        monkeypatch.setattr(drafts, "_renameat2", lambda: None)
    place = folder_with(tmp_path / "dist", "old")
    with beside(place) as held:
        put(folder_with(held / "dist", "new"), place)
    assert (place / "content").read_text() == "new"
    assert list(tmp_path.iterdir()) == [place]


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_within_a_draft_takes_the_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    if not can_exchange:
        monkeypatch.setattr(drafts, "_renameat2", lambda: None)
    with beside(tmp_path / "dist") as outer:
        place = folder_with(outer / "dist", "old")
        with beside(place) as held:
            put(folder_with(held / "dist", "new"), place)
        assert (place / "content").read_text() == "new"


def test_what_a_killed_process_had_set_aside_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafts, "_renameat2", lambda: None)
    place = folder_with(tmp_path / "dist", "old")

    def half() -> None:
        with beside(place) as held:
            draft = folder_with(held / "dist", "new")
            rename = Path.rename

            def once(path: Path, target: Path) -> Path:
                done = rename(path, target)
                if path == place:
                    os.kill(os.getpid(), signal.SIGKILL)
                return done

            Path.rename = once
            put(draft, place)

    killed(half)
    assert not place.exists()
    sweep(tmp_path)
    assert (place / "content").read_text() == "old"
    assert list(tmp_path.iterdir()) == [place]


def test_a_folder_where_nothing_may_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=f"{tmp_path}/file can't be written"), beside(tmp_path / "file" / "dist"):
        pass
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    with pytest.raises(UsageError, match=f"{tmp_path}/file can't be written"), workspace():
        pass
