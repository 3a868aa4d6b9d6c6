"""Does `auto` take the same backend beside other work as on an idle machine?

Three models are compiled by ONNX Runtime and by TVM. Then the choice between the two is made again and again as a build
makes it: first with the machine as it is, which should be idle, and then beside a process that keeps one core busy.

    pip install -e ".[torch,onnxruntime,tvm]"
    python benchmarks/busy.py
"""

import argparse
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import planish
from planish.backends import find_backend
from planish.driver.data import random_sample
from planish.driver.lowering import Candidate, Contest, lower
from planish.driver.measurement import interleaved
from planish.ir.drafts import workspace
from planish.targets.load import load_target


def perceptron() -> tuple[nn.Module, torch.Tensor]:
    layers = [nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 64)]
    return nn.Sequential(*layers), torch.randn(64, 512)


def convolutions() -> tuple[nn.Module, torch.Tensor]:
    layers = [nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers), torch.randn(1, 3, 56, 56)


def transformer() -> tuple[nn.Module, torch.Tensor]:
    return nn.TransformerEncoderLayer(128, 4, 512, batch_first=True), torch.randn(1, 64, 128)


MODELS: list[Callable[[], tuple[nn.Module, torch.Tensor]]] = [perceptron, convolutions, transformer]


def spin() -> None:
    while True:
        pass


def compiled(make: Callable[[], tuple[nn.Module, torch.Tensor]], folder: Path) -> list[Candidate]:
    torch.manual_seed(0)
    module, x = make()
    graph = planish.optimize(planish.trace(module.eval(), (x,)), "cleanup,fuse").graph
    target = load_target("native")
    return [lower(graph, find_backend(name), target, folder / name) for name in ("onnxruntime", "tvm")]


def choice(candidates: list[Candidate]) -> tuple[str, str]:
    """The backend that is taken, and its latency."""
    sample = random_sample(candidates[0].executable.inputs, 1)
    latencies = interleaved([lambda model=it.executable: model.run(sample) for it in candidates])
    best, latency = Contest(candidates, latencies).winner
    return best.backend, str(latency)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20, help="how often each choice is made")
    arguments = parser.parse_args()
    with workspace() as folder:
        subjects = {make.__name__: compiled(make, Path(folder, make.__name__)) for make in MODELS}
        for situation in ("as it is", "one core busy"):
            other = multiprocessing.get_context("spawn").Process(target=spin, daemon=True)
            if situation != "as it is":
                other.start()
                time.sleep(1.0)
            for name, candidates in subjects.items():
                start = time.perf_counter()
                taken = [choice(candidates) for _ in range(arguments.times)]
                seconds = (time.perf_counter() - start) / arguments.times
                counts = dict(Counter(backend for backend, _ in taken))
                print(
                    f"{situation:14} {name:13} {counts}, {seconds:.1f} s a choice; the last: {taken[-1][1]}", flush=True
                )
            if other.is_alive():
                other.kill()


if __name__ == "__main__":
    main()
