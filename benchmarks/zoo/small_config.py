"""Small configurations of transformers' architectures, made from their defaults by the names of the fields.

Fields of one meaning have much the same name everywhere: `num_hidden_layers`, `encoder_layers` and `n_layer` all become
2, `hidden_size`, `d_model` and `n_embd` all become 32. Where that makes a configuration that contradicts itself, the
widths stay as they are, and only depths and tables shrink.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from inspect import signature
from typing import Any

from transformers import PreTrainedConfig, ResNetConfig
from transformers.models.dbrx.configuration_dbrx import DbrxAttentionConfig

VOCABULARY = 128
LAYERS = 2
ORDINARY = 100
"""Ids from here on are special ones, such as the placeholders of images."""

_Rule = tuple[str, Callable[[Any], Any]]


def _most(bound: int) -> Callable[[int], int]:
    return lambda value: min(value, bound)


def _index(value: int) -> int:
    return max(min(value, LAYERS - 1), -1)


_DEPTHS: tuple[_Rule, ...] = (
    (r"(.+_)?(vocab|codebook)_size(_.+)?|n_positions|n_ctx|num_(position_)?embeddings", _most(VOCABULARY)),
    (r"(.+_)?max_.*(positions|position_embeddings|seq_len|sequence_length|pos_emb)", _most(VOCABULARY)),
    (r"chunk_size|mamba_chunk_size|block_size|(.+_)?sliding_window(_size)?|attention_window(_size)?", _most(8)),
    (r"first_k_dense_replace|num_dense_layers|n_group|topk_group|num_mtp_layers", _most(1)),
    (r"num_kv_shared_layers|n_shared_experts", _most(1)),
    (r"(.+_)?layers|n_layers?|(.+_)?n_layer|(.+_)?depth|num_self_attends_per_block|prompt_length", _most(LAYERS)),
    (r"attn_layer_period|expert_layer_period|full_attention_interval", _most(2)),
    (r"attn_layer_offset", _most(1)),
    (r"(.+_)?(num|n)(_local|_routed|_unique)?_experts|moe_num_experts", _most(4)),
    (r"(.+_)?(experts_per_tok|top_?k|moe_k)", _most(2)),
    (r"num_queries|num_query_tokens|num_detection_tokens|two_stage_num_proposals", _most(10)),
    (r"num_denoising", _most(0)),
    (r"(.+_)?(num_)?latents?|num_frames|frames_per_clip", _most(8)),
    (r"max_source_positions", _most(64)),
    (r"max_window_layers", _most(1)),
)
_WIDTHS: tuple[_Rule, ...] = (
    (r"mamba_n(um)?_heads", _most(8)),
    (r"(.+_)?head_(dim|size)|d_kv|dim_head|(.+_)?d_head|kv_channels|rotary_dim", _most(8)),
    (r"(.+_)?n_?groups", _most(2)),
    (r"(.+_)?(num_)?(key_value|kv)(_attention)?_heads|kv_n_heads|linear_num_key_heads", _most(2)),
    (r"(.+_)?(num_)?((self_|cross_)?att(entio)?n_)?heads?|(.+_)?n_heads?|linear_num_value_heads", _most(4)),
    (r"(.+_)?lora_rank|(.+_)?d_state|(.+_)?state_size|time_step_rank", _most(16)),
    (r"(.+_)?(intermediate_(size|dim)|ffn_(hidden_)?(dim|size)|mlp_dim|d_?ff|n_inner|dim_ff)", _most(64)),
    (r"(.+_)?(dim_feedforward|feed_?forward_(hidden_)?(dim|size)|linear_units)|intermediate_size_mlp", _most(64)),
    (r"(.+_)?(hidden_size|d_model|n_embd|emb(ed)?_dim|hidden_dim|width)(_.+)?", _most(32)),
    (r"(.+_)?(projection_(dim|size)|embedding_(size|dim))(_.+)?|(.+_)?output_size", _most(32)),
    (r"dim|d_inner|d_latents|lru_width|(proj_)?codevector_dim|out_hidden_size|(word_embed_)?proj(ect)?_dim", _most(32)),
    (r"fusion_hidden_size|mask_feature_size|fpn_feature_size|conv_dim", _most(32)),
)
_LISTS: tuple[_Rule, ...] = (
    (r"(.+_)?depths?|num_blocks|num_conv_blocks|block_repeats", lambda row: [1] * len(row)),
    (
        r"(.+_)?(index|indices|idxs|indexes|layer_ids?)|vision_feature_layer",
        lambda row: [_index(value) for value in row],
    ),
)
_WIDE_LISTS: tuple[_Rule, ...] = (
    (r"(.+_)?hidden_sizes|embed_dims?", lambda row: [max(value // 4, 8) for value in row]),
    (r"conv_dim|tdnn_dim", lambda row: [32 for _ in row]),
)


def small_configs(kind: type[PreTrainedConfig]) -> Iterator[PreTrainedConfig]:
    """Configurations of a kind, smaller ones first; not all of them need be consistent."""
    for rules in (_DEPTHS + _WIDTHS + _LISTS + _WIDE_LISTS, _DEPTHS + _WIDTHS, _DEPTHS + _LISTS, _DEPTHS):
        try:
            yield _shrunk(kind(), rules, {})
        except Exception:  # whatever a configuration says to values that don't fit together
            continue


def _shrunk(config: PreTrainedConfig, rules: tuple[_Rule, ...], ids: dict[str, int]) -> PreTrainedConfig:
    """A new configuration; the ids of special tokens are handed out once for all of its parts."""
    changed: dict[str, Any] = {}
    for name, default in _fields(type(config)):
        try:
            value = getattr(config, name)
        except Exception:  # one that differs from layer to layer
            continue
        if isinstance(value, PreTrainedConfig):
            changed[name] = _shrunk(value, rules, ids)
        elif value is None and re.fullmatch(_NEEDED, name):
            changed[name] = _small(name, VOCABULARY, rules, ids)
        elif default is not None:
            changed[name] = _small(name, value, rules, ids)
    _agree(config, changed)
    changed |= _OWN.get(config.model_type, dict)()
    return type(config)(**changed)


def _residual_network(*stages: str) -> PreTrainedConfig:
    return ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1] * 4, out_features=list(stages))


_OWN: dict[str, Callable[[], dict[str, Any]]] = {
    "align_vision_model": lambda: {"width_coefficient": 0.25, "depth_coefficient": 0.25},
    "bamba": lambda: {"attn_layer_indices": [1]},
    "blip-2": lambda: {"image_token_index": ORDINARY},
    "blt": lambda: {"encoder_hash_byte_group_vocab": VOCABULARY},
    "chameleon": lambda: {"vocabulary_map": {"<image>": ORDINARY, "IMGIMGA": ORDINARY + 1}},
    "dbrx": lambda: {"attn_config": DbrxAttentionConfig(kv_n_heads=2, rope_theta=10000.0)},
    "deformable_detr": lambda: {"backbone_config": _residual_network("stage2", "stage3", "stage4")},
    "efficientnet": lambda: {"width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320},
    "esm": lambda: {"pad_token_id": 1},
    "falcon_h1": lambda: {"mamba_d_ssm": 64},
    "gemma3n_text": lambda: {"intermediate_size": 64, "activation_sparsity_pattern": [0.0] * LAYERS},
    "gpt_neo": lambda: {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": lambda: {"layer_types": ["mamba", "attention"]},
    "instructblip": lambda: {"image_token_index": ORDINARY},
    "lfm2_moe": lambda: {"layer_types": ["conv", "full_attention"]},
    "mamba2": lambda: {"num_heads": 8},
    "openai_privacy_filter": lambda: {"experts_implementation": "grouped_mm"},
    "recurrent_gemma": lambda: {"num_hidden_layers": 3},
    "timm_backbone": lambda: {"backbone": "resnet10t"},
    "vits": lambda: {"noise_scale": 0.0, "noise_scale_duration": 0.0},
    "xmod": lambda: {"default_language": "en_XX"},
    "zamba": lambda: {"layers_block_type": ["mamba", "hybrid"] * 2, "num_hidden_layers": 4},
    **dict.fromkeys(("bridgetower", "bridgetower_text_model", "bridgetower_vision_model"), lambda: {"hidden_size": 64}),
    **dict.fromkeys(("conditional_detr", "dab-detr", "detr"), lambda: {"backbone_config": _residual_network("stage4")}),
    **dict.fromkeys(("donut-swin", "swin"), lambda: {"window_size": 2}),
    **dict.fromkeys(
        ("autoformer", "informer", "time_series_transformer"), lambda: {"prediction_length": 4, "context_length": 8}
    ),
}
"""What some architectures need beyond the rules, by `model_type`."""

_NEEDED = (
    r"vocab_size|head_dim|num_key_value_heads|n_routed_experts|n_shared_experts|"
    r"num_experts(_per_tok)?|num_local_experts"
)
"""What some defaults leave open though nothing runs without it."""


def _agree(config: PreTrainedConfig, changed: dict[str, Any]) -> None:
    """Mend the fields that must fit others."""
    depth = next((name for name in ("num_hidden_layers", "num_layers") if name in changed), None)
    for name, _ in _fields(type(config)):
        value = getattr(config, name, None) if "layer" in name or name.endswith(("types", "pattern")) else None
        if depth and isinstance(value, list | tuple) and len(value) == getattr(config, depth) and len(value) > LAYERS:
            if isinstance(value[0], str):  # one layer of every kind
                value = [*dict.fromkeys(value), *value][: max(LAYERS, len(set(value)))]
                changed[depth] = len(value)
            changed[name] = list(value[: changed[depth]])
    patch, image = changed.get("patch_size"), changed.get("image_size")
    if isinstance(image, int) and not isinstance(image, bool):
        step = patch if isinstance(patch, int) else 16
        changed["image_size"] = min(image, step * max(4, -(-64 // (2 * step)) * 2))
    if isinstance(heads := changed.get("num_heads"), list | tuple) and isinstance(changed.get("embed_dim"), int):
        changed["embed_dim"] = 8 * heads[0]
    if depth and "out_indices" in changed:
        changed["out_indices"] = [min(index, changed[depth]) for index in changed["out_indices"] or ()] or None
    if "mrope_section" in type(config).ignore_keys_at_rope_validation:  # of half a head
        changed["rope_parameters"] = {**(changed.get("rope_parameters") or {}), "mrope_section": [2, 1, 1]}
    if "kv_lora_rank" in changed:  # latent attention has no groups of heads
        changed["num_key_value_heads"] = changed["num_attention_heads"]


def _fields(kind: type[PreTrainedConfig]) -> list[tuple[str, Any]]:
    if is_dataclass(kind):
        return [(field.name, field.default) for field in fields(kind) if field.init]
    return [(name, parameter.default) for name, parameter in signature(kind).parameters.items()]


def _small(name: str, value: Any, rules: tuple[_Rule, ...], ids: dict[str, int]) -> Any:
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int) and re.fullmatch(r".+_(token_id|token_index|token)|.+_id", name):
        return value if value < ORDINARY else ids.setdefault(name, ORDINARY + len(ids))
    is_row = isinstance(value, list | tuple) and value and all(isinstance(item, int) for item in value)
    if not isinstance(value, int) and not is_row:
        return value
    for pattern, change in rules:
        if re.fullmatch(pattern, name):
            try:
                return change(value)
            except TypeError:  # a rule for numbers, or for rows
                continue
    return value
