"""What an archive holds is never run in order to read it."""

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.export.pt2_archive import PT2ArchiveReader, PT2ArchiveWriter

from planish.frontends.torch import read_pt2
from planish.ir.errors import ModelError

Records = dict[str, bytes]
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"


class Thrice(nn.Linear):
    """A layer whose result has a size that is computed."""

    def __init__(self) -> None:
        super().__init__(4, 3)

    def forward(self, x):
        return super().forward(torch.cat([x, x, x]))


class Bomb:
    """Leaves a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Records:
    """What an innocent archive consists of."""
    path = tmp_path_factory.mktemp("archive") / "model.pt2"
    torch.export.save(torch.export.export(Thrice(), (torch.ones(4, 4),), dynamic_shapes=({0: Dim("n")},)), path)
    with PT2ArchiveReader(str(path)) as reader:
        return {name: reader.read_bytes(name) for name in reader.get_file_names()}


def write(records: Records, path: Path) -> None:
    with PT2ArchiveWriter(str(path)) as writer:
        for name, content in records.items():
            if not name.startswith(".data/") and name != "byteorder":  # the writer's own
                writer.write_bytes(name, content)


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def edited(content: bytes, edit: Callable[[dict], object]) -> bytes:
    config = json.loads(content)
    edit(config["config"])
    return json.dumps(config).encode()


def in_sample_inputs(records: Records, mark: Path) -> Records:
    return {"data/sample_inputs/model.pt": saved((Bomb(mark),))}


def in_a_weight(records: Records, mark: Path) -> Records:
    config = edited(records[WEIGHTS], lambda entries: entries["bias"].update(use_pickle=True, tensor_meta=None))
    return {WEIGHTS: config, "data/weights/weight_1": saved(Bomb(mark))}


def in_an_object(records: Records, mark: Path) -> Records:
    entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": False, "tensor_meta": None}
    config = edited(records[CONSTANTS], lambda entries: entries.update(thing=entry))
    return {CONSTANTS: config, "data/constants/opaque_obj_0": pickle.dumps(Bomb(mark))}


def in_the_weights_of_old_archives(records: Records, mark: Path) -> Records:
    return {"data/weights/model.pt": saved({"weight": Bomb(mark)})}


def in_a_size(records: Records, mark: Path) -> Records:
    code = f"__import__('pathlib').Path('{mark}').touch()"
    return {
        "models/model.json": records["models/model.json"].replace(b'"expr_str": "', f'"expr_str": "{code} or '.encode())
    }


def in_a_text_of_a_size(records: Records, mark: Path) -> Records:
    code = f"S(\\\"__import__('pathlib').Path('{mark}').touch()\\\")"
    return {
        "models/model.json": records["models/model.json"].replace(b'"expr_str": "', f'"expr_str": "{code} + '.encode())
    }


def in_a_library(records: Records, mark: Path) -> Records:
    return {"data/aotinductor/model/model.so": b""}


def test_records_as_they_are_make_a_graph(records: Records, tmp_path: Path) -> None:
    write(records, tmp_path / "model.pt2")
    assert read_pt2(tmp_path / "model.pt2").outputs["output"].shape == ("3 * x_0", 3)


@pytest.mark.parametrize(
    ("plant", "reason"),
    [
        (in_sample_inputs, "its sample inputs are more than tensors"),
        (in_a_weight, "bias is pickled"),
        (in_an_object, "it holds data/constants/opaque_obj_0"),
        (in_the_weights_of_old_archives, "it holds data/weights/model.pt"),
        (in_a_size, 'it has the size "__import__'),
        (in_a_text_of_a_size, "it has the size 'S("),
        (in_a_library, "it holds data/aotinductor/model/model.so"),
    ],
)
def test_what_would_be_run_is_refused(
    records: Records, tmp_path: Path, plant: Callable[[Records, Path], Records], reason: str
) -> None:
    mark = tmp_path / "ran"
    write(records | plant(records, mark), tmp_path / "model.pt2")
    with pytest.raises(ModelError) as caught:
        read_pt2(tmp_path / "model.pt2")
    assert not mark.exists()
    assert str(caught.value).startswith(f"{tmp_path / 'model.pt2'} is refused: {reason}")
