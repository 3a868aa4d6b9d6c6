"""The models of the zoo, by names such as `torchvision/classification/resnet18`."""

from importlib import import_module

import torch

from .settle import settle
from .subject import Inputs, Subject, Unbuilt, tensors

__all__ = ["Inputs", "Subject", "Unbuilt", "build", "names", "tensors"]

_LIBRARIES = ("torchvision", "timm", "transformers")


def names(dynamic: bool) -> list[str]:
    """All models there are, or those with symbolic sizes."""
    return [f"{library}/{name}" for library in _LIBRARIES for name in _module(library).names(dynamic)]


def build(name: str) -> Subject:
    """A model with its weights settled."""
    library, _, name = name.partition("/")
    torch.manual_seed(0)
    return settle(_module(library).build(name))


def _module(library: str):
    return import_module(f".from_{library}", __name__)
