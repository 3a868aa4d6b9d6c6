"""Inputs for a model of transformers, by the names of its parameters and the sizes in its configuration."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import torch
from torch import Generator, Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.exporters.utils import precompute_export_inputs

from .small_config import ORDINARY
from .subject import Inputs

BATCH = 2
LENGTH = 12
"""The length of texts, in tokens."""

GRID = 4
"""The number of patches along each side of an image that is given as patches."""

LAYOUTS = 3
"""Ways to order the axes of sounds: bands before or after frames, with a channel or without."""


def sample_inputs(module: PreTrainedModel) -> Callable[[int, int], Inputs]:
    """Inputs of a seed that the model can be run with; the size is ignored.

    Raises:
        ValueError: none of the sets that were tried runs; with the reasons.
    """
    reasons: dict[str, None] = {}
    for names, layout in product(_choices(module), range(LAYOUTS)):
        make = _Inputs(module, names, layout)
        try:
            with torch.no_grad():
                module(**make(0, BATCH)[1])
        except Exception as error:  # whatever the model says to inputs that aren't what it wants
            reasons[f"{' '.join(names)}: {type(error).__name__} {' '.join(str(error).split())[:100]}"] = None
        else:
            return make
    raise ValueError("; ".join(reasons))


def _choices(module: PreTrainedModel) -> list[list[str]]:
    """Sets of names of inputs, the most first."""
    parameters = inspect.signature(module.forward).parameters
    needed = [
        name
        for name, parameter in parameters.items()
        if (parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD)
        or name == module.main_input_name
    ]
    others = [name for name in _WANTED if name in parameters and name not in needed]
    sets = [
        [*needed, *others],
        [*needed, *(name for name in others if not name.endswith("mask"))],
        [*needed, *(name for name in others if name != "decoder_input_ids")],
        *([*needed, name] for name in others),
        needed,
    ]
    return [list(row) for row in dict.fromkeys(map(tuple, sets))]


class _Inputs:
    """Makes inputs of a seed.

    Attributes:
        names: the names of the inputs.
        layout: the number of the order of axes for sounds, of the `LAYOUTS` that are in use.
    """

    def __init__(self, module: PreTrainedModel, names: Sequence[str], layout: int) -> None:
        self.module = module
        self.names = names
        self.layout = layout

    def __call__(self, seed: int, size: int) -> Inputs:
        context = _Context(self.module, Generator().manual_seed(seed), self.layout, self.names)
        last = ("noise_sequence", "input_ids", "attention_mask")  # which depend on sounds, on images, and on ids
        for name in sorted(self.names, key=lambda name: last.index(name) if name in last else -1):
            context.given[name] = _MAKERS[name](context)
        given = {name: context.given[name] for name in self.names}
        if "grid_thw" in given:  # what encoders ask it in Python, they take as tensors too
            with torch.no_grad():
                precompute_export_inputs(self.module, given)
        return (), given


class _Context:
    """What makers of inputs draw from."""

    def __init__(self, module: PreTrainedModel, generator: Generator, layout: int, names: Sequence[str]) -> None:
        self.module = module
        self.generator = generator
        self.layout = layout
        self.names = names
        self.given: dict[str, Any] = {}

    def find(self, *names: str, default: Any = None) -> Any:
        """The first of the fields that the configuration or a part of it has."""
        for config in _parts(self.module.config):
            for name in names:
                if (value := getattr(config, name, None)) is not None:
                    return value
        return default

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def ids(self, *shape: int) -> Tensor:
        most = min(ORDINARY, self.find("vocab_size", default=ORDINARY))
        return torch.randint(min(3, most - 1), most, shape, generator=self.generator)


def _parts(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    yield config
    for value in vars(config).values():
        if isinstance(value, PreTrainedConfig):
            yield from _parts(value)


def _pixels(context: _Context) -> Tensor:
    channels = context.find("num_channels", "in_channels", "in_chans", default=3)
    if {"image_grid_thw", "grid_thw"} & set(context.names):
        return _patches(context, channels)
    if "spatial_shapes" in context.names:
        return _patches(context, channels).reshape(BATCH, GRID * GRID, -1)
    sides = context.find("image_size", "img_size", "crop_size", default=64)
    height, width = (sides, sides) if isinstance(sides, int) else sides[-2:]
    frames = (context.find("num_frames", "frames_per_clip", default=8),) if context.layout else ()
    return context.normal(BATCH, *frames, channels, height, width)


def _patch_count(context: _Context) -> int:
    return (context.find("image_size") // context.find("patch_size")) ** 2


def _patches(context: _Context, channels: int) -> Tensor:
    """Images as rows of their patches, float[patches of all, elements of a patch]."""
    patch, time = context.find("patch_size", default=14), context.find("temporal_patch_size", default=1)
    return context.normal(BATCH * GRID * GRID, channels * time * patch * patch)


def _ids(context: _Context) -> Tensor:
    """Tokens, with as many placeholders as the images given need."""
    ids = context.ids(BATCH, LENGTH)
    placeholder = context.find("image_token_id", "image_token_index")
    if "pixel_values" not in context.given or placeholder is None or not hasattr(context.module, "get_image_features"):
        return ids
    given = {name: context.given[name] for name in ("pixel_values", "image_grid_thw") if name in context.given}
    with torch.no_grad():
        features = context.module.get_image_features(**given)
    features = getattr(features, "pooler_output", features)
    rows = features if isinstance(features, Tensor) else torch.cat(list(features))
    count = rows.shape[:-1].numel() // BATCH
    return torch.cat([ids[:, :2], torch.full((BATCH, count), placeholder), ids[:, 2:]], dim=1)


def _mask(context: _Context) -> Tensor:
    """All tokens, samples or frames but the last ones of the first row."""
    if (ids := context.given.get("input_ids")) is not None:
        length = ids.shape[1]
    elif (sound := context.given.get("input_values", context.given.get("input_features"))) is not None:
        length = sound.shape[-2 if sound.ndim > 2 and context.layout else -1]
    else:
        length = LENGTH
    mask = torch.ones(BATCH, length, dtype=torch.int64)
    mask[0, -max(length // 8, 1) :] = 0
    return mask


def _features(context: _Context) -> Tensor:
    bands = context.find(
        "feature_projection_input_dim", "num_mel_bins", "feature_size", "input_feat_per_channel", default=80
    )
    frames = 2 * context.find("max_source_positions", default=64)
    return context.normal(BATCH, *((bands, frames), (frames, bands), (1, frames, bands))[context.layout])


def _sound(context: _Context) -> Tensor:
    bands, frames = context.find("num_mel_bins", default=128), context.find("max_length", default=64)
    return context.normal(BATCH, *((4000,), (1, 4000), (frames, bands))[context.layout])


def _series(context: _Context) -> Tensor:
    length, channels = context.find("context_length", default=32), context.find("num_input_channels", default=1)
    lags = max(context.find("lags_sequence", default=[0]))
    return context.normal(BATCH, length + lags) if lags else context.normal(BATCH, length, channels)


def _whole(*shape: int) -> Callable[[_Context], Tensor]:
    return lambda context: context.ids(*shape)


def _real(*shape: int | str) -> Callable[[_Context], Tensor]:
    """Normal numbers; texts in the shape are fields of the configuration."""
    return lambda context: context.normal(
        *(context.find(size, default=1) if isinstance(size, str) else size for size in shape)
    )


def _grid(context: _Context) -> Tensor:
    return torch.tensor([[1, GRID, GRID]] * BATCH)


_MAKERS: Mapping[str, Callable[[_Context], Any]] = {
    "actions": _real(BATCH, LENGTH, "act_dim"),
    "attention_mask": _mask,
    "audio_codes": _whole(BATCH, 4, LENGTH),
    "bbox": lambda context: torch.arange(4).expand(BATCH, LENGTH, 4).contiguous() * 5,
    "decoder_input_ids": _whole(BATCH, LENGTH - 3),
    "grid_thw": _grid,
    "hidden_states": lambda context: _patches(context, context.find("in_channels", "num_channels", default=3)),
    "image_grid_thw": _grid,
    "input_features": _features,
    "input_ids": _ids,
    "input_points": _real(BATCH, 1, 3, 2),
    "input_values": _sound,
    "inputs": _real(BATCH, LENGTH, "d_model"),
    "inputs_embeds": _real(BATCH, LENGTH, "hidden_size"),
    "latents": _real(BATCH, "hidden_size", LENGTH),
    "noise": lambda context: torch.rand(BATCH, _patch_count(context), generator=context.generator),
    "noise_sequence": lambda context: context.normal(
        *context.given["input_features"].shape[:2], context.find("model_in_channels", default=64)
    ),
    "past_observed_mask": lambda context: torch.ones_like(_series(context)),
    "past_time_features": lambda context: context.normal(
        *_series(context).shape, context.find("num_time_features", default=0)
    ),
    "past_values": _series,
    "pixel_attention_mask": lambda context: torch.ones(BATCH, GRID * GRID, dtype=torch.int64),
    "pixel_values": _pixels,
    "pixel_values_videos": _pixels,
    "qformer_input_ids": _whole(BATCH, LENGTH),
    "query_embeds": _real(BATCH, LENGTH, "hidden_size"),
    "returns_to_go": _real(BATCH, LENGTH, 1),
    "rewards": _real(BATCH, LENGTH, 1),
    "spatial_shapes": lambda context: torch.tensor([[GRID, GRID]] * BATCH),
    "states": _real(BATCH, LENGTH, "state_dim"),
    "task_inputs": _whole(BATCH, LENGTH),
    "timesteps": _whole(BATCH, LENGTH),
    "visual_embeds": _real(BATCH, 4, "visual_embedding_dim"),
    "visual_feats": _real(BATCH, 4, "visual_feat_dim"),
    "visual_pos": _real(BATCH, 4, "visual_pos_dim"),
}
_WANTED = (
    "attention_mask",
    "input_ids",
    "pixel_values",
    "pixel_attention_mask",
    "spatial_shapes",
    "image_grid_thw",
    "input_features",
    "decoder_input_ids",
    "bbox",
    "states",
    "actions",
    "rewards",
    "returns_to_go",
    "timesteps",
    "visual_feats",
    "visual_pos",
    "visual_embeds",
    "qformer_input_ids",
    "input_points",
    "noise",
    "noise_sequence",
)
"""What is given where a model takes it, though it may do without."""
