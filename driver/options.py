"""Arguments and options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

MODEL_HELP = (
    ".onnx, .pt2, .planish, file.py:factory, package.module:factory, torchvision:NAME, timm:NAME or hf:FOLDER; "
    "factories take options, as in model.py:build{width=8}, and files sizes for symbolic dimensions "
    "and values for inputs of one number, as in model.onnx{batch=1,sample_rate=16000}"
)
TARGET_HELP = "see `planish targets`; or a TOML file, archspec's name of a CPU (zen4), a copy of another /proc/cpuinfo"
VERIFY_HELP = (
    "what is checked after each pass that changed something: none; structure (a walk over the nodes, milliseconds); or "
    "numeric, the default, which runs the model on each of 2 probes and once on edge values: 3 inferences without a "
    "backend's speed. rtol, atol, probes and edges as in numeric,probes=1,edges=false, which takes a third"
)

Model = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]
Pipeline = Annotated[str | None, typer.Option("-p", "--pipeline", "--passes", help="such as 'cleanup,fuse,quantize'")]
Data = Annotated[str | None, typer.Option("-d", "--data", help="an .npz, or a factory that yields batches")]
TargetName = Annotated[str, typer.Option("-t", "--target", help=TARGET_HELP)]
Backend = Annotated[str | None, typer.Option("-b", "--backend", help="onnxruntime, tvm, or auto: the faster")]
MaxDrop = Annotated[str | None, typer.Option(help="how much worse the metric may get, such as 1%")]
Metric = Annotated[str | None, typer.Option(help="accuracy, spearman, perplexity, or file.py:function")]
Folder = Annotated[Path | None, typer.Option("-o", "--output", help="folder of the artifact, dist by default")]
Verify = Annotated[str | None, typer.Option(metavar="LEVEL[,KEY=N...]", help=VERIFY_HELP)]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="change a value of the recipe, as in passes.2.ratio=0.4"),
]
Fresh = Annotated[bool, typer.Option(help="build and measure anew what was built before")]
Json = Annotated[bool, typer.Option("--json", help="print the result as JSON on stdout")]
Threads = Annotated[int | None, typer.Option(min=1, help="threads to run with, instead of the target's")]
DumpDir = Annotated[Path | None, typer.Option(help="folder for the graph after each pass, with diffs")]
Instruments = Annotated[
    list[str] | None,
    typer.Option("--instrument", help="what watches the passes: stats, drift, memory, or module:Class"),
]
