"""Detectors find any number of objects, none among them, from one graph."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection import roi_heads, transform
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.ops import MultiScaleRoIAlign, boxes

from planish.backends import find_backend
from planish.backends.artifact import load, write_artifact
from planish.frontends.torch import trace
from planish.frontends.torch.compat_torchvision import exportable
from planish.ir.interpreter import Interpreter
from planish.ir.verify import verify
from planish.targets.load import load_target

IMAGES = (3, 40, 48), (3, 48, 36)
SIZES = {"min_size": 32, "max_size": 48}
THRESHOLD = 0.515


class Backbone(nn.Sequential):
    """Little maps, as lively as the image."""

    out_channels = 8

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))


def mask_rcnn() -> nn.Module:
    return detection.MaskRCNN(
        Backbone(),
        num_classes=3,
        rpn_anchor_generator=AnchorGenerator(((8, 16),), ((0.5, 1.0),)),
        rpn_post_nms_top_n_test=20,
        box_roi_pool=MultiScaleRoIAlign(["0"], 3, 2),
        mask_roi_pool=MultiScaleRoIAlign(["0"], 6, 2),
        box_score_thresh=THRESHOLD,
        box_detections_per_img=6,
        **SIZES,
    )


def ssd() -> nn.Module:
    backbone = Backbone()
    backbone.out_channels = [8]
    return detection.ssd.SSD(
        backbone,
        DefaultBoxGenerator([[2]], scales=[0.3, 0.6]),
        (32, 32),
        num_classes=3,
        score_thresh=THRESHOLD,
        detections_per_img=6,
    )


def pictures(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(shape, generator=generator) for shape in IMAGES]


@pytest.mark.parametrize(
    "make", [pytest.param(mask_rcnn, marks=pytest.mark.slow), pytest.param(ssd, marks=pytest.mark.wide)]
)
def test_a_detector_finds_what_it_finds_in_torch(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = make().eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.1)
    graph = trace(module, (pictures(0),))
    verify(graph)
    write_artifact(tmp_path / "artifact", graph, find_backend("onnxruntime"), load_target("native"))
    executables = Interpreter(graph), load(tmp_path / "artifact", threads=1)
    grey = [torch.full(shape, 0.45) for shape in IMAGES]
    for fed, is_found in ((pictures(1), True), (grey, False)):
        with torch.no_grad():
            found = module(fed)
        assert all((len(image["scores"]) > 0) == is_found for image in found)
        expected = [tensor.numpy() for image in found for tensor in image.values()]
        feeds = {value.name: tensor.numpy() for value, tensor in zip(graph.inputs, fed, strict=True)}
        for executable in executables:
            outputs = executable.run(feeds)
            for array, wanted in zip(outputs.values() if isinstance(outputs, dict) else outputs, expected, strict=True):
                assert array.dtype == wanted.dtype
                np.testing.assert_allclose(array, wanted, rtol=1e-3, atol=1e-4)


def test_masks_are_pasted_as_one_by_one() -> None:
    torch.manual_seed(0)
    masks = torch.rand(5, 1, 7, 7)
    places = torch.tensor([[3, 4, 20, 30], [-5, -3, 8, 9], [30, 20, 60, 50], [0, 0, 1, 1], [10.4, 11.6, 10.9, 40]])
    expected = transform.paste_masks_in_image(masks, places, (40, 50))
    with exportable():
        assert transform.paste_masks_in_image is not roi_heads.paste_masks_in_image
        torch.testing.assert_close(transform.paste_masks_in_image(masks, places, (40, 50)), expected)
        assert transform.paste_masks_in_image(masks[:0], places[:0], (40, 50)).shape == (0, 1, 40, 50)
    assert transform.paste_masks_in_image is roi_heads.paste_masks_in_image


def test_keypoints_are_placed_as_one_by_one() -> None:
    torch.manual_seed(0)
    maps = torch.randn(6, 3, 8, 8)
    places = torch.tensor(
        [[3, 4, 20, 30], [5, 3, 5.4, 3.2], [0, 0, 8, 8], [30, 20, 60.3, 50.7], [1, 2, 5, 4], [0, 0, 90, 3]]
    )
    expected = roi_heads.heatmaps_to_keypoints(maps, places)
    with exportable():
        torch.testing.assert_close(roi_heads.heatmaps_to_keypoints(maps, places), expected)
        nothing = roi_heads.heatmaps_to_keypoints(maps[:0], places[:0])
    assert [tensor.shape for tensor in nothing] == [(0, 3, 3), (0, 3)]


def test_duplicates_are_suppressed_as_torchvision_does() -> None:
    torch.manual_seed(0)
    corners = torch.rand(40, 2) * 20
    places = torch.cat([corners, corners + 1 + torch.rand(40, 2) * 20], dim=1)
    scores, kinds = torch.rand(40), torch.randint(3, (40,))
    expected = boxes.batched_nms(places, scores, kinds, 0.4)
    assert 3 < len(expected) < 40
    with exportable():
        torch.testing.assert_close(boxes.batched_nms(places, scores, kinds, 0.4), expected)
