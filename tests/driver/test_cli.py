"""The command line as a user meets it: exit codes, messages, JSON, and what is never imported."""

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from typer.testing import CliRunner, Result

from planish.backends.artifact import load
from planish.driver import cli
from planish.ir.opset import OPSET
from planish.passes.cleanup.dce import DeadCodeElimination

RUN = (
    "import sys; sys.modules.update(dict.fromkeys(sys.argv.pop(1).split(','))); "
    "from planish.driver.cli import main; main()"
)
HEAVY = "torch,onnx,onnx_ir,onnxruntime,tvm,scipy,networkx,yaml,rich"


def planish(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, list(arguments))


def message(result: Result) -> str:
    """What stderr says, in one line."""
    return " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "blocked", "expected"),
    [
        (
            ["--help"],
            f"{HEAVY},pydantic,numpy",
            [
                "build",
                "opt",
                "inspect",
                "bench",
                "compare",
                "tune",
                "passes",
                "targets",
                "quantize",
                "distill",
                "init",
                "doctor",
                "--quiet",
            ],
        ),
        (["build", "--help"], f"{HEAVY},numpy", ["--max-drop", "--backend", "--tuned"]),
        (["tune", "-h"], f"{HEAVY},numpy", ["--budget"]),
        (["quantize", "--help"], f"{HEAVY},numpy", ["--scheme", "Examples:"]),
        (["doctor"], HEAVY, ["machine", "backend onnxruntime"]),
        (["--version"], HEAVY, ["0."]),
        (["passes"], HEAVY, ["fold-constants", "quantize", "preset: split-sequences,cse,fold-constants"]),
        (["passes", "quantize"], HEAVY, ["lossy", "scheme=int8  int8|int8-dynamic", "how calibration"]),
        (["targets"], HEAVY, ["native", "x86-64-avx512-vnni"]),
        (["targets", "x86-64"], HEAVY, ["architecture", "x86_64"]),
    ],
)
def test_what_answers_at_once_imports_nothing_heavy(arguments: list[str], blocked: str, expected: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", RUN, blocked, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [text for text in expected if text not in done.stdout] == []


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["build", "nowhere.yaml"], 2, "error: there is no recipe nowhere.yaml"),
        (["build", "misspelt.yaml"], 2, "misspelt.yaml: unknown key 'budget.latncy'; did you mean 'latency'?"),
        (["build", "recipe.yaml", "-p", "dce"], 2, "a recipe sets its own passes"),
        (["build", "recipe.yaml", "--set", "passes=auto"], 2, "a search needs labelled data (data.evaluation) and a"),
        (["build", "recipe.yaml", "--set", "passes=auto", "--dry-run"], 2, "a search needs labelled data"),
        (["build", "net.planish", "-p", "auto", "-o", "x"], 2, "a search needs labelled data (data.evaluation) and a"),
        (["bisect", "auto.yaml"], 2, "bisect the recipe that `planish search auto.yaml -o FILE` writes"),
        (["build", "model.py:build", "-o", "x", "--max-drop", "a bit"], 2, "'budget.metric_drop': 'a bit' is not an"),
        (["build", "net.planish", "-o", "x", "-p", "claenup"], 2, "unknown pass 'claenup'; did you mean 'cleanup'?"),
        (["build", "model.py:buidl", "-o", "x"], 2, "model.py has no 'buidl'; did you mean 'build'?"),
        (["build", "model.py:raises", "-o", "x"], 3, "model.py:raises failed: TypeError"),
        (["build", "model.py:with_nan", "-o", "x"], 3, "weight 'first.weight' of first"),
        (["build", "model.py:data_dependent", "-o", "x"], 3, "torch.export refuses Choosy"),
        (["build", "net.planish", "-o", "x", "-d", "data.py:wrong_shape"], 3, "data.py:wrong_shape, batch 0: input"),
        (["build", "net.planish", "-o", "x", "-p", "passes_of_mine:Wrong"], 4, "pass wrong declares itself"),
        (["inspect", "truncated.onnx"], 3, "truncated.onnx is not an ONNX file, or is truncated"),
        (["inspect", "net.planish", "-t", "x86_64"], 2, "unknown target 'x86_64'; did you mean 'x86-64'?"),
        (["opt", "net.planish", "-p", "dce{hard=true}"], 2, "pass dce has no option 'hard'"),
        (["opt", "net.planish", "-p", "dce", "-o", "out.txt"], 2, "out.txt must end in .onnx or .planish"),
        (
            ["inspect", "net.planish", "--size", "bacth=2"],
            2,
            "the model has no dimension 'bacth'; did you mean 'batch'?",
        ),
        (["inspect", "net.planish", "--size", "batch"], 2, "--size batch= must be a name and a positive number"),
        (
            ["opt", "net.planish", "-p", "dce", "--explain", "fuse-gleu"],
            2,
            "no pass or rule 'fuse-gleu' to explain; did you",
        ),
        (["opt", "net.planish", "-p", "dce", "--explain", "dce"], 2, "pass 'dce' isn't made of rewrite rules"),
        (["opt", "net.planish", "-p", "dce", "--explain", "nowhere:rule"], 2, "there is no module 'nowhere' to import"),
        (["passes", "quantise"], 2, "unknown pass 'quantise'; did you mean 'quantize'?"),
        (["targets", "nativ"], 2, "unknown target 'nativ'; did you mean 'native'?"),
    ],
)
def test_bad_input_ends_with_one_clear_message(folder: Path, arguments: list[str], code: int, expected: str) -> None:
    (folder / "misspelt.yaml").write_text("model: model.py:build\nbudget: {latncy: 1 ms}")
    (folder / "auto.yaml").write_text("model: net.planish\npasses: auto")
    (folder / "truncated.onnx").write_bytes(bytes(range(40)))
    result = planish(*arguments)
    assert result.exit_code == code, result.stderr
    assert expected in message(result)
    assert result.stderr.count("error: ") == 1
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert not (folder / "x").exists()


def test_a_pass_beside_the_working_directory_is_described(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", RUN, "tvm", "passes", "passes_of_mine:Negate"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "Turns the model into its opposite." in done.stdout) == (0, True), done.stderr


def test_an_unknown_operator_is_named(folder: Path) -> None:
    import onnx

    node = onnx.helper.make_node("Rellu", ["x"], ["y"], "layer7")
    ports = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 2]) for name in "xy"]
    graph = onnx.helper.make_graph([node], "g", ports[:1], ports[1:])
    (folder / "odd.onnx").write_bytes(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)]).SerializeToString()
    )
    result = planish("build", "odd.onnx", "-o", "x")
    assert result.exit_code == 3
    assert "odd.onnx" in message(result)
    assert "Rellu" in message(result)
    assert "did you mean Relu?" in message(result)


def test_a_missed_budget(folder: Path) -> None:
    text = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(f"{text}\nbudget: {{size: 300 B}}\n")
    result = planish("build", "recipe.yaml")
    assert result.exit_code == 5
    assert "the budget is missed, so nothing is written: the size is" in message(result)
    assert "untouched (onnxruntime)" in message(result)  # the summary is shown all the same
    assert not (folder / "dist").exists()


@pytest.mark.parametrize("whose", ["passes_of_mine:Explode", "dce"])
def test_a_crash_leaves_a_report(folder: Path, monkeypatch: pytest.MonkeyPatch, whose: str) -> None:
    (folder / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "tmp"))

    def crash(*given: object) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(DeadCodeElimination, "run", crash)
    result = planish("build", "net.planish", "-o", "x", "-p", whose)
    assert result.exit_code == 1
    assert "RuntimeError: out of luck" in result.stderr
    assert ("This is a bug in planish" in result.stderr) == (whose == "dce")
    lines = (folder / "passes_of_mine.py").read_text().splitlines()
    line = next(number for number, text in enumerate(lines, 1) if "raise RuntimeError" in text)
    assert (f"{folder / 'passes_of_mine.py'}:{line})" in result.stderr) == (whose != "dce")
    report, reproducer = sorted((folder / "tmp").iterdir())  # and the temporary folders are gone
    assert str(report) in result.stderr
    assert f"planish opt {reproducer}" in result.stderr
    assert "raise RuntimeError" in report.read_text()
    assert [path.name for path in folder.iterdir() if path.name.startswith(".x")] == []


def test_an_interrupt(folder: Path) -> None:
    result = planish("build", "net.planish", "-o", "x", "-p", f"passes_of_mine:Signal{{number={signal.SIGINT:d}}}")
    assert result.exit_code == 130
    assert "interrupted" in result.stderr
    assert [path.name for path in folder.iterdir() if "x" in path.suffixes or path.name.startswith(".x")] == []


@pytest.mark.parametrize("is_swallowed", [False, True])
def test_an_interrupt_that_a_runtime_takes_for_something_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch, is_swallowed: bool
) -> None:
    make = onnxruntime.InferenceSession

    def interrupted(*given: object, **named: object) -> object:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            if not is_swallowed:
                raise RuntimeError("the constructor failed") from error
        return make(*given, **named)

    monkeypatch.setattr(onnxruntime, "InferenceSession", interrupted)
    result = planish("build", "net.planish", "-o", "x", "-b", "onnxruntime")
    assert result.exit_code == 130, result.output
    assert "error: interrupted" in result.stderr
    assert not (folder / "x").exists()


def test_a_signed_build(folder: Path) -> None:
    (folder / "key").write_bytes(b"\0 of this test\n")
    arguments = ["build", "net.planish", "-b", "onnxruntime", "-p", "cse", "-o", "signed"]
    assert planish(*arguments, "--sign", "key").exit_code == 0
    load(folder / "signed", key=b"\0 of this test\n")
    (folder / "key").write_bytes(b"")
    for name in ("key", "no-key"):
        result = planish(*arguments, "--sign", name)
        assert result.exit_code == 2
        assert "key" in message(result)


def test_a_full_disk_is_told_with_its_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/somewhere/file")

    monkeypatch.setattr(DeadCodeElimination, "run", full)
    result = planish("build", "net.planish", "-o", "x", "-p", "dce")
    assert result.exit_code == 2
    assert "/somewhere/file can't be written: No space left on device; make room there" in message(result)


def test_a_termination_cleans_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = f"passes_of_mine:Signal{{number={signal.SIGTERM:d}}}"
    monkeypatch.setattr(sys, "argv", ["planish", "build", "net.planish", "-o", "x", "-p", step])
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 128 + signal.SIGTERM
    assert [path.name for path in folder.iterdir() if path.name.startswith((".x", "x"))] == []


def test_build_from_flags(folder: Path) -> None:
    arguments = ["-p", "cleanup,fuse", "-d", "data.py:test", "-b", "onnxruntime", "--max-drop", "1%", "-o", "out"]
    result = planish("build", "net.planish", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["metric"] == "accuracy"
    assert report["metric_drop"] == 0
    assert report["untouched"]["latency_seconds"] > 0
    assert (folder / "out" / "model.onnx").is_file()
    assert report["built"]["size_bytes"] == (folder / "out" / "model.onnx").stat().st_size
    assert "accuracy" in result.stderr
    assert "fuse-batch-norm" not in result.stderr
    assert "cleanup" in result.stderr


def test_flags_say_where_a_recipe_builds(folder: Path) -> None:
    assert planish("build", "recipe.yaml", "-o", "elsewhere").exit_code == 0
    assert (folder / "elsewhere" / "manifest.json").is_file()
    assert not (folder / "dist").exists()


def test_opt_prints_writes_and_times(folder: Path) -> None:
    result = planish("opt", "net.planish", "-p", "cleanup", "--print-ir-after=dce", "--time-passes")
    assert result.exit_code == 0, result.stderr
    assert "Relu" in result.stdout
    assert "// after dce" in result.stderr
    assert "// after cse" not in result.stderr
    assert "fuse-batch-norm" not in result.stderr
    assert "running 9 passes" in result.stderr

    assert "// before cse" in planish("opt", "net.planish", "-p", "cse", "--print-ir-before").stderr
    idle = planish("opt", "net.planish", "-p", "passes_of_mine:Idle,passes_of_mine:Negate", "--print-ir-changed")
    assert "// after passes_of_mine:Negate" in idle.stderr
    assert "// after passes_of_mine:Idle" not in idle.stderr

    result = planish("opt", "net.planish", "-p", "dce", "-o", "copy.planish", "--json")
    assert [record["name"] for record in json.loads(result.stdout)] == ["dce"]
    again = planish("opt", "copy.planish", "-p", "dce", "-o", "net.onnx")
    assert again.exit_code == 0, again.stderr
    assert "float32[batch, 8]" in planish("inspect", "net.onnx").stderr


RULES = """
from planish import RewriteRule

double = RewriteRule("double", lambda op, x: op.Relu(op.Relu(x)), lambda op, x: op.Relu(x))
wide = RewriteRule(
    "wide", lambda op, x, w, b: op.Relu(op.Gemm(x, w, b, transB=0)), lambda op, x, w, b: op.Relu(op.Gemm(x, w, b))
)
"""


def test_opt_explains_where_rules_nearly_match(folder: Path) -> None:
    (folder / "my_rules.py").write_text(RULES)
    result = planish("opt", "net.planish", "-p", "cleanup,my_rules:wide", "--explain", "my_rules:wide")
    assert result.exit_code == 0, result.stderr
    assert "my_rules:wide on the graph before wide" in result.stderr
    assert "wide: 0 matches, 1 near miss\n" in result.stderr
    assert "2 of 2 nodes: Relu %relu, Gemm %gemm" in result.stderr
    assert "transB of Gemm at first" in result.stderr
    assert "is 1, not 0" in result.stderr
    assert "Relu" in result.stdout

    result = planish("opt", "net.planish", "-p", "my_rules:wide,cse", "--explain", "my_rules:wide", "--json")
    explained = json.loads(result.stdout)
    assert explained["before"] == "wide"
    (rule,) = explained["rules"]
    assert (rule["rule"], rule["matches"], rule["more"]) == ("wide", 0, 0)
    assert [miss["wanted"] for miss in rule["near"]] == [2]

    as_read = json.loads(planish("opt", "net.planish", "-p", "cse", "--explain", "gelu", "--json").stdout)
    assert as_read == {"before": "", "rules": [{"rule": "gelu", "matches": 0, "near": [], "more": 0}]}
    whole = json.loads(planish("opt", "net.planish", "-p", "fuse", "--explain", "fuse-gelu", "--json").stdout)
    assert (whole["before"], [rule["rule"] for rule in whole["rules"]]) == ("fuse-gelu", ["gelu", "gelu-tanh"])


def test_a_name_that_explains_nothing_is_told_before_the_model_is_read(folder: Path, install) -> None:
    install("[planish.passes]\ndouble = others:double\n", RULES)
    for name, reason in (("fuse-gleu", "'fuse-gleu' to explain; did you mean 'fuse-gelu'"), ("cse", "isn't made of")):
        result = planish("opt", "model.py:build", "-p", "cse", "--explain", name)
        assert result.exit_code == 2
        assert reason in message(result)
        assert "reading" not in result.stderr
    assert "double: 0 matches" in planish("opt", "net.planish", "-p", "cse", "--explain", "double").stderr


def test_opt_can_leave_out_the_checks(folder: Path) -> None:
    wrong = ["opt", "net.planish", "-p", "passes_of_mine:Wrong", "-o", "wrong.planish"]
    assert planish(*wrong).exit_code == 4
    assert not (folder / "wrong.planish").exists()
    assert planish(*wrong, "--verify", "structure").exit_code == 0


def test_inspect(folder: Path) -> None:
    inspection = json.loads(planish("inspect", "net.planish", "-t", "x86-64-avx512-vnni", "--json").stdout)
    assert inspection["inputs"] == {"features": "float32[batch, 8]"}
    assert inspection["cost"]["parameters"] == 8 * 16 + 16 + 16 * 4 + 4
    assert inspection["cost"]["flops"] >= 2 * (8 * 16 + 16 * 4)
    assert inspection["sizes"] == {"batch": 1}
    batch = planish("inspect", "net.planish", "--size", "batch=7", "--json")
    assert json.loads(batch.stdout)["cost"]["flops"] == 7 * inspection["cost"]["flops"]
    operators = {row["name"]: row for row in inspection["operators"]}
    assert sum(row["count"] for row in operators.values()) == inspection["cost"]["nodes"]
    assert operators["Relu"]["int8"] == []
    assert any("onnxruntime" in row["int8"] for row in operators.values())
    assert operators["Gemm"]["weights"] == {"onnxruntime": [8, 4, 2], "tvm": [8, 4, 2]}
    assert {"first", "second"} <= inspection["modules"].keys()
    assert "first" in planish("inspect", "net.planish").stderr
    assert inspection["groups"] == []


def test_inspect_groups(folder: Path) -> None:
    first, second = json.loads(planish("inspect", "net.planish", "--groups", "--json").stdout)["groups"]
    assert (first["size"], first["width"], first["layers"], first["readers"]) == (16, 1, ["first"], ["second"])
    assert first["frozen"] is None
    assert second["frozen"].startswith("they are the graph's output")
    assert "read by" in planish("inspect", "net.planish", "--groups").stderr


def test_inspect_looks_into_artifacts_with_the_sizes_of_data(folder: Path, artifact: Path) -> None:
    result = planish("inspect", str(artifact), "-d", "data.py:test", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["sizes"], found["cost"]["parameters"]) == ({"batch": 16}, 212)
    assert {row["name"]: row["moved"] for row in found["operators"]} == {"Gemm": 0, "Relu": 0}


def test_bench(folder: Path, artifact: Path) -> None:
    rows: list[Any] = json.loads(planish("bench", str(artifact), "net.planish", "--json").stdout)
    assert [row["name"] for row in rows] == [str(artifact), "net.planish"]
    assert rows[0]["speedup"] == {"median": 1, "lower": 1, "upper": 1}
    assert all(len(row["latency"]["rounds"]) > 5 and row["size"] > 0 for row in rows)
    if sys.platform == "linux":
        assert all(row["memory"] > 1_000_000 for row in rows)
    assert "speed (quartiles)" in planish("bench", str(artifact), "-d", "data.py:test").stderr


def test_compare(folder: Path, artifact: Path) -> None:
    comparison = json.loads(planish("compare", "net.planish", str(artifact), "-d", "data.py:test", "--json").stdout)
    [output] = comparison["outputs"]
    assert output["largest"] < 1e-5
    assert output["cosine"] == pytest.approx(1)
    assert output["agreement"] == 1
    assert comparison["a"]["metric"] == comparison["b"]["metric"] == 1

    planish("opt", "net.planish", "-p", "passes_of_mine:Negate", "-o", "negated.onnx")
    result = planish("compare", "net.planish", "negated.onnx", "-d", "data.py:test", "--json")
    [output] = json.loads(result.stdout)["outputs"]
    assert output["cosine"] == pytest.approx(-1)
    assert output["relative"] == pytest.approx(2)
    assert output["sqnr"] == pytest.approx(-20 * np.log10(2))
    assert output["agreement"] < 0.5
    assert "cosine" in planish("compare", "net.planish", "negated.onnx").stderr


def test_compare_refuses_what_does_not_correspond(folder: Path) -> None:
    (folder / "other.py").write_text(
        "import torch\ndef build(): return torch.nn.Linear(8, 3), (torch.zeros(2, 8),), ({0: torch.export.Dim('n')},)\n"
    )
    result = planish("compare", "net.planish", "other.py:build")
    assert result.exit_code == 3
    assert "output 'output' has shapes [1, 4] and [1, 3], which a metric alone can judge" in message(result)
    judged = planish("compare", "net.planish", "other.py:build", "-d", "data.py:test", "--json")
    found = json.loads(judged.stdout)
    assert found["outputs"] == []
    assert found["unlike"] == ["output"]
    assert found["drop"] > 0
    gated = planish("compare", "net.planish", "other.py:build", "-d", "data.py:test", "--min-cosine", "0.5")
    assert gated.exit_code == 5
    assert "the cosine of output is none, since its shape is another, but must be 0.5 at least" in message(gated)


def test_compare_takes_maps_by_key_and_texts_by_their_share(folder: Path) -> None:
    import onnx

    for number, name in enumerate(("b", "c")):
        attributes = {"classlabels_strings": ["a", name], "coefficients": [0.0, -1.0], "intercepts": [1.0, 2.0]}
        nodes = [
            onnx.helper.make_node("LinearClassifier", ["x"], ["label", "scores"], domain="ai.onnx.ml", **attributes),
            onnx.helper.make_node("ZipMap", ["scores"], ["maps"], domain="ai.onnx.ml", classlabels_strings=["a", "b"]),
        ]
        x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [4, 1])
        outputs = [onnx.ValueInfoProto(name=output) for output in ("label", "maps")]
        graph = onnx.helper.make_graph(nodes, "model", [x], outputs)
        imports = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("ai.onnx.ml", 1)]
        onnx.save(onnx.helper.make_model(graph, opset_imports=imports, ir_version=10), folder / f"{number}.onnx")
    comparison = json.loads(planish("compare", "0.onnx", "1.onnx", "--json").stdout)
    label, *maps = comparison["outputs"]
    assert label["name"] == "label"
    assert label["agreement"] < 1
    assert label["largest"] == 1
    assert [(row["name"], row["largest"]) for row in maps] == [("maps['a']", 0), ("maps['b']", 0)]


def test_passes_as_json() -> None:
    described = json.loads(planish("passes", "prune-channels", "--json").stdout)
    assert described["effect"] == "lossy"
    assert "ratio" in described["options"]
    assert "native" in json.loads(planish("targets", "--json").stdout)
