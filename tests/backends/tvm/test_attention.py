import numpy as np
import pytest

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, np.float32)


@pytest.mark.parametrize("is_causal", [0, 1])
@pytest.mark.parametrize("size", [5, 32])
def test_sequences_of_any_length(agree, size: int, is_causal: int) -> None:
    """That fill no vector, or several, with fewer queries than keys, and the other way round."""

    def build(op, q, k, v):
        return op.Attention(q, k, v, q_num_heads=2, kv_num_heads=2, is_causal=is_causal)

    def arrays(batch: int, queries: int, keys: int) -> list[np.ndarray]:
        return [normal(batch, length, 2 * size) for length in (queries, keys, keys)]

    dims = [("batch", length, 2 * size) for length in ("queries", "keys", "keys")]
    agree(build, *arrays(2, 5, 20), dims=dims, again=[arrays(1, 33, 16), arrays(3, 1, 1), arrays(1, 8, 7)])


def test_heads_that_share_keys(agree) -> None:
    arrays = normal(2, 4, 9, 8), normal(2, 2, 17, 8), normal(2, 2, 17, 12)
    agree(lambda op, q, k, v: op.Attention(q, k, v, scale=0.3), *arrays)


@pytest.mark.parametrize("shape", [(), (40,), (1, 6, 1, 40), (2, 1, 1, 40)])
def test_a_single_query_of_heads_that_share_keys(agree, shape: tuple[int, ...]) -> None:
    """Queries come alone where a text is written word by word; some look nowhere."""
    seen = np.random.default_rng(2).random(shape) > 0.3
    arrays = [normal(2, 6, 1, 32), normal(2, 2, 40, 32), normal(2, 2, 40, 24), *([seen] if shape else [])]
    dims = [("n", 6, 1, 32), ("n", 2, "keys", 32), ("n", 2, "keys", 24)]
    agree(lambda op, *arrays: op.Attention(*arrays), *arrays, dims=None if shape else dims)


@pytest.mark.parametrize("queries", [1, 8])
def test_few_queries(agree, queries: int) -> None:
    arrays = normal(1, 2, queries, 32), normal(1, 2, 21, 32), normal(1, 2, 21, 16)
    bias = normal(queries, 21)
    agree(lambda op, *arrays: op.Attention(*arrays, bias), *arrays)
    agree(lambda op, *arrays: op.Attention(*arrays, is_causal=1), *arrays)


@pytest.mark.parametrize(
    ("shape", "is_causal"), [((9, 20), 0), ((1, 1, 20), 1), ((2, 1, 9, 20), 1), ((1, 3, 9, 20), 0)]
)
def test_masks(agree, shape: tuple[int, ...], is_causal: int) -> None:
    """Masks may be of either kind; the last query of the first head may look nowhere."""
    seen = RNG.random(shape) > 0.4
    seen[(0,) * (len(shape) - 2) + (-1,)] = False
    bias = np.where(seen, RNG.standard_normal(shape), -np.inf).astype(np.float32)
    arrays = normal(2, 9, 24), normal(2, 20, 24), normal(2, 20, 24)
    names = ("batch", "heads", "queries", "keys")[4 - len(shape) :]
    dims = [("batch", "queries", 24), ("batch", "keys", 24), ("batch", "keys", 24)]
    row = tuple(size if size in (1, 3) else name for size, name in zip(shape, names, strict=True))
    for mask in (seen, bias):
        agree(
            lambda op, q, k, v, m: op.Attention(q, k, v, m, q_num_heads=3, kv_num_heads=3, is_causal=is_causal),
            *arrays,
            mask,
            dims=[*dims, row],
        )


def test_what_is_no_number_stays_with_its_query(agree) -> None:
    q, k, v = normal(1, 9, 8), normal(1, 20, 8), normal(1, 20, 8)
    q[0, 3, 2], q[0, 5, 1] = np.nan, np.inf
    agree(lambda op, *x: op.Attention(*x, q_num_heads=1, kv_num_heads=1), q, k, v)


def test_what_the_kernel_doesn_t_compute_is_spelled_out(agree) -> None:
    arrays = normal(1, 2, 4, 8), normal(1, 2, 6, 8), normal(1, 2, 6, 8)

    def build(op, q, k, v):
        y, present, *_ = op.Attention(q, k, v, None, k, v, outputs=3)
        return [y, present, op.Attention(q, k, v, softcap=2.0), op.Attention(q, k, v, left_window_size=1)]

    agree(build, *arrays)
