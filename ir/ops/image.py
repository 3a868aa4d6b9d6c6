"""Images out of files."""

from io import BytesIO

import numpy as np
import torch
from torch import Tensor

from ..errors import TargetError
from .from_data import FromData
from .registry import operator


def _decoded_type(encoded: Tensor, *, pixel_format: str = "RGB") -> Tensor:
    return encoded.new_empty((1, 1, 1 if pixel_format == "Grayscale" else 3))


@operator("ImageDecoder", from_data={"encoded": FromData(lambda: [0, 1])}, types=_decoded_type)
def image_decoder(encoded: Tensor, *, pixel_format: str = "RGB") -> Tensor:
    """The pixels `[row, column, channel]` of a file in any format that Pillow reads, in bytes."""
    try:
        from PIL import Image
    except ImportError as error:
        raise TargetError("decoding images needs Pillow: pip install 'planish[images]'") from error
    image = Image.open(BytesIO(encoded.cpu().numpy().tobytes()))
    if pixel_format == "Grayscale":
        return torch.from_numpy(np.array(image.convert("L"))).unsqueeze(2)
    pixels = torch.from_numpy(np.array(image.convert("RGB")))
    return pixels.flip(2) if pixel_format == "BGR" else pixels
