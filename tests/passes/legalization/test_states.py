import numpy as np
import pytest

RNG = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("rule", ["linear", "gated", "delta", "gated_delta"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_linear_attention(spelled_out, rule: str, dtype: type) -> None:
    """Two queries for each key, with a state from before or without, over a symbolic batch."""
    query, key, value = floats(2, 3, 4 * 5), floats(2, 3, 2 * 5) / 3, floats(2, 3, 2 * 6)
    decay = -abs(floats(2, 3, 2 * 5)) if "gated" in rule else None
    beta = RNG.random((2, 3, 2)).astype(np.float32) if "delta" in rule else None
    for past, scale in ((None, {}), (floats(2, 2, 5, 6), {"scale": 0.3})):
        given = [None if array is None else array.astype(dtype) for array in (query, key, value, past, decay, beta)]
        dims = [() if array is None else ("batch", *array.shape[1:]) for array in given]
        spelled_out(
            "LinearAttention", *given, dims=dims, outputs=2, update_rule=rule, q_num_heads=4, kv_num_heads=2, **scale
        )


def test_causal_convolution(spelled_out) -> None:
    x, w, bias, past = floats(2, 3, 5), floats(3, 1, 4), floats(3), floats(2, 3, 3)
    symbolic = [("batch", 3, "time"), w.shape, bias.shape, ("batch", 3, 3)]
    spelled_out("CausalConvWithState", x, w, bias, past, dims=symbolic, outputs=2, activation="silu")
    spelled_out("CausalConvWithState", x, w, dims=symbolic[:2], outputs=2)
