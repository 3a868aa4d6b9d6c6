import sys
from pathlib import Path

import pytest

from planish.driver.user_code import call, isolated_imports, resolve
from planish.ir.errors import ModelError, UsageError


def test_a_file_and_its_neighbour_are_one_module(tmp_path: Path) -> None:
    (tmp_path / "shared.py").write_text("things = []\n")
    (tmp_path / "user.py").write_text("from shared import things\n")
    with isolated_imports(tmp_path):
        assert resolve("user.py:things", tmp_path) is resolve("shared.py:things", tmp_path)
        assert resolve("shared:things", tmp_path) is resolve("shared.py:things", tmp_path)


def test_two_folders_may_hold_the_same_names(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "neighbour.py").write_text(f"value = {name!r}\n")
        (tmp_path / name / "model.py").write_text("from neighbour import value\n")
    path = list(sys.path)
    for name in ("a", "b"):
        with isolated_imports(tmp_path / name):
            assert resolve("model.py:value", tmp_path / name) == name
    assert "neighbour" not in sys.modules
    assert sys.path == path


def test_a_file_may_be_called_like_an_imported_module(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("value = 1\n")
    with isolated_imports(tmp_path):
        assert resolve("json.py:value", tmp_path) == 1
        import json

        assert json.loads("[1]") == [1]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("modle.py:build", r"there is no file .*modle.py; did you mean 'model.py'\?"),
        ("model.py:buid", r"model.py has no 'buid'; did you mean 'build'\?"),
        ("no.such:thing", "there is no module 'no.such'"),
        ("model.py", "is not of the form"),
        (":build", "is not of the form"),
    ],
)
def test_what_is_not_there(folder: Path, reference: str, message: str) -> None:
    with isolated_imports(folder), pytest.raises(UsageError, match=message):
        resolve(reference, folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\nimport does_not_exist\n", r"ModuleNotFoundError.*does_not_exist.*broken.py:2\)"),
        ("x = 1\ny = (\n", r"was never closed \(.*broken.py:2\)"),
        ("raise ValueError('no')\n", r"ValueError: no \(.*broken.py:1\)"),
    ],
)
@pytest.mark.parametrize("reference", ["broken.py:build", "broken:build"])
def test_a_module_that_fails_on_import(tmp_path: Path, text: str, message: str, reference: str) -> None:
    (tmp_path / "broken.py").write_text(text)
    with isolated_imports(tmp_path), pytest.raises(ModelError, match=message):
        resolve(reference, tmp_path)
    assert "broken" not in sys.modules


def test_a_function_that_raises() -> None:
    with pytest.raises(ModelError, match=r"data.py:test failed: ZeroDivisionError: .*test_user_code.py:\d+\)"):
        call("data.py:test", lambda: 1 / 0)
