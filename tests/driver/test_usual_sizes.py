"""Sizes at which models without data are timed."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from planish.backends.base import Port
from planish.driver import cli
from planish.driver.usual_sizes import usual_sizes

TOKENS = """
import torch
from torch import nn


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(50, 16), nn.Embedding(300, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, ids):
        return self.head(self.words(ids) + self.places(torch.arange(ids.shape[1])))


def build():
    dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("n")}
    return Tokens(), (torch.zeros(2, 8, dtype=torch.int64),), (dims,)
"""


@pytest.mark.parametrize(
    ("ports", "sizes"),
    [
        ([Port("input_ids", "int64", ("b", "n")), Port("mask", "float32", ("b", "n"))], {"b": 1, "n": 128}),
        ([Port("mask", "float32", ("b", "n")), Port("input_ids", "int64", ("b", "n"))], {"b": 1, "n": 128}),
        ([Port("x", "float32", ("batch", 3, "s1", "s2"))], {"batch": 1, "s1": 224, "s2": 224}),
        ([Port("x", "uint8", ("batch", "h", "w", 3))], {"batch": 1, "h": 224, "w": 224}),
        ([Port("x", "float32", (3, "h", "w"))], {"h": 224, "w": 224}),
        ([Port("sound", "float32", ("b", "n"))], {"b": 1, "n": 16_000}),
        ([Port("sound", "float32", ("b", 1, "n"))], {"b": 1, "n": 16_000}),
        ([Port("waveform", "float32", ("n",))], {"n": 16_000}),
        ([Port("spectrum", "float32", ("b", 80, "n"))], {"b": 1, "n": 100}),
        ([Port("inputs_embeds", "float32", ("b", "n", 768))], {"b": 1, "n": 128}),
        ([Port("x", "float32", ("sequence", "batch", 40))], {"sequence": 128, "batch": 1}),
        ([Port("x", "float32", ("b", 8)), Port("y", "float32", ("2*k", 8))], {"b": 1, "k": 32}),
        ([Port("x", "float32", None)], {}),
    ],
)
def test_an_input_tells_what_its_dimensions_stand_for(ports: list[Port], sizes: dict[str, int]) -> None:
    assert usual_sizes(ports) == sizes


def test_a_build_without_data_is_timed_at_several_lengths(folder: Path) -> None:
    """The table of positions ends at 300, so that 4 times 128 tokens are too many."""
    (folder / "tokens.py").write_text(TOKENS)
    options = ("-b", "onnxruntime", "-p", "cleanup", "-o", "out", "--json")
    result = CliRunner().invoke(cli.app, ["build", "tokens.py:build", *options])
    assert result.exit_code == 0, result.stderr
    summary = json.loads(result.stdout)
    assert summary["sizes"] == {"batch": 1, "n": 128}
    assert [it["sizes"]["n"] for it in summary["lengths"]] == [32, 256]
    assert "n 128" in result.stderr
    assert "latency, n 32" in result.stderr
    assert "(n 128)" in (folder / "out" / "report.html").read_text()
    rows = json.loads(CliRunner().invoke(cli.app, ["bench", "out", "out", "--json"]).stdout)
    assert [row["sizes"]["n"] for row in rows] == [128, 128, 32, 32, 256, 256]
