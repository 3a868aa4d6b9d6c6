"""`planish init`: a recipe to start from, with what the model says of itself and what else can be said as comments."""

import os
from pathlib import Path

from ..ir.errors import UsageError
from ..ir.files import writing
from ..ir.graph import Graph
from .model import read_model
from .user_code import isolated_imports

_TEXT = """\
# What `planish build {name}` builds. Every key but `model` may be left out.

model: {model}
{ports}

# Batches that passes observe, and labelled ones on which the metric is computed: an .npz whose arrays are named as the
# inputs, samples along the first axis, and `labels`; or file.py:function, which yields dicts of such arrays.
{comment}data: {{calibration: {data}, evaluation: {data}, metric: accuracy}}

target: native       # the machine at hand, or another of `planish targets`
backend: auto        # onnxruntime, tvm, or the faster one as measured

# In this order; see `planish passes`, and `planish passes quantize` for the options of one.
passes:
  - cleanup
  - fuse
  # - prune-channels: {{ratio: 0.3}}       # fewer channels, which costs accuracy:
  # - distill                              # the model before teaches what is left
  {comment}- quantize: {{scheme: int8}}       # needs calibration data; int8-dynamic doesn't

# Nothing is written if one of these is missed.
# budget: {{metric_drop: 1%, latency: 5 ms, size: 10 MB}}

output: dist         # the artifact's folder: planish.load("dist") runs it
"""


def write_recipe(model: str, data: str | None, path: Path) -> None:
    """Read a model, and write a recipe that builds it.

    Args:
        model: a reference to the model.
        data: a reference to the data; None leaves the data, and what needs them, as comments.
        path: the path of the recipe, which must not exist.

    Raises:
        UsageError: there is a file of that name, or it doesn't end in `.yaml`.
        ModelError: the model can't be read.
    """
    if path.suffix not in (".yaml", ".yml"):
        raise UsageError(f"{path} must end in .yaml, as a recipe does")
    if path.exists():
        raise UsageError(f"{path} exists: give another name, -o FILE, or remove it")
    with isolated_imports(Path()):
        graph = read_model(model)
    text = _TEXT.format(
        name=path.name,
        model=_relative(model, path.parent),
        ports="\n".join(_ports(graph)),
        data="data.npz" if data is None else _relative(data, path.parent),
        comment="# " if data is None else "",
    )
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _ports(graph: Graph) -> list[str]:
    inputs = [f"#   input {value.name}: {value.type}" for value in graph.inputs]
    return inputs + [f"#   output {name}: {value.type}" for name, value in graph.outputs.items()]


def _relative(reference: str, folder: Path) -> str:
    """A reference as it reads from a recipe in another folder."""
    place, colon, rest = reference.partition(":")
    return os.path.relpath(place, folder) + colon + rest if Path(place).exists() else reference
