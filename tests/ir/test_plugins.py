"""What the metadata of other packages adds, read when it is asked for."""

import sys

import pytest

from planish.ir.errors import UsageError
from planish.ir.plugins import plugins


def test_entries_are_read_by_group_and_loaded_when_asked(install) -> None:
    install("[planish.metrics]\nb = others:two\na = others:one\n[planish.targets]\nc = others:one\n", "one, two = 1, 2")
    assert list(plugins("metrics")) == ["a", "b"]
    assert plugins("backends") == {}
    assert "others" not in sys.modules
    assert (plugins("metrics")["b"].load(), plugins("targets")["c"].package) == (2, "others 1.0")


def test_a_package_that_fails_is_named(install) -> None:
    install("[planish.metrics]\na = others:one\n", "1 / 0")
    message = (
        r"'a' in planish.metrics, of the package others 1.0 \(others:one\), can't be loaded: "
        r"ZeroDivisionError: .*uninstall"
    )
    with pytest.raises(UsageError, match=message):
        plugins("metrics")["a"].load()


def test_two_packages_may_not_bring_the_same_name(install, tmp_path, monkeypatch) -> None:
    install("[planish.metrics]\na = others:one\n")
    metadata = tmp_path / "more" / "more-2.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: more\nVersion: 2\n")
    (metadata / "entry_points.txt").write_text("[planish.metrics]\na = more:one\n")
    monkeypatch.syspath_prepend(tmp_path / "more")
    with pytest.raises(
        UsageError, match=r"'a' in planish.metrics, of the package others 1.0 .* has the name of one of more 2"
    ):
        plugins("metrics")
