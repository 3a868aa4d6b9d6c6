import numpy as np
import pytest

from planish.backends import backend_names, find_backend
from planish.backends.base import Port, bind
from planish.ir.errors import ModelError, UsageError

PORTS = (Port("ids", "int64", ("batch", "length")), Port("mask", "float32", ("batch", "2*length", 3)))


def arrays(batch: int = 2, length: int = 5, doubled: int = 10) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((batch, length), np.int64), np.zeros((2, doubled, 3), np.float32)


def test_inputs_go_by_position_by_name_or_both() -> None:
    ids, mask = arrays()
    for bound in (
        bind(PORTS, (ids, mask), {}),
        bind(PORTS, (), {"mask": mask, "ids": ids}),
        bind(PORTS, (ids,), {"mask": mask}),
    ):
        assert list(bound) == ["ids", "mask"]
        assert bound["ids"] is ids
        assert bound["mask"] is mask


def test_numbers_in_another_order_of_bytes_are_converted() -> None:
    ids, mask = (array + 7 for array in arrays())
    bound = bind(PORTS, (ids.astype(">i8"), mask.astype(">f4")), {})
    assert all(array.dtype.isnative for array in bound.values())
    assert np.array_equal(bound["ids"], ids)
    assert np.array_equal(bound["mask"], mask)


IDS, MASK = arrays()


@pytest.mark.parametrize(
    ("arguments", "named", "message"),
    [
        ((IDS,), {}, r"input 'mask' \(float32\[batch, 2\*length, 3\]\) is missing"),
        ((IDS, MASK, IDS), {}, r"has 2 inputs \(ids, mask\), but 3 were given"),
        ((IDS,), {"mast": MASK}, "no input 'mast'; did you mean 'mask'"),
        ((IDS,), {"zzz": MASK}, "no input 'zzz'; the inputs are ids, mask"),
        ((IDS,), {"ids": IDS, "mask": MASK}, "'ids' is given both by position and by name"),
        ((IDS.astype(np.int32), MASK), {}, r"'ids' must be int64\[batch, length\], got int32.*astype\('int64'\)"),
        ((IDS[0], MASK), {}, "'ids' must be .* the rank differs"),
        ((IDS, MASK[..., :2]), {}, "'mask' must be .* dimension 2 must be 3; if it may vary, .* dynamic_shapes"),
        ((IDS[:1], MASK), {}, "'mask' must be .* dimension 0 must be batch = 1"),
        ((IDS, MASK[:, :9]), {}, r"'mask': dimension 1 must be 2\*length = 10, got 9"),
        ((IDS, np.ma.masked_equal(MASK, 0)), {}, r"'mask' is a masked array: fill it with .filled\(VALUE\)"),
    ],
)
def test_what_does_not_fit_is_named(arguments, named, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        bind(PORTS, arguments, named)


def test_a_dimension_over_unknown_symbols_is_free() -> None:
    assert bind((Port("x", "float32", ("past + 1",)),), (np.zeros(4, np.float32),), {})


def test_backends_are_found_by_name() -> None:
    assert backend_names() == ("onnxruntime", "tvm")
    assert [find_backend(name).name for name in backend_names()] == ["onnxruntime", "tvm"]
    with pytest.raises(UsageError, match="unknown backend 'onnxruntim'; did you mean 'onnxruntime'"):
        find_backend("onnxruntim")
