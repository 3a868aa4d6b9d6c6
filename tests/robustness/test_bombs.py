"""Small files that ask for all the time or memory there are: each is refused within seconds, by what it asks for."""

import zipfile
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

import numpy as np
import onnx
import pytest
from numpy.lib import format as npy
from onnx import numpy_helper

from planish.backends.base import Port
from planish.driver.data import random_sample, read_data
from planish.driver.model import read_model
from planish.driver.optimize import optimize_file
from planish.driver.recipe_file import read_recipe
from planish.frontends.onnx import read_onnx
from planish.ir.dims import is_dim
from planish.ir.errors import ModelError, UsageError
from planish.ir.limits import MOST_STEPS
from planish.ir.ops.control import loop

PORTS = [Port("x", "float32", ("batch", 4))]
FUNCTIONS = """<ir_version: 10, opset_import: ["": 24, "f": 1]> net (float[n] x) => (float[n] y) { y = f.f40(x) }
<domain: "f", opset_import: ["": 24]> f0 (a) => (b) { b = Relu(a) }
""" + "".join(
    f'<domain: "f", opset_import: ["": 24, "f": 1]> f{n} (a) => (b) {{ t = f.f{n - 1}(a)  b = f.f{n - 1}(t) }}\n'
    for n in range(1, 41)
)
CYCLE = """<ir_version: 10, opset_import: ["": 24, "f": 1]> net (float[n] x) => (float[n] y) { y = f.me(x) }
<domain: "f", opset_import: ["": 24, "f": 1]> me (a) => (b) { b = f.me(a) }"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def save(body: str, path: Path, **weights: np.ndarray) -> None:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 24]> {body}')
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("text", "message"),
    [(FUNCTIONS, "would become 1,099,511,627,776 nodes"), (CYCLE, "the function 'me' calls itself")],
    ids=["double", "itself"],
)
def test_functions_that_double_or_call_themselves(text: str, message: str, path: Path) -> None:
    onnx.save(onnx.parser.parse_model(text), path)
    with pytest.raises(ModelError, match=message):
        read_onnx(path)


def test_loops_inside_loops_whose_states_grow(path: Path) -> None:
    """Each is read twice, until its types hold, and so is all that is in it."""
    body = "u9 = Identity(s9)"
    for depth in range(9, 0, -1):
        state = "x" if depth == 1 else f"s{depth - 1}"
        body = f"""n{depth} = Constant <value_int = 3> ()  c{depth} = Constant <value = bool {{1}}> ()
            u{depth - 1} = Loop (n{depth}, c{depth}, {state}) <
            body = g (int64 i{depth}, bool k{depth}, float[p] s{depth}) => (bool l{depth}, float[q] t{depth}) {{
            l{depth} = Identity(k{depth})  {body}  t{depth} = Concat <axis = 0> (u{depth}, u{depth}) }}>"""
    save(f"net (float[n] x) => (float[m] y) {{ {body} y = Relu(u0) }}", path)
    with pytest.raises(ModelError, match="7 of them bodies of loops; 24 and 6 are the most"):
        read_onnx(path)


@pytest.mark.parametrize("limit", [[2**62], None])
def test_a_loop_without_an_end(limit: list[int] | None) -> None:
    steps = []

    def body(number, condition, *held):
        steps.append(None)
        return (condition,)

    body.types = ()
    with pytest.raises(ValueError, match="it has not come to an end after 100,000 steps"):
        loop(limit, None, body=body)
    assert len(steps) == MOST_STEPS


@pytest.mark.parametrize(
    "body",
    [
        "r = Constant <value_ints = [1099511627776]> ()  t = Tile(x, r)",
        "r = Constant <value_ints = [1099511627776]> ()  t = ConstantOfShape(r)",
        "r = Constant <value_ints = [1099511627776, 2]> ()  t = Expand(x, r)",
        "r = Constant <value_ints = [1099511627776, 0]> ()  t = Pad(x, r)",
        "t = RandomNormal <shape = [1099511627776]> ()",
        "t0 = Identity(x)"
        + "".join(f"  t{n + 1} = Concat <axis = 0> (t{n}, t{n})" for n in range(40))
        + "t = Neg(t40)",
    ],
)
def test_tensors_of_terabytes(body: str, path: Path) -> None:
    save(f"net (float[2] x) => (float[m] y) {{ {body}  s = ReduceSum(t)  u = Identity(s)  y = Add(x, u) }}", path)
    with pytest.raises(ModelError, match=r"would take [\d,]+ bytes, more than the 4,294,967,296 that planish runs"):
        optimize_file(str(path), "remove-identities", None, target="x86-64")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("1099511627776", r"input 'x' would take 1,099,511,627,776 random numbers in the shape \[1099511627776\]"),
        ("n, 100000, 100000", "would take"),
        ("a,b,c,d,e,f,g,h,i", "9 axes of open"),
    ],
)
def test_inputs_beyond_all_bounds(shape: str, message: str, path: Path) -> None:
    save(f"net (float[{shape}] x) => (float[{shape}] y) {{ t = Identity(x)  y = Relu(t) }}", path)
    with pytest.raises(ModelError, match=message):
        optimize_file(str(path), "remove-identities", None, target="x86-64")


def test_inputs_of_narrow_numbers_are_not_drawn_in_wide_ones_first(path: Path) -> None:
    save("net (int8[600000000] x) => (int8[1] y) { t = Identity(x)  y = ReduceMax(t) }", path)
    before = getrusage(RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError, match=r"input 'x' would take 600,000,000 random numbers in the shape \[600000000\]"):
        optimize_file(str(path), "remove-identities", None, target="x86-64")
    with pytest.raises(ModelError, match="input 'x' would take 600,000,000 random numbers"):
        random_sample([Port("x", "int8", (600_000_000,))], {})
    assert getrusage(RUSAGE_SELF).ru_maxrss < before + (1 << 19)  # in KiB


def test_more_operands_than_a_node_has(path: Path) -> None:
    save(f"net (float[2] x) => (float[2] y) {{ y = Sum({', '.join(['x'] * 5000)}) }}", path)
    with pytest.raises(ModelError, match=r"node 'y' \(Sum\): Sum has 5,000 inputs and 1 outputs; 4,096 are the most"):
        read_onnx(path)


@pytest.mark.parametrize(
    "text",
    [
        "n" + "**8" * 30,
        "(" * 60 + "n" + ")**8" * 60,
        "((a+b+c+d+e+f+g)**8)**8",
        "(a+b+c+d+e+f+g+h+i+j+k+l+m+n)**8",
        "9" * 5000 + "*n",
        "n*" * 500 + "n*9" * 40,
        "-" * 1900 + "n",
        "(" * 900 + "n" + ")" * 900,
        "2**n**n",
        "n" * 3000,
    ],
    ids=lambda text: text[:20],
)
def test_dimensions_beyond_all_reason(text: str, path: Path) -> None:
    save("net (float[n] x) => (float[n] y) { y = Relu(x) }", path)
    model = onnx.load(path)
    shape = model.graph.input[0].type.tensor_type.shape
    shape.dim[0].dim_param = text
    for name in "abcdefghijklmn"[:6]:
        shape.dim.add(dim_param=name)
    onnx.save(model, path)
    assert len(str(read_onnx(path).inputs[0].type)) < 3000  # a symbol of its own, or the text where that is arithmetic
    assert len(text) < 1000 or not is_dim(text)


# -- arrays


def pack(path: Path, entries: dict[str, tuple[dict, bytes]], packing: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, (header, content) in entries.items():
            with archive.open(name, "w") as file:
                npy.write_array_header_1_0(file, {"fortran_order": False, "descr": "<f4", **header})
                file.write(content)


@pytest.mark.parametrize(
    ("shape", "content", "message"),
    [
        ((2**40, 4), b"", r"is an array of \[1099511627776, 4\] in 128 bytes"),
        ((2**40, 0), b"", "has 1,099,511,627,776 rows without elements; 1,048,576 are the most"),
        ((-1, 4), b"", "is an array of"),
        ((2, 4), bytes(31), r"is an array of \[2, 4\]"),
        ((2, 4), bytes(33), r"is an array of \[2, 4\]"),
        ((True, 4), bytes(16), ""),
    ],
)
def test_arrays_that_claim_more_than_they_hold(shape: tuple, content: bytes, message: str, tmp_path: Path) -> None:
    pack(tmp_path / "data.npz", {"x.npy": ({"shape": shape}, content)})
    with pytest.raises(ModelError, match=f"data.npz.*{message}"):
        read_data("data.npz", tmp_path, PORTS)


@pytest.mark.wide
def test_an_npz_that_unpacks_to_gigabytes(tmp_path: Path) -> None:
    rows = 75_000_000
    with (
        zipfile.ZipFile(tmp_path / "data.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x.npy", "w", force_zip64=True) as file,
    ):
        npy.write_array_header_1_0(file, {"fortran_order": False, "descr": "|u1", "shape": (rows, 16)})
        for _ in range(100):
            file.write(bytes(16 * rows // 100))
    assert (tmp_path / "data.npz").stat().st_size < 10_000_000
    with pytest.raises(ModelError, match=r"data.npz unpacks to 1,200,\d+,\d+ bytes, more than"):
        read_data("data.npz", tmp_path, PORTS)


@pytest.mark.parametrize(
    ("entries", "message"),
    [({"notes.txt": b"hello"}, "'notes.txt' is there twice, or no array"), ({"x.npy": b"hello"}, "magic string")],
)
def test_an_npz_with_something_else(entries: dict[str, bytes], message: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    with pytest.raises(ModelError, match=f"data.npz is not an .npz of plain arrays: .*{message}"):
        read_data("data.npz", tmp_path, PORTS)


def test_a_pt2_whose_records_are_packed(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt2", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data/weights/weight_0", bytes(100_000_000))
    with pytest.raises(ModelError, match=r"model.pt2 .* its records are compressed, which torch doesn't do"):
        read_model("model.pt2", tmp_path)


# -- recipes

ALIASES = "passes:\n - cse: &a {only: x}\n" + "".join(
    f" - cse: &{name} {{only: [{','.join([f'*{before}'] * 9)}]}}\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ALIASES, "values with what its aliases repeat; 10,000 are the most"),
        ("passes: &a [*a]", "nested too deeply, or in itself"),
        ("passes: " + "[" * 1000 + "]" * 1000, "nested too deeply, or in itself"),
        ("data: " + "{a: " * 1000 + "1" + "}" * 1000, "nested too deeply, or in itself"),
        ("x: [" + "1," * 200_000 + "]", "is longer than 262,144 bytes"),
        ("x: 2024-13-45", "is not YAML: month must be in 1..12"),
        ("seed: " + "9" * 5000, "is not YAML"),
        ("seed: -1", "'seed': Input should be greater than or equal to 0"),
        ("seed: 4294967296", "'seed': Input should be less than 4294967296"),
        ("output: 2024-01-01", "'output'"),
        ('output: "a\\0b"', "'output': no file can have such a name"),
        (f"output: {'x' * 300}", "'output': no file can have such a name"),
        (f"target: {'x/' * 3000}", "'target': no file can have such a name"),
        ("passes: ['" + "group(" * 1000 + "cse" + ")" * 1000 + "']", "more than 32 groups lie inside one another"),
        ("2024-01-01: x", "recipe.yaml"),
    ],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_recipes_beyond_all_reason(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(f"model: m.onnx\n{text}\n" if not text.startswith("model") else text)
    with pytest.raises(UsageError, match=message):
        read_recipe(tmp_path / "recipe.yaml").pipeline()
