"""Models that libraries build by name: `torchvision:resnet18`, `timm:resnet18`, and `hf:FOLDER`, saved by Hugging Face.

Each comes with example inputs of the size that it was trained with, and batches (of texts, lengths too) stay symbolic.
"""

import json
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from ...ir.errors import ModelError, UsageError
from ...ir.suggestion import nearest

Traceable: TypeAlias = tuple[Any, Any, Any]
"""A module, example inputs, dynamic shapes."""

_LENGTH = 16
"""Tokens of an example text."""
_IMAGE = 224
"""Pixels of an example image, where the model says nothing."""
_NO_END = 1 << 30
"""Tokens that no model has a limit of, though files may name greater numbers."""


def from_library(library: str, name: str, options: Mapping[str, Any], folder: Path) -> Traceable:
    """A model that a library builds.

    Args:
        library: the library, one of `LIBRARIES`.
        name: the model's name there; for Hugging Face, the folder.
        options: `checkpoint`, a file of weights of one's own; `pretrained`, whether the library's own are loaded, which
            they are by default; `size`, of the example images; `task`, one of Hugging Face's; others go to the library.
        folder: the folder that files are relative to.

    Raises:
        UsageError: the library isn't installed, or has no such model or option.
        ModelError: the weights can't be had, or don't fit.
    """
    try:
        return LIBRARIES[library](name, dict(options), folder)
    except ModuleNotFoundError as error:
        package = "transformers" if library == "hf" else library
        raise UsageError(f"{library}:{name} needs a library that isn't installed: pip install {package}") from error
    except (UsageError, ModelError):
        raise
    except Exception as error:  # whatever the library raises
        raise ModelError(f"{library}:{name} can't be built: {type(error).__name__}: {error}") from error


def _torchvision(name: str, options: dict[str, Any], folder: Path) -> Traceable:
    from torchvision import models

    known = models.list_models()
    if name not in known:
        raise UsageError(f"torchvision has no model {name!r}{nearest(name, known)}")
    checkpoint = options.pop("checkpoint", None)
    weights: Any = next(iter(models.get_model_weights(name)))
    side = options.pop("size", getattr(weights.transforms(), "crop_size", [_IMAGE])[0])
    pretrained = options.pop("pretrained", checkpoint is None)
    plain: dict[str, Any] = {"weights": None, "weights_backbone": None}
    given = {"weights": weights} if pretrained else plain if name in _with_backbone(models) else {"weights": None}
    module = _downloaded(lambda: models.get_model(name, **given, **options), f"torchvision:{name}")
    _load(module, checkpoint, folder)
    if name in models.list_models(models.detection):
        import torch

        return module, ([torch.zeros(3, side, side)],), None
    return (module, *_images(3, side, side))


def _with_backbone(models: Any) -> list[str]:
    """The models whose backbone has weights of its own."""
    return [*models.list_models(models.detection), *models.list_models(models.segmentation)]


def _timm(name: str, options: dict[str, Any], folder: Path) -> Traceable:
    import timm
    from timm.data import resolve_model_data_config

    if not timm.is_model(name):
        raise UsageError(f"timm has no model {name!r}{nearest(name, timm.list_models())}")
    checkpoint, side = options.pop("checkpoint", None), options.pop("size", None)
    pretrained = options.pop("pretrained", checkpoint is None)
    module = _downloaded(lambda: timm.create_model(name, pretrained=pretrained, **options), f"timm:{name}")
    _load(module, checkpoint, folder)
    channels, height, width = resolve_model_data_config(module)["input_size"]
    return (module, *_images(channels, side or height, side or width))


def _hugging_face(name: str, options: dict[str, Any], folder: Path) -> Traceable:
    path = folder / name
    if not (path / "config.json").is_file():
        raise UsageError(f"hf:{name}: {path} is no folder of save_pretrained: it has no config.json")
    import transformers

    config = transformers.AutoConfig.from_pretrained(path)
    task = options.pop("task", None)
    with _quiet(transformers.logging):
        module = _class_for(task, config, path).from_pretrained(path, **options)
    module = module if "dtype" in options else module.float()
    if hasattr(module.config, "use_cache"):
        module.config.use_cache = False  # a cache is state, which a graph has none of
    if module.main_input_name == "pixel_values":
        size = getattr(config, "image_size", _IMAGE)
        height, width = size if isinstance(size, list | tuple) else (size, size)
        examples, dynamic = _images(getattr(config, "num_channels", 3), height, width)
        return module, {"pixel_values": examples[0]}, {"pixel_values": dynamic[0]}
    if module.main_input_name != "input_ids":
        raise UsageError(
            f"hf:{name} takes {module.main_input_name}: write a factory that returns it with example inputs"
        )
    return (module, *_texts(path, config))


@contextmanager
def _quiet(log: Any) -> Generator[None]:
    """Keep transformers from drawing bars while this lasts."""
    if not log.is_progress_bar_enabled():
        yield
        return
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.enable_progress_bar()


def _class_for(task: str | None, config: Any, path: Path) -> Any:
    """The class of a model: the task's, or that which the folder was saved from."""
    import transformers
    from transformers.pipelines import PIPELINE_REGISTRY

    if task is None:
        names = config.architectures or ["AutoModel"]
        return getattr(transformers, names[0], transformers.AutoModel)
    tasks = PIPELINE_REGISTRY.supported_tasks
    task = PIPELINE_REGISTRY.task_aliases.get(task, task)
    if task not in tasks:
        raise UsageError(f"Hugging Face has no task {task!r}{nearest(task, tasks)}")
    kinds = tasks[task]["pt"]
    fitting = [kind for kind in kinds if type(config) in kind._model_mapping]
    if not fitting:
        raise UsageError(f"the model of {path}, a {config.model_type}, has no head for {task}")
    return fitting[0]


def _texts(path: Path, config: Any) -> tuple[Any, Any]:
    """Two texts of tokens, as the folder's tokenizer names what a model takes of them."""
    import torch
    from torch.export import Dim

    settings = path / "tokenizer_config.json"
    said = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
    names = said.get("model_input_names") or ["input_ids", "attention_mask"]
    if config.is_encoder_decoder:
        names = [*names, "decoder_input_ids"]
    most = min(getattr(config, "max_position_embeddings", _NO_END), said.get("model_max_length", _NO_END))
    batch, length = Dim("batch"), Dim("length", max=None if most == _NO_END else int(most))
    examples = {name: torch.ones(2, _LENGTH, dtype=torch.int64) for name in names}
    lengths = {"decoder_input_ids": Dim("decoder_length")}
    return examples, {name: {0: batch, 1: lengths.get(name, length)} for name in names}


def _images(channels: int, height: int, width: int) -> tuple[Any, Any]:
    import torch
    from torch.export import Dim

    return (torch.zeros(2, channels, height, width),), ({0: Dim("batch")},)


def _downloaded(make: Callable[[], Any], reference: str) -> Any:
    """A model whose weights a library fetches.

    Raises:
        ModelError: it can't.
    """
    try:
        return make()
    except OSError as error:  # those of urllib and of huggingface_hub are some
        raise ModelError(
            f"the weights of {reference} can't be fetched ({type(error).__name__}: {error}): give your own, "
            f"{reference}{{checkpoint=FILE}}, or none, {reference}{{pretrained=false}}"
        ) from error


def _load(module: Any, checkpoint: str | None, folder: Path) -> None:
    """Load weights of a `.safetensors` file, or of one of torch that holds nothing but tensors."""
    if checkpoint is None:
        return
    path = folder / checkpoint
    if not path.is_file():
        raise UsageError(f"there is no checkpoint {path}")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state: Any = load_file(path)
    else:
        import torch

        state = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        state = state.get(key, state)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:3]]
        raise ModelError(
            f"the weights of {path} don't fit the model: {' '.join(lines)} Give the options that it was made with, "
            "as num_classes=10"
        ) from error


LIBRARIES: dict[str, Callable[[str, dict[str, Any], Path], Traceable]] = {
    "hf": _hugging_face,
    "timm": _timm,
    "torchvision": _torchvision,
}
