"""The types that products may be computed in where a graph is learned from rather than judged."""

import json
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from ..ir.cache_folder import cache_folder
from ..ir.drafts import replacing
from ..ir.errors import UsageError
from ..targets.load import native

Precision: TypeAlias = Literal["float32", "bfloat16"]

_SIZE, _ROUNDS = 512, 9
"""The rows, depth and columns of the product that is measured, and how often each type takes its turn."""


@cache
def fast_precision() -> Precision:
    """The type that this machine multiplies fastest in, as it was measured when somebody first asked."""
    import torch

    can = torch.cpu.get_capabilities()
    if not (can.get("avx512_bf16") or can.get("amx_bf16")):
        return "float32"
    path: Path | None = None
    with suppress(UsageError):  # a folder that can't be made
        path = cache_folder("precisions") / f"{native().mcpu}-torch-{torch.__version__}.json"
    return "bfloat16" if _speed(path) > 1 else "float32"


def _speed(path: Path | None) -> float:
    """How many times as fast products of bfloat16 are as those of float32: what a file says, or measured and kept."""
    with suppress(OSError, ValueError, TypeError):
        return float(json.loads(path.read_text(encoding="utf-8"))) if path is not None else _measured()
    speed = _measured()
    with suppress(UsageError, OSError):  # a disk that is full
        if path is not None:
            with replacing(path) as draft:
                draft.write_text(json.dumps(round(speed, 2)), encoding="utf-8")
    return speed


def _measured() -> float:
    """The ratio of the fastest turns, which other work disturbs the least."""
    import torch

    factors = [torch.ones(_SIZE, _SIZE, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    seconds = np.empty((_ROUNDS, 2))
    with torch.inference_mode():
        for turn in seconds:
            for place, factor in enumerate(factors):
                start = time.perf_counter()
                torch.mm(factor, factor)
                turn[place] = time.perf_counter() - start
    in_float, in_bfloat16 = seconds.min(axis=0)
    return float(in_float / in_bfloat16)
