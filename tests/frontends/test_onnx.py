import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from planish.backends.onnx_file import write_onnx
from planish.frontends.onnx import read_onnx
from planish.ir.equal import differences
from planish.ir.errors import ModelError
from planish.ir.interpreter import Interpreter
from planish.ir.module import to_module
from planish.ir.text import parse_graph, print_graph, weights
from planish.ir.types import DType, TensorType
from planish.ir.verify import verify


@pytest.fixture
def save(tmp_path):
    """Writes a model in ONNX's textual syntax to a file."""

    def save(body: str, *, opset: int = 24, **weights: np.ndarray) -> Path:
        model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}, "test": 1]> {body}')
        model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
        path = tmp_path / "model.onnx"
        onnx.save(model, path)
        return path

    return save


def test_inputs_outputs_and_weights(save) -> None:
    weight = np.arange(12, dtype=np.float32).reshape(4, 3)
    graph = read_onnx(save("net (float[batch, 4] x) => (float[batch, 3] y) { y = MatMul(x, w) }", w=weight))
    assert [(value.name, value.type) for value in graph.inputs] == [("x", TensorType(DType.float32, ("batch", 4)))]
    assert {name: value.type for name, value in graph.outputs.items()} == {"y": TensorType(DType.float32, ("batch", 3))}
    assert np.array_equal(graph.constants["w"].data, weight)


def test_a_weight_that_is_also_an_input_is_a_constant(save) -> None:
    graph = read_onnx(save("net (float[2] x, float[2] w) => (float[2] y) { y = Add(x, w) }", w=np.ones(2, np.float32)))
    assert [value.name for value in graph.inputs] == ["x"]
    assert list(graph.constants) == ["w"]


@pytest.mark.parametrize("dtype", [dtype for dtype in DType if dtype.is_foreign], ids=str)
@pytest.mark.parametrize("raw", [False, True], ids=["numbers", "bytes"])
@pytest.mark.parametrize("count", [5, 5000])
def test_weights_of_types_that_numpy_lacks(dtype: DType, raw: bool, count: int, tmp_path) -> None:
    wanted = np.resize(np.array([1, 0.5, -2 if dtype is DType.int2 else 2, 1, 0.5]).astype(dtype.numpy), count)
    weight = numpy_helper.from_array(wanted, "w")
    if not raw:
        weight = helper.make_tensor("w", dtype.value, [count], wanted.astype(np.float32).tolist())
    x = helper.make_tensor_value_info("x", dtype.value, [count])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [count])
    body = helper.make_graph([helper.make_node("Cast", ["w"], ["y"], to=1)], "net", [x], [y], [weight])
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 28)]), tmp_path / "model.onnx")
    got = read_onnx(tmp_path / "model.onnx").constants["w"].data
    assert got.dtype == wanted.dtype
    assert got.tobytes() == wanted.tobytes()


def test_constant_nodes_become_constants(save) -> None:
    graph = read_onnx(
        save(
            """net (float[6] x) => (float[2, 3] y) {
                shape = Constant <value_ints = [2, 3]> ()
                half = Constant <value_float = 0.5> ()
                one = Constant <value = float {1}> ()
                r = Reshape(x, shape)
                h = Mul(r, half)
                y = Add(h, one)
            }"""
        )
    )
    assert len(graph) == 3
    assert {constant.dtype for constant in graph.constants.values()} == {DType.int64, DType.float32}
    assert np.array_equal(
        Interpreter(graph).run({"x": np.arange(6, dtype=np.float32)})["y"].ravel(), np.arange(6) / 2 + 1
    )


@pytest.mark.parametrize(
    ("opset", "body"),
    [
        (11, "net (float[n, 3, 4] x) => (float[n, 3, 4] y) { y = Softmax <axis = 1> (x) }"),  # over all axes from 1 on
        (6, "net (float[n, 3, 4] x) => (float[n, 3, 4] y) { y = Clip <min = 0.25, max = 0.5> (x) }"),
        (9, "net (float[n, 3, 4] x) => (float[n, 3, 1] y) { y = ReduceSum <axes = [2]> (x) }"),
        (7, "net (float[n, 3, 4] x) => (float[n, 3, 4] y) { y, m = Dropout (x) }"),
        (
            10,
            (
                "net (float[n, 3, 4] x) => (float[n, 12] z) { y = Unsqueeze <axes = [0]> (x)  "
                "s = Squeeze <axes = [0]> (y)  z = Flatten (s) }"
            ),
        ),
    ],
)
def test_older_opsets_keep_their_meaning(save, opset: int, body: str) -> None:
    path = save(body, opset=opset)
    x = np.random.default_rng(0).random((2, 3, 4), dtype=np.float32)
    expected = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    (got,) = Interpreter(read_onnx(path)).run({"x": x}).values()
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_large_weights_survive_a_conversion(save) -> None:
    weight = np.random.default_rng(0).random((64, 64), dtype=np.float32)
    graph = read_onnx(save("net (float[n, 64] x) => (float[n, 64] y) { y = MatMul(x, w) }", opset=13, w=weight))
    assert [value.name for value in graph.inputs] == ["x"]
    assert np.array_equal(graph.constants["w"].data, weight)


def test_weights_of_old_models_need_not_be_inputs(save) -> None:
    path = save("net (float[2] x) => (float[2] y) { y = Mul(x, w) }", opset=7, w=np.ones(2, np.float32))
    model = onnx.load(path)
    model.ir_version = 3
    onnx.save(model, path)
    assert [node.operator for node in read_onnx(path).nodes] == ["Mul"]


def test_functions_of_the_model_are_inlined(tmp_path) -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 24, "mine": 1]>
        net (float[n] x) => (float[n] y) { y = mine.twice(x) }
        <domain: "mine", opset_import: ["": 24]> twice (a) => (b) { b = Add(a, a) }"""
    )
    onnx.save(model, tmp_path / "model.onnx")
    assert [node.operator for node in read_onnx(tmp_path / "model.onnx").nodes] == ["Add"]


def test_dynamic_dimensions_get_symbols_that_tell_them_apart(tmp_path) -> None:
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["?", 3, "?", "p2o.Dim.1"]),
        helper.make_tensor_value_info("z", TensorProto.FLOAT, ["p2o.Dim.1"]),
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    body = helper.make_graph([helper.make_node("Add", ["x", "z"], ["y"])], "net", inputs, [output])
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 24)]), tmp_path / "model.onnx")
    x, z = read_onnx(tmp_path / "model.onnx").inputs
    assert x.shape == ("x_0", 3, "x_2", "p2o_Dim_1")
    assert z.shape == ("p2o_Dim_1",)


class TestLocations:
    @staticmethod
    def read(tmp_path: Path, opset: int, name: str = "", **metadata: str) -> tuple[str, str]:
        node = helper.make_node("Relu", ["x"], ["y"], name=name)
        helper.set_metadata_props(node, {key.replace("__", "."): value for key, value in metadata.items()})
        values = [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["n"]) for value in ("x", "y")]
        body = helper.make_graph([node], "net", values[:1], values[1:])
        path = tmp_path / "model.onnx"
        onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), path)
        location = next(read_onnx(path).nodes).location
        return location.module, location.source

    def test_a_node_s_name_is_the_layer_and_else_its_output_s(self, tmp_path) -> None:
        assert self.read(tmp_path, 24, "/encoder/layer.0/Relu") == ("/encoder/layer.0/Relu", "")
        assert self.read(tmp_path, 24) == ("y", "")

    @pytest.mark.parametrize("opset", [18, 24])  # the first is converted
    def test_scopes_that_torch_noted_are_the_layer(self, tmp_path, opset: int) -> None:
        scopes = "['', 'encoder', 'encoder.layer.0', 'relu_1']"
        assert self.read(tmp_path, opset, "node_relu_1", pkg__torch__onnx__name_scopes=scopes) == (
            "encoder.layer.0",
            "",
        )

    def test_our_own_notes_come_back(self, tmp_path) -> None:
        noted = self.read(tmp_path, 24, "block/Relu", planish__module="block", planish__source="net.py:7")
        assert noted == ("block", "net.py:7")


class TestExternalData:
    @pytest.fixture
    def path(self, save) -> Path:
        weights = {"v": np.full(300, 2, np.float32), "w": np.arange(300, dtype=np.float32)}
        path = save("net (float[300] x) => (float[300] y) { t = Mul(x, v)  y = Add(t, w) }", **weights)
        onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
        return path

    def test_it_is_mapped_not_loaded(self, path: Path) -> None:
        graph = read_onnx(path)
        assert np.array_equal(graph.constants["w"].data, np.arange(300))
        base = graph.constants["w"].data
        while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
            base = base.base
        assert isinstance(base, np.memmap)

    def test_it_must_be_there_and_whole(self, path: Path) -> None:
        weights = path.parent / "weights.bin"
        with weights.open("r+b") as file:
            file.truncate(1500)
        with pytest.raises(ModelError, match=r"model.onnx: weight 'w' ends beyond .*weights.bin, which is truncated"):
            read_onnx(path)
        weights.unlink()
        with pytest.raises(ModelError, match=r"its weights in .*weights.bin can't be read"):
            read_onnx(path)

    def test_it_must_lie_beside_the_model(self, path: Path) -> None:
        inner = path.parent / "inner"
        inner.mkdir()
        model = onnx.load(path, load_external_data=False)
        for tensor in model.graph.initializer:
            tensor.external_data[0].value = "../weights.bin"
        onnx.save(model, inner / "model.onnx")
        with pytest.raises(ModelError, match=r"weight 'v' lies outside the model's folder: '../weights.bin'"):
            read_onnx(inner / "model.onnx")


class TestBadFiles:
    def test_missing(self, tmp_path) -> None:
        with pytest.raises(ModelError, match=r"nothing.onnx can't be read: No such file"):
            read_onnx(tmp_path / "nothing.onnx")

    def test_a_folder(self, tmp_path) -> None:
        with pytest.raises(ModelError, match="can't be read: Is a directory"):
            read_onnx(tmp_path)

    @pytest.mark.parametrize("content", [b"", b"not a model at all\n", b"\x89PNG\r\n\x1a\n" + bytes(100)])
    def test_something_else(self, tmp_path, content: bytes) -> None:
        path = tmp_path / "model.onnx"
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"model.onnx is not an ONNX"):
            read_onnx(path)

    @pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
    def test_truncated(self, save, share: float) -> None:
        path = save("net (float[9, 9] x) => (float[9, 9] y) { y = MatMul(x, w) }", w=np.eye(9, dtype=np.float32))
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(ModelError, match=r"model\.onnx"):
            read_onnx(path)

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ("{ y = test.Foo(x) }", r"node 'y' \(Foo\): unknown operator test::Foo"),
            ("{ y = Add(x, missing) }", "'missing' is read by node y, but nothing defines it"),
            ("{ y = Concat <axis = 3> (x, x) }",
             r"node 'y' \(Concat\): Concat\(float32\[n, 2\], float32\[n, 2\]\) can't be"),
        ],
    )  # fmt: skip
    def test_what_planish_can_t_take_is_named(self, save, body: str, message: str) -> None:
        with pytest.raises(ModelError, match=message):
            read_onnx(save(f"net (float[n, 2] x) => (float[n, 2] y) {body}"))

    def test_an_unknown_operator_comes_with_the_nearest_name(self, tmp_path) -> None:
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y")]
        body = helper.make_graph([helper.make_node("Relux", ["x"], ["y"], name="act")], "net", values[:1], values[1:])
        path = tmp_path / "model.onnx"
        onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 24)]), path)
        with pytest.raises(
            ModelError, match=r"model.onnx: node 'act' \(Relux\): unknown operator Relux; did you mean Relu"
        ):
            read_onnx(path)

    def test_nan_weights(self, save) -> None:
        broken = np.array([1, np.nan], np.float32)
        with pytest.raises(ModelError, match="weight 'w' of y holds NaN"):
            read_onnx(save("net (float[2] x) => (float[2] y) { y = Add(x, w) }", w=broken))

    def test_infinite_weights_are_masks(self, save) -> None:
        mask = np.array([0, -np.inf], np.float32)
        assert read_onnx(save("net (float[2] x) => (float[2] y) { y = Add(x, w) }", w=mask))


def test_an_input_without_a_rank_goes_through(tmp_path) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    body = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "net", values[:1], values[1:])
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 24)]), tmp_path / "model.onnx")
    graph = read_onnx(tmp_path / "model.onnx")
    assert str(graph.outputs["y"].type) == "float32[...]"
    assert Interpreter(graph).run({"x": np.array([[-1.0, 2.0]], np.float32)})["y"].tolist() == [[0.0, 2.0]]


BRANCHES = """net (bool c, float[n, 3] x) => (float[m, 3] y) {
    w = Constant <value = float[1, 3] {1, 2, 3}> ()
    y = If (c) <then_branch = g () => (float[n, 3] t) { t = Mul(x, w) },
                else_branch = h () => (float[k, 3] t) { u = Concat <axis = 0> (x, w)  t = Relu(u) }>
}"""
LOOP = """net (int64 steps, float[n] x) => (float[m] grown, float[k, m2] sums) {
    always = Constant <value = bool {1}> ()
    grown, sums = Loop (steps, always, x) <
      body = g (int64 i, bool c, float[p] s) => (bool c2, float[q] s2, float[1] sum) {
        c2 = Identity(c)  sum = ReduceSum(s)  two = Concat <axis = 0> (s, sum)  s2 = Identity(two) }>
}"""
SCAN = """net (float[2] start, float[n, 2] x) => (float[2] last, float[2, n] all) {
    last, all = Scan <num_scan_inputs = 1, scan_input_directions = [1], scan_output_axes = [1],
        body = g (float[2] s, float[2] row) => (float[2] s2, float[2] out) {
          s2 = Add(s, row)  out = Mul(s2, start) }> (start, x)
}"""
SEQUENCES = """net (float[4, 2] x, int64 at) => (float[...] y) {
    parts = SplitToSequence <axis = 0> (x)
    doubled = SequenceMap (parts) <body = g (float[1, 2] p) => (float[1, 2] d) { d = Add(p, p) }>
    one = SequenceAt(doubled, at)
    more = SequenceInsert(doubled, one)
    y = ConcatFromSequence <axis = 0> (more)
}"""


@pytest.mark.parametrize(
    ("body", "feeds"),
    [
        (BRANCHES, {"c": np.array(True), "x": np.ones((2, 3), np.float32)}),
        (BRANCHES, {"c": np.array(False), "x": np.ones((2, 3), np.float32)}),
        (LOOP, {"steps": np.array(3), "x": np.ones(2, np.float32)}),
        (SCAN, {"start": np.array([1, 2], np.float32), "x": np.arange(6, dtype=np.float32).reshape(3, 2)}),
        (SEQUENCES, {"x": np.arange(8, dtype=np.float32).reshape(4, 2), "at": np.array(1)}),
    ],
)
def test_graphs_inside_nodes_and_sequences(save, tmp_path, body: str, feeds: dict[str, np.ndarray]) -> None:
    """They read, print and run as ONNX Runtime runs the file, and as it runs what is written again."""
    path = save(body.replace("[...]", "[a, b]"))
    graph = read_onnx(path)
    verify(graph)
    assert differences(graph, parse_graph(print_graph(graph), weights(graph))) == []
    assert differences(graph, graph.clone()) == []
    expected = _run_file(path, feeds)
    write_onnx(graph, tmp_path / "again.onnx")
    with torch.no_grad():
        module = to_module(graph)(*map(torch.from_numpy, feeds.values()))
    found = Interpreter(graph).run(feeds)
    assert len(found) == len(expected)
    for wanted, *others in zip(
        expected, found.values(), _run_file(tmp_path / "again.onnx", feeds), module, strict=True
    ):
        for other in others:
            np.testing.assert_array_equal(np.asarray(other), wanted)


def _run_file(path: Path, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feeds)


def test_a_branch_that_is_known_to_be_taken_is_part_of_the_graph(save) -> None:
    body = BRANCHES.replace("net (bool c, ", "net (").replace(
        "    w = ", "    c = Constant <value = bool {0}> ()\n    w = "
    )
    graph = read_onnx(save(body))
    assert [node.operator for node in graph.nodes] == ["Concat", "Relu"]
    assert str(graph.outputs["y"].type) == "float32[n + 1, 3]"


def test_nodes_may_come_in_any_order(save) -> None:
    graph = read_onnx(save("net (float[2] x) => (float[2] y) { y = Relu(t)  t = Neg(x) }"))
    assert [node.operator for node in graph.nodes] == ["Neg", "Relu"]


def test_the_file_may_be_moved_away_after_reading(save) -> None:
    path = save("net (float[2] x) => (float[2] y) { y = Add(x, w) }", w=np.ones(2, np.float32))
    graph = read_onnx(path)
    shutil.rmtree(path.parent)
    assert np.array_equal(Interpreter(graph).run({"x": np.ones(2, np.float32)})["y"], [2, 2])
