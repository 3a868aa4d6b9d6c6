"""Published advisories on ONNX's files, as models that exploit them: nothing beyond their folder is read or written."""

import ast
import os
import re
import stat
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import planish
from planish.backends.onnx_file import write_onnx
from planish.frontends.onnx import read_onnx
from planish.ir.errors import ModelError

SECRET = bytes(range(200)) * 8
COUNT = len(SECRET)
BYTES = TensorProto.UINT8


def external(location: str, **entries: object) -> TensorProto:
    """A weight of as many bytes as the secret, in another file."""
    tensor = TensorProto(name="w", data_type=BYTES, dims=[COUNT], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def value(name: str, kind: int = BYTES, *dims: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, dims or [COUNT])


def as_initializer(tensor: TensorProto) -> onnx.ModelProto:
    return model([helper.make_node("BitwiseXor", ["x", "w"], ["y"])], [tensor])


def as_attribute(tensor: TensorProto) -> onnx.ModelProto:
    constant = helper.make_node("Constant", [], ["w"], value=tensor)
    return model([constant, helper.make_node("BitwiseXor", ["x", "w"], ["y"])])


def as_weight_of_a_branch(tensor: TensorProto) -> onnx.ModelProto:
    nodes = [[helper.make_node("BitwiseXor", ["x", "w"], ["a"])], [helper.make_node("Identity", ["x"], ["b"])]]
    then = helper.make_graph(nodes[0], "then", [], [value("a")], [tensor])
    other = helper.make_graph(nodes[1], "other", [], [value("b")])
    choice = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    made = model([choice])
    made.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    return made


def as_attribute_in_a_branch(tensor: TensorProto) -> onnx.ModelProto:
    made = as_weight_of_a_branch(tensor)
    branch = next(attribute.g for attribute in made.graph.node[0].attribute if attribute.name == "then_branch")
    del branch.initializer[:]
    branch.node.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))
    return made


def as_attribute_in_a_function(tensor: TensorProto) -> onnx.ModelProto:
    body = [
        helper.make_node("Constant", [], ["w"], value=tensor),
        helper.make_node("BitwiseXor", ["a", "w"], ["b"]),
    ]
    versions = [helper.make_opsetid("", 24)]
    made = model([helper.make_node("mine", ["x"], ["y"], domain="test")])
    made.functions.append(helper.make_function("test", "mine", ["a"], ["b"], body, versions))
    made.opset_import.append(helper.make_opsetid("test", 1))
    return made


def model(nodes: list[onnx.NodeProto], weights: list[TensorProto] | None = None) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "net", [value("x")], [value("y")], weights or [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=10)


PLACES = [
    as_initializer,
    as_attribute,
    as_weight_of_a_branch,
    as_attribute_in_a_branch,
    as_attribute_in_a_function,
]
everywhere = pytest.mark.parametrize("place", PLACES)
Place = Callable[[TensorProto], onnx.ModelProto]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the model lies; what it must not see is beside."""
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


def refused(made: onnx.ModelProto, folder: Path, message: str) -> None:
    onnx.save(made, folder / "model.onnx")
    with pytest.raises(ModelError, match=message):
        read_onnx(folder / "model.onnx")


@everywhere
def test_data_beside_the_model_is_found_from_wherever_one_stands(place: Place, folder: Path, monkeypatch) -> None:
    (folder / "weights").mkdir()
    (folder / "weights" / "w.bin").write_bytes(b"12" + SECRET)
    onnx.save(place(external("weights/w.bin", offset=2, length=COUNT)), folder / "model.onnx")
    elsewhere = folder.parent / "elsewhere"
    (elsewhere / "weights").mkdir(parents=True)
    (elsewhere / "weights" / "w.bin").write_bytes(bytes(COUNT + 2))
    monkeypatch.chdir(elsewhere)
    graph = read_onnx(folder / "model.onnx")
    write_onnx(graph, folder / "again.onnx")
    assert SECRET in (folder / "again.onnx").read_bytes()


@everywhere
@pytest.mark.parametrize("location", ["../secret", "../folder/../secret", "{absolute}", "/proc/self/environ", ""])
def test_cve_2022_25882_paths_out_of_the_folder(place: Place, folder: Path, location: str) -> None:
    refused(place(external(location.format(absolute=folder.parent / "secret"))), folder, "outside the model's folder")


@everywhere
@pytest.mark.parametrize("location", ["folder/../../secret", "..../../secret", "./../secret", "a/b/../../../secret"])
def test_cve_2024_27318_paths_that_leave_it_later(place: Place, folder: Path, location: str) -> None:
    (folder / "folder").mkdir()
    (folder / "....").mkdir()
    refused(place(external(location)), folder, "outside the model's folder")


@everywhere
@pytest.mark.parametrize("location", ["..\\secret", "a\0b", "c:\\secret", "x" * 5000, "x" * 300])
def test_paths_of_other_systems_and_none(place: Place, folder: Path, location: str) -> None:
    refused(
        place(external(location)), folder, "can't be read: (it must be a relative path|its path has|File name too long)"
    )


@pytest.mark.parametrize("key", ["location", "w.bin", "12345"])
def test_texts_that_are_no_utf_8(folder: Path, key: str) -> None:
    (folder / "w.bin").write_bytes(SECRET)
    onnx.save(as_initializer(external("w.bin", offset=12345)), folder / "model.onnx")
    written = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(written.replace(key.encode(), b"\xff" + key[1:].encode()))
    message = {"location": "outside the model's folder", "w.bin": r"'w'.*can't be read", "12345": "no number of bytes"}
    with pytest.raises(ModelError, match=message[key]) as refusal:
        read_onnx(folder / "model.onnx")
    str(refusal.value).encode()


def test_places_that_are_no_utf_8_are_escaped(folder: Path) -> None:
    made = model([helper.make_node("Not", ["x"], ["y"])])
    made.graph.input[0].CopyFrom(value("x", TensorProto.BOOL))
    made.graph.node[0].metadata_props.add(key="planish.module", value="place")
    (folder / "model.onnx").write_bytes(made.SerializeToString().replace(b"place", b"\xfflace"))
    (node,) = read_onnx(folder / "model.onnx").nodes
    assert node.location.module == r"\udcfflace"


def test_cve_2024_27319_long_names_in_messages_of_the_converter(folder: Path) -> None:
    """It read beyond the end of a message of more than 2048 characters."""
    for length in (2040, 2048, 2049, 4000):
        made = model([helper.make_node("Relu", ["x"], ["y"], name="n" * length, domain="d" * length)])
        made.opset_import[0].version = 9
        refused(made, folder, "model.onnx")


def test_cve_2024_5187_and_7776_archives_are_never_unpacked(folder: Path) -> None:
    """A model's archive from a hub wrote where its entries said; planish takes none, and fetches nothing."""
    with tarfile.open(folder / "model.onnx", "w:gz") as archive:
        archive.add(folder.parent / "secret", "../../written")
    with pytest.raises(ModelError, match="is not an ONNX"):
        read_onnx(folder / "model.onnx")
    assert {path.name for path in folder.parent.iterdir()} == {"secret", "folder"}


def test_cve_2025_51480_nothing_is_written_where_a_model_says(folder: Path) -> None:
    (folder / "w.bin").write_bytes(SECRET)
    onnx.save(as_initializer(external("w.bin")), folder / "model.onnx")
    graph = read_onnx(folder / "model.onnx")
    (folder / "w.bin").unlink()  # stays mapped
    (folder / "w.bin").symlink_to(folder.parent / "secret")
    write_onnx(graph, folder / "out" / "again.onnx", inline_bytes=0)
    assert {path.name for path in (folder / "out").iterdir()} == {"again.onnx", "again.onnx.data"}
    assert (folder.parent / "secret").read_bytes() == SECRET


def test_cve_2026_28500_the_hub_is_never_asked() -> None:
    """The hub's question of trust could be silenced; planish imports neither the hub nor anything to fetch with."""
    root = Path(planish.__file__).parent
    fetching = re.compile(r"onnx\.hub|urllib|requests|http|socket|huggingface_hub|torch\.hub")
    for folder in ("frontends", "ir", "passes", "backends", "driver", "targets"):
        for path in (root / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [f"{node.module}.{it.name}" for it in node.names] if isinstance(node, ast.ImportFrom) else []
                assert not any(map(fetching.match, names)), path


@everywhere
def test_cve_2026_27489_a_symbolic_link(place: Place, folder: Path) -> None:
    (folder / "w.bin").symlink_to("../secret")
    refused(place(external("w.bin")), folder, "can't be read: 'w.bin' is a symbolic link; give a copy")


@everywhere
@pytest.mark.parametrize("key", ["__class__", "__dict__", "length\0", "basepath", "name", "file"])
def test_cve_2026_34445_entries_that_mean_nothing(place: Place, folder: Path, key: str) -> None:
    """Each entry was set as an attribute of an object."""
    (folder / "w.bin").write_bytes(SECRET)
    onnx.save(place(external("w.bin", **{key: 2**62})), folder / "model.onnx")
    assert read_onnx(folder / "model.onnx")


@everywhere
@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"length": 2**62}, f"takes {COUNT} bytes, but {2**62} are given"),
        ({"length": -1}, "has the length '-1', which is no number of bytes"),
        ({"length": "9" * 5000}, "which is no number of bytes"),
        ({"offset": -COUNT}, "has the offset '-1600', which is no number of bytes"),
        ({"offset": 2**63 - 1}, "ends beyond"),
        ({"offset": 1}, "ends beyond"),
        ({"offset": "٣"}, "which is no number of bytes"),
    ],
)
def test_cve_2026_34445_places_out_of_range(place: Place, folder: Path, entries: dict, message: str) -> None:
    (folder / "w.bin").write_bytes(SECRET)
    refused(place(external("w.bin", **entries)), folder, message)


@everywhere
def test_cve_2026_34446_a_hard_link(place: Place, folder: Path) -> None:
    os.link(folder.parent / "secret", folder / "w.bin")
    refused(place(external("w.bin")), folder, "can't be read: it is a hard link")


@everywhere
def test_cve_2026_34447_a_link_on_the_way(place: Place, folder: Path) -> None:
    (folder / "inner").symlink_to("..")
    refused(place(external("inner/secret")), folder, "can't be read: 'inner' is a symbolic link")


def test_ghsa_q56x_g2fj_4rj6_a_file_that_is_exchanged_meanwhile(folder: Path) -> None:
    """A link that comes and goes is either found or the file itself was read: nothing lies between check and use."""
    innocent = bytes(COUNT)
    onnx.save(as_initializer(external("w.bin")), folder / "model.onnx")
    (folder / "link").symlink_to("../secret")
    ended = threading.Event()

    def exchange() -> None:
        while not ended.is_set():
            (folder / "new").write_bytes(innocent)
            (folder / "new").replace(folder / "w.bin")
            (folder / "linked").symlink_to("../secret")
            (folder / "linked").replace(folder / "w.bin")

    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        for _ in range(200):
            try:
                found = read_onnx(folder / "model.onnx").constants["w"].data
            except ModelError:
                continue
            assert not np.any(found)
    finally:
        ended.set()
        thread.join()


@everywhere
def test_neither_pipes_nor_devices_nor_folders_are_read(place: Place, folder: Path) -> None:
    os.mkfifo(folder / "w.bin")
    refused(place(external("w.bin")), folder, "can't be read: it is no regular file")
    refused(place(external(".")), folder, "can't be read")
    (folder / "inner").mkdir()
    refused(place(external("inner")), folder, "can't be read: Is a directory")
    refused(place(external("w.bin/x")), folder, "can't be read: Not a directory")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_a_device_is_not_read(folder: Path) -> None:
    try:
        os.mknod(folder / "w.bin", stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero
    except PermissionError:
        pytest.skip("this container lets nobody make devices")
    refused(as_initializer(external("w.bin")), folder, "can't be read")


def test_the_model_itself_is_a_regular_file(folder: Path) -> None:
    os.mkfifo(folder / "model.onnx")
    with pytest.raises(ModelError, match=r"model.onnx can't be read: it is no regular file"):
        read_onnx(folder / "model.onnx")


@everywhere
def test_texts_in_another_file(place: Place, folder: Path) -> None:
    (folder / "w.bin").write_bytes(SECRET)
    tensor = external("w.bin")
    tensor.data_type = TensorProto.STRING
    refused(place(tensor), folder, "has texts in another file, which the standard doesn't allow")
