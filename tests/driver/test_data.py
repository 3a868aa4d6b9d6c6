import re
from pathlib import Path

import numpy as np
import pytest

from planish.backends.base import Port
from planish.driver.data import cut, doubts, held_out, make_batches, random_sample, read_data, single_sample
from planish.driver.user_code import isolated_imports
from planish.ir.errors import ModelError, UsageError
from planish.ir.types import DType

OPEN = [Port("features", "float32", ("batch", 8))]
FIXED = [Port("features", "float32", (3, 8))]


def features(count: int) -> np.ndarray:
    return np.arange(count * 8, dtype=np.float32).reshape(count, 8)


def test_npz_is_cut_into_batches(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", features=features(70), labels=np.arange(70))
    batches = read_data("data.npz", tmp_path, OPEN)
    assert [len(batch.labels) for batch in batches] == [17, 17, 17, 17, 2]
    np.testing.assert_array_equal(np.concatenate([batch.inputs["features"] for batch in batches]), features(70))
    np.testing.assert_array_equal(np.concatenate([batch.labels for batch in batches]), np.arange(70))


def test_a_lone_batch_is_cut_as_an_npz_is() -> None:
    batches = cut({"features": features(70), "labels": np.arange(70)}, OPEN)
    assert [len(batch["labels"]) for batch in batches] == [17, 17, 17, 17, 2]
    assert [len(batch["features"]) for batch in cut(features(5), OPEN)] == [1] * 5


def test_a_lone_batch_that_is_no_row_of_samples_stays_whole() -> None:
    whole = features(3)
    assert cut(whole, FIXED) == [whole]
    rate = {"features": whole, "rate": np.float32(1)}
    assert cut(rate, [*OPEN, Port("rate", "float32", ())]) == [rate]
    pair = {"features": whole, "others": features(2)}
    assert cut(pair, [*OPEN, Port("others", "float32", ("batch", 8))]) == [pair]


def test_npz_follows_a_fixed_batch(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", features=features(6))
    batches = read_data("data.npz", tmp_path, FIXED)
    assert [batch.inputs["features"].shape for batch in batches] == [(3, 8), (3, 8)]
    np.savez(tmp_path / "data.npz", features=features(7))
    with pytest.raises(ModelError, match="holds 7 samples, but the model takes 3 at a time"):
        read_data("data.npz", tmp_path, FIXED)


def test_batches_of_another_size_are_split_and_joined_for_a_fixed_batch() -> None:
    x = np.arange(96, dtype=np.float32).reshape(12, 8)
    for sizes in ((12,), (6, 6), (4, 4, 4), (3, 5, 4)):
        starts = np.cumsum(sizes)[:-1]
        items = list(zip(np.split(x, starts), np.split(np.arange(12), starts), strict=True))
        batches = make_batches(items, FIXED, "data")
        assert [batch.inputs["features"].shape for batch in batches] == [(3, 8)] * 4
        assert np.array_equal(np.concatenate([batch.inputs["features"] for batch in batches]), x)
        assert [label for batch in batches for label in batch.labels] == list(range(12))
    assert len(make_batches([x[:4], x[4:6]], FIXED, "data")) == 2
    with pytest.raises(ModelError, match=r"data holds 8 samples, but the model takes 3 at a time"):
        make_batches([x[:4], x[:4]], FIXED, "data")


def test_what_are_no_rows_of_samples_is_not_split() -> None:
    two = [*FIXED, Port("sizes", "float32", (4, 2))]
    with pytest.raises(ModelError, match="dimension 0 must be 3"):
        make_batches([{"features": features(6), "sizes": np.ones((4, 2), np.float32)}], two, "data")
    with pytest.raises(ModelError, match="dimension 0 must be 3"):
        make_batches([(features(6), {"boxes": 1})], FIXED, "data")


FOREIGN = [dtype for dtype in DType if dtype.is_foreign and dtype is not DType.float8_e5m2]
"""The foreign types that numpy saves; float8_e5m2 it writes under a name that it doesn't read."""


@pytest.mark.parametrize("dtype", FOREIGN, ids=str)
def test_types_that_numpy_lacks_come_back_from_a_file(dtype: DType, tmp_path: Path) -> None:
    ports = [Port("x", str(dtype), ("batch", 8))]
    sample = random_sample(ports, {"batch": 1})["x"]
    assert np.isfinite(sample).all()
    np.savez(tmp_path / "data.npz", x=sample)
    (batch,) = read_data("data.npz", tmp_path, ports)
    assert batch.inputs["x"].dtype == dtype.numpy
    assert batch.inputs["x"].tobytes() == sample.tobytes()
    np.savez(tmp_path / "data.npz", x=sample.astype(np.float64))
    with pytest.raises(ModelError, match=f"must be {dtype}"):
        read_data("data.npz", tmp_path, ports)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"feature": features(4)}, r"batch 0: the model has no input 'feature'; did you mean 'features'\?"),
        ({"features": features(4)[:, :7]}, r"'features' must be float32\[batch, 8\], got float32\[1, 7\]"),
        ({"features": features(4).astype(np.float64)}, r"must be float32\[batch, 8\], got float64\[1, 8\]"),
        ({"features": features(4), "labels": np.arange(5)}, "differ in their number of samples: features 4, labels 5"),
        ({"features": features(0)}, "holds no batches"),
    ],
)
def test_bad_npz(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(ModelError, match=message):
        read_data("data.npz", tmp_path, OPEN)


def test_npz_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "data.npz").write_bytes(b"PK but no archive")
    with pytest.raises(ModelError, match=r"data.npz is not an .npz of plain arrays"):
        read_data("data.npz", tmp_path, OPEN)
    with pytest.raises(UsageError, match=r"there is no data .*dta.npz; did you mean 'data.npz'\?"):
        read_data("dta.npz", tmp_path, OPEN)


def test_every_form_of_a_batch_is_understood(tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text(
        "import numpy as np\n"
        "import torch\n"
        "x, y = np.ones((2, 8), np.float32), [0, 1]\n"
        "def batches():\n"
        "    return [x, {'features': x}, (x, y), ({'features': x}, y), ([x], y), {'features': x, 'labels': y},\n"
        "            [torch.ones(2, 8), torch.tensor([0, 1])]]\n"
    )
    with isolated_imports(tmp_path):
        batches = read_data("data.py:batches", tmp_path, OPEN)
    assert all(np.array_equal(batch.inputs["features"], np.ones((2, 8))) for batch in batches)
    assert [None if batch.labels is None else list(batch.labels) for batch in batches] == [None] * 2 + [[0, 1]] * 5


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("misnamed", r"data.py:misnamed, batch 0: the model has no input 'feature'"),
        ("wrong_shape", "data.py:wrong_shape, batch 0: input 'features' must be"),
        ("wrong_dtype", r"got float64\[48, 8\]"),
        ("breaks_off", r"data.py:breaks_off failed: OSError: the disk is gone \(.*data.py:\d+\)"),
    ],
)
def test_bad_factories(folder: Path, factory: str, message: str) -> None:
    with isolated_imports(folder), pytest.raises(ModelError, match=message):
        read_data(f"data.py:{factory}", folder, OPEN)


def test_held_out_batches_are_disjoint(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", features=features(40), labels=np.arange(40))
    calibration, evaluation = held_out(read_data("data.npz", tmp_path, OPEN))
    seen, kept = ({int(label) for batch in part for label in batch.labels} for part in (calibration, evaluation))
    assert seen
    assert kept
    assert not seen & kept
    assert seen | kept == set(range(40))


def test_single_sample_cuts_the_open_batch_only() -> None:
    ports = [Port("x", "float32", ("batch", 8)), Port("table", "float32", (5, 8)), Port("y", "float32", ("n", 2))]
    feeds = {"x": features(4), "table": features(5), "y": np.zeros((3, 2), np.float32)}
    shapes = {name: array.shape for name, array in single_sample(feeds, ports).items()}
    assert shapes == {"x": (1, 8), "table": (5, 8), "y": (3, 2)}


def test_random_samples_fit_their_ports() -> None:
    sizes = {"batch": 1, "tokens": 7}
    sample = random_sample([Port("ids", "int64", ("batch", "tokens")), Port("x", "float16", ("batch", 3))], sizes)
    assert {name: (array.dtype.name, array.shape) for name, array in sample.items()} == {
        "ids": ("int64", (1, 7)),
        "x": ("float16", (1, 3)),
    }


# -- numbers that nothing can be learned from


def batches_of(*arrays: np.ndarray) -> list[dict[str, np.ndarray]]:
    return [batch.inputs for batch in make_batches([{"features": array} for array in arrays], OPEN, "data")]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            np.where(features(2) == 3, np.nan, features(2)),
            "data, batch 1: input 'features' has 1 NaN of 16: drop these",
        ),
        (np.where(features(2) > 13, np.inf, features(2)), "has 2 infinities of 16: drop these samples, or clip them"),
        (features(0), r"has no elements, its shape is \[0, 8\]: leave the batch out"),
        (np.ma.masked_less(features(2), 3), "is a masked array: fill it with"),
    ],
)
def test_numbers_that_are_none_are_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        batches_of(features(2), array.astype(np.float32))


def test_a_mask_may_be_infinite() -> None:
    mask = np.where(features(2) > 5, -np.inf, 0).astype(np.float32)
    np.testing.assert_array_equal(batches_of(mask)[0]["features"], mask)
    assert doubts(batches_of(mask)) == []


def test_another_order_of_bytes_is_read_as_such() -> None:
    (read,) = batches_of(features(3).astype(">f4"))
    np.testing.assert_array_equal(read["features"], features(3))
    assert read["features"].dtype.isnative


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((2, 8), 0.5, np.float32), "'features' is 0.5 everywhere; passes that observe it see nothing"),
        (features(2) * np.float32(1e-40), "'features' is nowhere above 1e-06; passes that observe it see nothing"),
        (
            features(2) * 255,
            r"is 1.91e\+03 ± 1.18e\+03 \(mean ± standard deviation\), but the evaluation data's is 7.5 ± 4.61:",
        ),
    ],
)
def test_what_does_not_look_like_data_is_told(array: np.ndarray, message: str) -> None:
    (doubt,) = doubts(batches_of(array), batches_of(features(2)))
    assert re.search(message, doubt)
    assert doubts(batches_of(features(2)), batches_of(features(3))) == []


def test_a_single_number_is_a_setting() -> None:
    """As a threshold or a lowest frequency is, which calibration may well give the same value for all samples."""
    rate = {"rate": np.float32(46.9)}
    assert doubts([rate] * 3) == []
    (doubt,) = doubts([{"rate": np.full(2, 46.9, np.float32)}] * 3)
    assert "'rate' is 46.9 everywhere" in doubt


def test_two_arrays_for_a_model_of_two_inputs_are_its_inputs() -> None:
    ports = [Port("a", "float32", (2,)), Port("b", "float32", (2,))]
    a = np.ones(2, np.float32)
    (batch,) = make_batches([(a, a)], ports, "data")
    assert (list(batch.inputs), batch.labels) == (["a", "b"], None)
    (labelled,) = make_batches([((a, a), 3)], ports, "data")
    assert (list(labelled.inputs), labelled.labels) == (["a", "b"], 3)
