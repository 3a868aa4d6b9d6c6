"""PP-OCRv4's recognition model, as the package rapidocr-onnxruntime ships it: an image of a text line to characters."""

from importlib.util import find_spec
from pathlib import Path


def build() -> Path:
    """The ONNX file inside the installed package."""
    spec = find_spec("rapidocr_onnxruntime")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("rapidocr_onnxruntime is missing: pip install 'planish[examples]', below Python 3.13")
    return Path(spec.submodule_search_locations[0]) / "models/ch_PP-OCRv4_rec_infer.onnx"
