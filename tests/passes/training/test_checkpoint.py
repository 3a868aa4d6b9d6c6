"""Checkpoints: a training that is killed at any moment and goes on gives the same bytes as one that isn't."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from planish.ir.errors import ModelError
from planish.passes.training.checkpoint import Checkpoint, State

PROGRAM = """
import os, signal, sys
from pathlib import Path
import numpy as np, torch
import planish
from planish.driver.reporter import Reporter
from planish.ir.types import DType, TensorType
from planish.passes.training import checkpoint

torch.set_num_threads(1)
checkpoint.SECONDS = checkpoint._SHARE = 0  # after each step
folder = Path(sys.argv[1])

class Steps(Reporter):
    count = 0

    def progress(self, description, done, total):
        self.count += 1
        if self.count == self.last:
            os.kill(os.getpid(), signal.SIGKILL)

random = np.random.default_rng(0)
source = planish.Graph()
op = planish.Builder(source)
x = source.add_input("x", TensorType(DType.float32, ("batch", 6)))
h = op.Relu(op.Gemm(x, random.standard_normal((6, 8), np.float32), np.zeros(8, np.float32)))
source.outputs["y"] = op.Gemm(h, random.standard_normal((8, 3), np.float32), np.ones(3, np.float32))
student = source.clone()
for constant in student.constants.values():
    constant.data = constant.data + 0.3 * random.standard_normal(constant.shape, np.float32)
planish.write(source, folder / "teacher.planish")
pipeline = f'distill{{{sys.argv[2]},average=0.5,clip=5,teacher="{folder}/teacher.planish"}}'
data = [{"x": random.standard_normal((16, 6), np.float32)} for _ in range(12)]

def train(name, last=0):
    if child := os.fork():
        return os.waitpid(child, 0)[1]
    reporter = Steps()
    reporter.last = last
    made = planish.optimize(student, pipeline, data=data, checkpoints=folder / name, reporter=reporter)
    planish.write(made.graph, folder / f"{name}.planish")
    (folder / f"{name}.steps").write_text(str(reporter.count))
    os._exit(0)

print([train("whole"), *(train("killed", last) for last in (9, 20, 31)), train("killed")])
"""


@pytest.mark.wide
@pytest.mark.parametrize(
    "options",
    [
        "epochs=10",
        "epochs=10,optimizer=sgd,weight_decay=0.01",
        "epochs=20,accumulate=2,sparsity=0.5,pattern=unstructured",
    ],
)
def test_a_training_that_is_killed_and_goes_on_gives_the_same_bytes(options: str, tmp_path: Path) -> None:
    """It is killed in the first trial of a rate, in a later one, and in the training itself."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path, options], capture_output=True, text=True, check=False
    )

    assert done.stdout.strip() == "[0, 9, 9, 9, 0]", done.stderr
    steps = [int((tmp_path / f"{name}.steps").read_text()) for name in ("whole", "killed")]
    assert steps[1] == steps[0] - 60
    assert (tmp_path / "killed.planish").read_bytes() == (tmp_path / "whole.planish").read_bytes()


def state() -> State:
    return State([(1.5, float("inf")), (0.1, 0.2)], 3, [0.25, 1 / 3], {"weight.0": torch.arange(6.0).reshape(2, 3).T})


def test_what_is_kept_is_read_again(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "new", "a" * 64)
    assert checkpoint.read() == State()

    checkpoint.write(state())

    found = Checkpoint(tmp_path / "new", "a" * 64).read()
    assert (found.verdicts, found.steps, found.losses) == (state().verdicts, 3, state().losses)
    np.testing.assert_array_equal(found.tensors["weight.0"], state().tensors["weight.0"])
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a" * 32 + ".safetensors"]
    assert Checkpoint(tmp_path / "new", "b" * 64).read() == State()


def test_a_checkpoint_of_another_model_or_a_broken_one_is_refused(tmp_path: Path) -> None:
    Checkpoint(tmp_path, "a" * 64).write(state())
    file = tmp_path / ("a" * 32 + ".safetensors")

    with pytest.raises(ModelError, match="the checkpoint of another training, or another model: remove it"):
        Checkpoint(tmp_path, "a" * 32 + "b" * 32).read()
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ModelError, match="is no checkpoint, or a broken one: remove it"):
        Checkpoint(tmp_path, "a" * 64).read()


def test_without_a_folder_nothing_is_kept(tmp_path: Path) -> None:
    checkpoint = Checkpoint(None, "a" * 64)
    checkpoint.write(state())
    assert not checkpoint.is_due
    assert checkpoint.read() == State()
