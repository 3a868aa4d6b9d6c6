"""torchvision's models."""

from typing import Any

import torch
from torch.export import Dim
from torchvision import models

from .subject import Inputs, Subject, images

PARTS = {
    "classification": models,
    "segmentation": models.segmentation,
    "detection": models.detection,
    "video": models.video,
    "optical_flow": models.optical_flow,
}
PIXELS = {"inception_v3": 96, "maxvit_t": 224, "vit_h_14": 56}
"""The image size of classification models, where it isn't 64."""

CLASSES = 5
"""A few: with many, the scores of random detectors would all be below their thresholds."""

DETECTIONS = 20
"""Detections in an image: of hundreds with random scores, some are so close that rounding decides on their order."""

PEOPLE = 5
"""People in an image: each has seventeen points, the largest values of maps, which may be close to others."""


def names(dynamic: bool) -> list[str]:
    parts = {"classification": models} if dynamic else PARTS
    return [f"{part}/{name}" for part, module in parts.items() for name in models.list_models(module=module)]


def build(name: str) -> Subject:
    part, name = name.split("/")
    return {
        "classification": _classification,
        "segmentation": _segmentation,
        "detection": _detection,
        "video": _video,
        "optical_flow": _flow,
    }[part](name)


def _classification(name: str) -> Subject:
    pixels = PIXELS.get(name, 64)
    options: dict[str, Any] = {"num_classes": 10}
    if name.startswith("vit"):
        options["image_size"] = pixels
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    module = models.get_model(name, weights=None, **options).eval()
    return Subject(module, images(3, pixels, pixels), sizes=(2, 1, 3, 8), dynamic_shapes=({0: Dim("batch")},))


def _segmentation(name: str) -> Subject:
    module = models.get_model(name, weights=None, weights_backbone=None, num_classes=CLASSES).eval()
    return Subject(module, images(3, 64, 64))


def _detection(name: str) -> Subject:
    """A detector, called with a list of two images of different sizes."""
    options: dict[str, Any] = {"num_classes": 2 if name.startswith("keypoint") else CLASSES}
    if not name.startswith("ssd"):
        options |= {"min_size": 96, "max_size": 128}
    if name == "ssd300_vgg16":  # whose own are for weights from elsewhere, and would make inputs of hundreds
        options |= {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    if "rcnn" in name:
        found = PEOPLE if name.startswith("keypoint") else DETECTIONS
        options |= {"box_detections_per_img": found, "rpn_post_nms_top_n_test": 100}
    else:
        options |= {"detections_per_img": DETECTIONS}
    module = models.get_model(name, weights=None, weights_backbone=None, **options).eval()

    def inputs(seed: int, size: int) -> Inputs:
        generator = torch.Generator().manual_seed(seed)
        shapes = [(3, 80, 100), (3, 96, 96)]
        return ([torch.rand(shape, generator=generator) for shape in shapes],), {}

    return Subject(module, inputs)


def _video(name: str) -> Subject:
    frames, pixels = (16, 224) if name == "s3d" or name.startswith("mvit") else (8, 64)
    module = models.get_model(name, weights=None, num_classes=10).eval()
    return Subject(module, images(3, frames, pixels, pixels))


def _flow(name: str) -> Subject:
    module = models.get_model(name, weights=None).eval()

    def inputs(seed: int, size: int) -> Inputs:
        generator = torch.Generator().manual_seed(seed)
        first, second = torch.rand(2, 1, 3, 128, 128, generator=generator) * 2 - 1
        return (first, second), {"num_flow_updates": 2}

    return Subject(module, inputs)
