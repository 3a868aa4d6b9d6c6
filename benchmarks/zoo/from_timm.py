"""timm's models: of each family the one with the fewest parameters.

timm names its architectures `family_size.weights`, several families to a module, so a family is a module with the
letters that a name begins with: `byobnet.repvgg`, `resnet.seresnext`. There are twice as many of these as there are
modules.
"""

import re
from collections import defaultdict

import timm
import torch
from timm.models import list_models, list_modules
from torch import nn

from .subject import Subject, images

PIXELS = (64, 96, 128, 160, 192, 224, 256)
"""The sizes that are tried before the size that a model was made for."""


def names(dynamic: bool) -> list[str]:
    return [] if dynamic else sorted(_families())


def build(name: str) -> Subject:
    smallest = min(_families()[name], key=_parameters)
    module = timm.create_model(smallest, num_classes=10).eval()
    return Subject(module, images(*_size(module)))


def _families() -> dict[str, list[str]]:
    families: dict[str, list[str]] = defaultdict(list)
    for module in list_modules():
        for name in list_models(module=module):
            families[f"{module}.{re.match('[a-z]+', name)[0]}"].append(name)
    return families


def _parameters(name: str) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in timm.create_model(name).parameters())


def _size(module: nn.Module) -> tuple[int, int, int]:
    """The smallest images that the model takes, float[channels, height, width]."""
    channels, *wanted = module.default_cfg["input_size"]
    for pixels in PIXELS:
        if pixels >= wanted[0] or module.default_cfg.get("fixed_input_size"):
            break
        try:
            with torch.no_grad():
                module(torch.zeros(2, channels, pixels, pixels))
        except Exception:  # whatever it says to images that are too small for it
            continue
        return channels, pixels, pixels
    return channels, *wanted
