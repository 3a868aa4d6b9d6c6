"""The card of an artifact for Hugging Face: `python model_card.py dist > README.md` beside the files of the upload."""

import json
import sys
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from planish.passes.units import show_bytes, show_seconds


def card(artifact: Path) -> ModelCard:
    manifest, measured = (json.loads((artifact / f"{name}.json").read_text()) for name in ("manifest", "measurements"))
    recipe, built = manifest["recipe"], measured["built"]
    result = EvalResult(
        task_type="other",
        dataset_type=recipe["data"]["evaluation"],
        dataset_name="evaluation data",
        metric_type=measured["metric"],
        metric_value=built["metric"],
    )
    data = ModelCardData(
        library_name="planish", tags=[built["backend"]], model_name=artifact.name, eval_results=[result]
    )
    shown = {
        measured["metric"]: ("metric", "{:.4f}".format),
        "size": ("size_bytes", show_bytes),
        "latency": ("latency_seconds", show_seconds),
    }
    table = "\n".join(
        f"| {name} | {show(measured['untouched'][key])} | {show(built[key])} |" for name, (key, show) in shown.items()
    )
    text = f"""---
{data.to_yaml()}
---

# {artifact.name}

Built by planish {manifest["planish"]} from `{recipe["model"]}`, by the passes {recipe["passes"]}.

| | untouched | built |
|-|-|-|
{table}
"""
    return ModelCard(text)


if __name__ == "__main__":
    print(card(Path(sys.argv[1])))
