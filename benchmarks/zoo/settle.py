"""Random weights as a trained network might have them, so that every part of it shows in the outputs."""

import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .subject import Subject

LEAST = 0.5
"""The share of the deviation that keeps a signal's scale: weights that deviate less get noise."""

NOISE = 0.1
"""The deviation of noise on what scales and shifts single channels, and on statistics."""

SHIFT = 0.5
"""The shift of what batch norms give, in deviations.

Around zero, each activation magnifies differences a little, and a random network of fifty layers makes another output
out of the rounding of its input."""

SAMPLES = 8
"""The batch that statistics are taken from; in smaller ones, last maps of few pixels leave channels no variance."""

HEADS = r".*(cls_logits|cls_score|bbox_pred|bbox_reg|bbox_ctrness|mask_fcn_logits|kps_score_lowres|module_list\.\d+)"
"""Layers of detectors that give scores and shifts of boxes."""

_AFFINE = nn.Linear | nn.Conv2d | nn.ConvTranspose2d


def settle(subject: Subject) -> Subject:
    """The subject with livelier weights, in place.

    - Matrices, kernels and embeddings that deviate by less than half of 1/sqrt(inputs) get noise of that deviation:
      heads of zeros, tables of 0.02, scales of 1e-6.
    - Vectors, such as biases, the weights of norms and gains of any shape, get noise of 0.1.
    - Batch norms are shifted to where activations pass most of it on.
    - Batch norms take their statistics from a batch of inputs that is used for nothing else; those that are frozen, or
      that can't be computed at these sizes, get noise.
    - Scores and shifts of boxes get a deviation of one. Larger ones make scores that are all 1 and boxes that are all
      the image, and then rounding decides on which of them are kept.
    """
    torch.manual_seed(0)
    with torch.no_grad():
        for part in subject.module.modules():
            _enliven(part)
    subject.module.train().eval()  # which makes modules forget what they had computed from the weights before
    _calibrate(subject)
    _moderate(subject)
    return subject


def _enliven(part: nn.Module) -> None:
    for parameter in part.parameters(recurse=False):
        if not parameter.is_floating_point():
            continue
        if parameter.numel() == max(parameter.shape, default=1):
            parameter.add_(torch.randn_like(parameter), alpha=NOISE)
            continue
        is_kernel = isinstance(part, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        inputs = parameter[0].numel() if is_kernel else parameter.shape[-1]
        wanted = max(inputs, 1) ** -0.5
        if parameter.std(correction=0) < LEAST * wanted:
            parameter.add_(torch.randn_like(parameter), alpha=wanted)
    if isinstance(part, _BatchNorm) and part.affine:
        part.bias.add_(SHIFT)
    buffers = dict(part.named_buffers(recurse=False))
    if "running_var" in buffers:
        for name, buffer in buffers.items():
            if buffer.is_floating_point():
                noise = torch.rand_like(buffer) * 2 - 1
                buffer.mul_(1 + noise / 2) if name == "running_var" else buffer.add_(noise, alpha=NOISE)


def _calibrate(subject: Subject) -> None:
    norms = [part for part in subject.module.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    if not norms:
        return
    before = [(part.momentum, part.running_mean.clone(), part.running_var.clone()) for part in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    try:
        subject.run(subject.inputs(99, SAMPLES))
    except ValueError:  # a batch norm that sees one value a channel
        for norm, (_, mean, variance) in zip(norms, before, strict=True):
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)
    for norm, (momentum, _, _) in zip(norms, before, strict=True):
        norm.eval()
        norm.momentum = momentum


def _moderate(subject: Subject) -> None:
    """Scale the last layers of a detector by what each gives when it first runs."""
    moderated: set[nn.Module] = set()

    def scale(part: Any, _inputs: Any, output: Tensor) -> Tensor | None:
        if part in moderated:
            return None
        moderated.add(part)
        mean, deviation = output.mean(), output.std()
        part.weight.div_(deviation)
        part.bias.sub_(mean).div_(deviation)
        return (output - mean) / deviation

    heads = [part for name, part in subject.module.named_modules() if re.fullmatch(HEADS, name)]
    lasts = [list(head.children())[-1] if isinstance(head, nn.Sequential) else head for head in heads]
    hooks = [last.register_forward_hook(scale) for last in lasts if isinstance(last, _AFFINE)]
    if hooks:
        subject.run(subject.inputs(98, SAMPLES))
    for hook in hooks:
        hook.remove()
