"""The page says what the artifact's files say, runs nothing of a stranger's, and asks for nothing from elsewhere."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from planish.backends.manifest import read_manifest, read_measurements
from planish.driver.cli import app
from planish.driver.integrity import check_integrity
from planish.driver.page.history import History
from planish.driver.page.page import LONGEST, page, page_data, page_of, read_page
from planish.ir.builder import Builder
from planish.ir.errors import ModelError
from planish.ir.graph import Graph, Location
from planish.ir.types import DType, TensorType


class Reader(HTMLParser):
    """Keeps the elements of a page, the numbers in it, and the JSON that it holds."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.numbers: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open.append(self.elements[-1])

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        tag, attributes = self._open[-1] if self._open else ("", {})
        if tag == "data":
            self.numbers.append((attributes["data-path"] or "", attributes["value"] or "", data))
        if tag != "script" and tag != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def held_in(text: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_every_number_is_that_of_the_files(artifact: Path) -> None:
    text = (artifact / "report.html").read_text()
    files = {"manifest": read_manifest(artifact), "measurements": read_measurements(artifact)}
    numbers = Reader(text).numbers
    assert len(numbers) > 20
    for path, value, _ in numbers:
        there: Any = files
        for key in path.split("/"):
            there = there[int(key)] if isinstance(there, list) else there[key]
        assert json.loads(value) == there, path
    shown = {path: shown for path, _, shown in numbers}
    built = files["measurements"]["built"]
    assert shown["measurements/built/size_bytes"] == f"{built['size_bytes'] / 1000:.3g} kB"
    assert shown["measurements/built/metric"] == "1.0000"
    held = held_in(text)
    assert held["manifest"] == files["manifest"]
    assert held["measurements"] == {name: it for name, it in files["measurements"].items() if name != "files"}
    last = files["measurements"]["passes"][-1]["cost"]
    assert sum(layer["bytes"] for layer in held["layers"]) == last["bytes"]
    assert sum(layer["flops"] for layer in held["layers"]) == last["flops"]


def test_the_page_says_what_came_out_and_what_was_not_checked(artifact: Path) -> None:
    text = Reader((artifact / "report.html").read_text()).text
    assert re.search(r"In onnxruntime it is .+ the untouched model, and accuracy stays 1\.0000", text)
    assert "Only onnxruntime was tried" in text
    assert "No budget says how far the metric may fall" in text
    assert "planish verify dist" in text
    assert "model: net.planish" in text


def test_the_page_asks_for_nothing_from_elsewhere(artifact: Path) -> None:
    reader = Reader((artifact / "report.html").read_text())
    asked = [value for _, attributes in reader.elements for key, value in attributes.items() if key in ("src", "href")]
    assert [it for it in asked if it is not None and not it.startswith(("#", "data:"))] == []
    policy = next(it for tag, it in reader.elements if it.get("http-equiv") == "Content-Security-Policy")["content"]
    assert (policy or "").startswith("default-src 'none'")


HOSTILE = """</script><!--<script>alert(1)</script><img src=x onerror=alert(1)>"'{{ 7*7 }}\u2028\udc80"""


def test_strangers_texts_are_texts(artifact: Path) -> None:
    graph = Graph(HOSTILE)
    build, location = Builder(graph), Location(HOSTILE, HOSTILE)
    value = graph.add_input(HOSTILE, TensorType(DType.float32, ("batch", 2)))
    graph.outputs[HOSTILE] = build.Relu(value)
    next(graph.nodes).location = location
    history = History({})
    history.see(0, graph)
    manifest, measurements = read_manifest(artifact), read_measurements(artifact)
    manifest["recipe"]["model"] = manifest["target"]["name"] = measurements["metric"] = HOSTILE
    manifest["files"] = {HOSTILE: {"size": 1, "sha256": HOSTILE}}
    row = {**measurements["passes"][0], "text": HOSTILE, "effect": "exact", "counts": {HOSTILE: 1}, "misses": [HOSTILE]}
    measurements["passes"] = [measurements["passes"][0], row]
    measurements["gate"] = [{"name": HOSTILE, "bound": HOSTILE, "found": HOSTILE, "is_met": True}]
    data = page_data(manifest, measurements, history.plain())
    text = page(data).encode(errors="backslashreplace").decode()
    reader = Reader(text)
    tags = [tag for tag, _ in reader.elements]
    assert tags.count("script") == 2
    assert "img" not in tags
    assert not any(key.startswith("on") for _, attributes in reader.elements for key in attributes)
    assert held_in(text) == data
    assert "7*7" in reader.text
    assert "49" not in reader.text.partition("Hashes")[0].partition("Build it again")[2]


def test_a_flipped_byte_of_the_page_is_noticed(artifact: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(artifact, tmp_path / "copy")
    assert check_integrity(copy).faults == ()
    page = (copy / "report.html").read_bytes()
    (copy / "report.html").write_bytes(page.replace(b"planish report", b"planish rep0rt", 1))
    (fault,) = check_integrity(copy).faults
    assert "report.html is damaged" in fault


def test_a_page_is_written_anew_from_an_artifact(artifact: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    assert run(app, ["report", str(artifact)]).stdout.strip() == str(artifact / "report.html")
    assert run(app, ["report", str(artifact), "-o", str(tmp_path / "page.html")]).exit_code == 0
    assert (tmp_path / "page.html").read_bytes() == (artifact / "report.html").read_bytes()
    assert json.loads(run(app, ["report", str(artifact), "--json"]).stdout) == read_page(artifact)

    copy = shutil.copytree(artifact, tmp_path / "copy")
    (copy / "report.html").unlink()
    assert run(app, ["report", str(copy)]).exit_code != 0
    assert run(app, ["report", str(copy), "-o", str(tmp_path / "page.html")]).exit_code == 0
    assert "The graph is not in this page" in (tmp_path / "page.html").read_text()
    (copy / "report.html").write_text('<script type="application/json" id="data">{"graphs": {"texts": 1}}</script>')
    with pytest.raises(ModelError, match=r"report\.html or what was measured beside it is damaged"):
        read_page(copy)
    (copy / "report.html").unlink()
    measured = read_measurements(copy)
    measured["built"]["size_bytes"] = "many"
    (copy / "measurements.json").write_text(json.dumps(measured))
    with pytest.raises(ModelError, match="what was measured beside it is damaged"):
        page_of(copy)


def thousands(number: int) -> Any:
    """The history of a graph of so many nodes, of which a third changes in each of a few steps."""
    graph = Graph("large")
    build = Builder(graph)
    value = graph.add_input("features", TensorType(DType.float32, ("batch", 64)))
    for at in range(number):
        value = build.Relu(value)
        assert value.producer is not None
        value.producer.location = Location(f"encoder.layer.{at // 20}.attention.{at % 20}", f"model.py:{at % 300}")
    graph.outputs["scores"] = value
    history = History({})
    history.see(0, graph)
    for step in range(1, 4):
        for at, node in enumerate(graph.nodes):
            if at % 3 == step - 1:
                node.operator = "Sigmoid"
        history.see(step, graph)
    return history.plain()


@pytest.mark.wide
def test_a_page_of_thousands_of_nodes_is_small(artifact: Path) -> None:
    measurements = read_measurements(artifact)
    measurements["passes"] = [measurements["passes"][0]] * 4
    data = page_data(read_manifest(artifact), measurements, thousands(5000))
    assert len(page(data).encode()) <= LONGEST
    assert len(data["graphs"]["steps"][0]["made"]) == 5002


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.wide
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_draws_the_page(artifact: Path, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--dump-dom"]
    options += ["--host-resolver-rules=MAP * ~NOTFOUND"]
    address = f"file://{artifact / 'report.html'}#dark"
    done = subprocess.run([CHROMIUM, *options, address], capture_output=True, text=True, check=True, timeout=120)
    reader = Reader(done.stdout)
    root = next(attributes for tag, attributes in reader.elements if tag == "html")
    assert root["data-theme"] == "dark"
    assert "data-opened" in root  # the scripts have run to their end
    layers = held_in((artifact / "report.html").read_text())["layers"]
    assert f"{len(layers)} of {len(layers)} layers" in reader.text
    assert sum(tag == "rect" for tag, _ in reader.elements) > 2 + len([it for it in layers if it["bytes"]])
