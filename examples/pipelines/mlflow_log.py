"""A run in MLflow of an artifact for ONNX Runtime: `python mlflow_log.py dist`."""

import json
import sys
from pathlib import Path

import mlflow
import onnx


def log(artifact: Path) -> str:
    """Log an artifact; return the run's name by which MLflow finds it."""
    manifest, measured = (json.loads((artifact / f"{name}.json").read_text()) for name in ("manifest", "measurements"))
    with mlflow.start_run() as run:
        mlflow.log_params({"model": manifest["recipe"]["model"], "passes": json.dumps(manifest["recipe"]["passes"])})
        mlflow.log_metrics({name: measured["built"][name] for name in ("metric", "size_bytes", "latency_seconds")})
        mlflow.log_dict(manifest, "manifest.json")
        mlflow.onnx.log_model(onnx.load(artifact / "model.onnx"), name="model")
        return run.info.run_id


if __name__ == "__main__":
    print(log(Path(sys.argv[1])))
