"""A detector in the shape of YOLO, which torchvision lacks: one pass, boxes decoded from grids, and suppression.

After Ge et al., "YOLOX: Exceeding YOLO Series in 2021": a CSP backbone with spatial pyramid pooling, a PAN neck over
three scales, and decoupled heads without anchors.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms
from zoo.settle import settle
from zoo.subject import Inputs, Subject

PIXELS, CLASSES, WIDTH = 96, 5, 16
CANDIDATES, DETECTIONS = 60, 10
"""Boxes of an image before suppression and after: few, so that rounding decides on the order of none."""


class Layer(nn.Sequential):
    """Convolution, batch normalization, SiLU."""

    def __init__(self, inputs: int, outputs: int, taps: int = 1, stride: int = 1) -> None:
        convolution = nn.Conv2d(inputs, outputs, taps, stride, taps // 2, bias=False)
        super().__init__(convolution, nn.BatchNorm2d(outputs), nn.SiLU())


class CrossStage(nn.Module):
    """Half of the channels through a bottleneck, the others past it (Wang et al., CSPNet, 2020)."""

    def __init__(self, inputs: int, outputs: int, *, residual: bool = True) -> None:
        super().__init__()
        half = outputs // 2
        self.through, self.past = Layer(inputs, half), Layer(inputs, half)
        self.bottleneck = nn.Sequential(Layer(half, half), Layer(half, half, 3))
        self.last, self.residual = Layer(outputs, outputs), residual

    def forward(self, x: Tensor) -> Tensor:
        x, past = self.through(x), self.past(x)
        inner = self.bottleneck(x)
        return self.last(torch.cat([x + inner if self.residual else inner, past], 1))


class Pyramid(nn.Module):
    """Pools of growing windows side by side."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.last = Layer(channels, channels // 2), Layer(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        pools = [self.first(x)]
        for _ in range(3):
            pools.append(F.max_pool2d(pools[-1], 5, 1, 2))
        return self.last(torch.cat(pools, 1))


class Head(nn.Module):
    """Boxes, objectness and classes of each cell of a grid, apart from each other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.boxes, self.classes = Layer(channels, channels, 3), Layer(channels, channels, 3)
        self.bbox_reg, self.bbox_ctrness = nn.Conv2d(channels, 4, 1), nn.Conv2d(channels, 1, 1)
        self.cls_logits = nn.Conv2d(channels, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        boxes = self.boxes(x)
        found = torch.cat([self.bbox_reg(boxes), self.bbox_ctrness(boxes), self.cls_logits(self.classes(x))], 1)
        return found.flatten(2).transpose(1, 2)


class Yolo(nn.Module):
    """Images float32[batch, 3, height, width] to boxes, scores and labels of each."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        a, b, c, d = (width << level for level in range(4))
        self.stem = nn.Sequential(Layer(3, a, 3, 2), Layer(a, b, 3, 2), CrossStage(b, b))
        self.fine = nn.Sequential(CrossStage(b, b), Layer(b, b, 3, 2))
        self.middle = nn.Sequential(CrossStage(b, b), Layer(b, c, 3, 2), CrossStage(c, c))
        self.coarse = nn.Sequential(Layer(c, d, 3, 2), Pyramid(d), CrossStage(d, d))
        self.up_coarse, self.up_middle = Layer(d, c), Layer(c, b)
        self.join_middle, self.join_fine = (CrossStage(2 * n, n, residual=False) for n in (c, b))
        self.down_fine, self.down_middle = Layer(b, b, 3, 2), Layer(c, c, 3, 2)
        self.out_middle, self.out_coarse = (CrossStage(2 * n, m, residual=False) for n, m in ((b, c), (c, d)))
        self.heads = nn.ModuleList(map(Head, (b, c, d)))

    def forward(self, images: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        fine = self.fine(self.stem(images))
        middle = self.middle(fine)
        top = self.up_coarse(coarse := self.coarse(middle))
        middle = self.up_middle(self.join_middle(torch.cat([_doubled(top), middle], 1)))
        fine = self.join_fine(torch.cat([_doubled(middle), fine], 1))
        middle = self.out_middle(torch.cat([self.down_fine(fine), middle], 1))
        coarse = self.out_coarse(torch.cat([self.down_middle(middle), top], 1))
        pairs = enumerate(zip(self.heads, (fine, middle, coarse), strict=True))
        boxes = torch.cat([_decoded(head(it), it, 8 << level) for level, (head, it) in pairs], 1)
        return [_suppressed(image) for image in boxes]


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def _decoded(found: Tensor, x: Tensor, stride: int) -> Tensor:
    """Corners in pixels and scores, from shifts of a grid's cells, logarithms of sizes, and logits."""
    rows, columns = torch.meshgrid(torch.arange(x.shape[2]), torch.arange(x.shape[3]), indexing="ij")
    cells = torch.stack([columns, rows], -1).reshape(1, -1, 2).to(x.dtype)
    middles, halves = (found[..., :2] + cells) * stride, found[..., 2:4].exp() * (stride / 2)
    scores = found[..., 4:5].sigmoid() * found[..., 5:].sigmoid()
    return torch.cat([middles - halves, middles + halves, scores], -1)


def _suppressed(found: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    best, labels = found[:, 4:].max(1)
    scores, places = best.topk(CANDIDATES)
    boxes, labels = found[places, :4], labels[places]
    is_likely = scores > 0.1
    boxes, scores, labels = boxes[is_likely], scores[is_likely], labels[is_likely]
    kept = batched_nms(boxes, scores, labels, 0.65)[:DETECTIONS]
    return boxes[kept], scores[kept], labels[kept]


def build() -> Subject:
    """The detector with its weights settled, called with two images."""

    def inputs(seed: int, size: int) -> Inputs:
        generator = torch.Generator().manual_seed(seed)
        return (torch.rand(size, 3, PIXELS, PIXELS, generator=generator),), {}

    torch.manual_seed(0)
    return settle(Subject(Yolo().eval(), inputs))
