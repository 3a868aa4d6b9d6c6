"""Putting windows back where they came from."""

from math import prod

import torch
from torch import Tensor

from .from_data import FromData, places
from .registry import Ints, operator
from .unsigned import has_data, widened
from .window import pad_last, window


def _image_type(x: Tensor, image_shape: Ints, block_shape: Ints, **attributes: object) -> Tensor:
    return x.new_empty((x.shape[0], x.shape[1] // prod(block_shape), *image_shape))


@operator(
    "Col2Im",
    from_data={
        "image_shape": FromData(lambda row: [{2 + i: i for i in places(row)}], 1, is_size=True),
        "block_shape": FromData(lambda: [1], 1),
    },
    types=_image_type,
)
@widened
def columns_to_image(
    x: Tensor,
    image_shape: Ints,
    block_shape: Ints,
    *,
    dilations: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Tensor:
    """Add up the taps `[batch, channel * taps, windows]` of all windows where they overlap."""
    over = window(image_shape, block_shape, strides, dilations, pads, "NOTSET")
    padded = [begin + size + end for begin, size, end in zip(over.begin, image_shape, over.end, strict=True)]
    flat = torch.zeros((), dtype=torch.int64, device=x.device)
    for axis, (size, extent) in enumerate(zip(padded, over.extents, strict=True)):
        count = (size - extent) // over.strides[axis] + 1
        tap = torch.arange(over.kernel[axis], device=x.device).unsqueeze(1) * over.dilations[axis]
        place = tap + torch.arange(count, device=x.device) * over.strides[axis]  # [tap, window]
        grid = flat.unsqueeze(axis).unsqueeze(-1) * size  # [taps so far, 1, windows so far, 1]
        flat = grid + place.reshape(*(1,) * axis, over.kernel[axis], *(1,) * axis, count)
    channels = x.shape[1] // prod(over.kernel)
    image = x.new_zeros((x.shape[0], channels, prod(padded)))
    image = image.index_add(2, flat.reshape(-1), x.reshape(x.shape[0], channels, -1))
    image = image.reshape(x.shape[0], channels, *padded)
    return pad_last(image, [-pad for pad in over.begin], [-pad for pad in over.end])


@operator(
    "MaxUnpool",
    from_data={
        "output_shape": FromData(lambda x: [{axis: axis for axis in range(x.ndim)}], lambda: None, is_size=True)
    },
)
def max_unpool(
    x: Tensor,
    indices: Tensor,
    output_shape: Ints | None = None,
    *,
    kernel_shape: tuple[int, ...],
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Tensor:
    """Write each maximum back to its position in the whole flat input of the pool, and zeros elsewhere."""
    if has_data(x) and x.shape != indices.shape:  # of which torch would take a part
        raise ValueError(f"there are {list(x.shape)} maxima, and {list(indices.shape)} places for them")
    over = window(x.shape[2:], kernel_shape, strides, None, pads, "NOTSET")
    sizes = [
        (size - 1) * stride - begin - end + taps
        for size, stride, begin, end, taps in zip(
            x.shape[2:], over.strides, over.begin, over.end, over.kernel, strict=True
        )
    ]
    shape = [x.shape[0], x.shape[1], *sizes]
    y = x.new_zeros(prod(shape)).scatter(0, indices.reshape(-1), x.reshape(-1)).reshape(shape)
    if output_shape is None:
        return y
    return pad_last(y, (0,) * x.ndim, [wanted - have for wanted, have in zip(output_shape, shape, strict=True)])
