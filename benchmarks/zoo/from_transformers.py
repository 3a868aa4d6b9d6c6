"""transformers' architectures, with random weights and small configurations."""

from collections.abc import Mapping

import torch
from transformers import AutoModel, PreTrainedConfig
from transformers.models.auto import configuration_auto, modeling_auto

from .sample_inputs import sample_inputs
from .small_config import small_configs
from .subject import Subject, Unbuilt

MOST_PARAMETERS = 60_000_000


def names(dynamic: bool) -> list[str]:
    return [f"{_family(kind)}/{kind}" for kind in modeling_auto.MODEL_MAPPING_NAMES]


def build(name: str) -> Subject:
    """The first of the small configurations whose model can be made and run.

    Raises:
        Unbuilt: there is none.
    """
    kind = name.rpartition("/")[2]
    reasons: list[str] = []
    for config in small_configs(configuration_auto.CONFIG_MAPPING[kind]):
        try:
            return _subject(config)
        except Exception as error:  # whatever a model says to a configuration that contradicts itself
            reasons.append(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    raise Unbuilt(f"no small configuration of {kind} runs: {' | '.join(reasons)}")


def _subject(config: PreTrainedConfig) -> Subject:
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in AutoModel.from_config(config).parameters())
    if size > MOST_PARAMETERS:
        raise ValueError(f"{size} parameters")
    module = AutoModel.from_config(config).eval()
    return Subject(module, sample_inputs(module))


def _family(kind: str) -> str:
    """What sort of architecture it is, by the tasks that transformers lists it under."""
    for family, mappings in _FAMILIES.items():
        if any(kind in getattr(modeling_auto, f"MODEL_{mapping}_MAPPING_NAMES") for mapping in mappings):
            return family
    return "other"


_FAMILIES: Mapping[str, tuple[str, ...]] = {
    "multimodal": (
        "FOR_MULTIMODAL_LM",
        "FOR_IMAGE_TEXT_TO_TEXT",
        "FOR_ZERO_SHOT_IMAGE_CLASSIFICATION",
        "FOR_ZERO_SHOT_OBJECT_DETECTION",
        "FOR_VISUAL_QUESTION_ANSWERING",
        "FOR_DOCUMENT_QUESTION_ANSWERING",
    ),
    "audio": ("FOR_AUDIO_CLASSIFICATION", "FOR_CTC", "FOR_SPEECH_SEQ_2_SEQ", "FOR_TEXT_TO_WAVEFORM", "FOR_RNNT"),
    "vision": ("FOR_IMAGE", "FOR_BACKBONE", "FOR_OBJECT_DETECTION", "FOR_VIDEO_CLASSIFICATION", "FOR_MASK_GENERATION"),
    "encoder-decoder": ("FOR_SEQ_TO_SEQ_CAUSAL_LM",),
    "encoder": ("FOR_MASKED_LM", "FOR_TEXT_ENCODING"),
    "decoder": ("FOR_CAUSAL_LM",),
}
