"""Pretrained transformers as KARMA holds them: built from a description, loaded with weights, tuned by low rank."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


def described(config: Any) -> dict[str, Any]:
    """A transformers configuration as plain values, from which `empty_model` builds."""
    return json.loads(config.to_json_string(use_diff=False))


def empty_model(architecture: str, words: int = 0) -> Any:
    """A model of that architecture with fresh weights.

    Args:
        architecture: a transformers configuration as JSON.
        words: size of its vocabulary; 0 = it has no word embeddings, and reads vectors.
    """
    from transformers import AutoConfig, AutoModel

    described = json.loads(architecture)
    if "text_config" not in described and words != described["vocab_size"]:
        # Special words may lie beyond the vocabulary. Without words: one of one, which is thrown away at once.
        special = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))
        described |= {**special, "vocab_size": max(words, 1)}
    config = AutoConfig.for_model(**described)
    model = AutoModel.from_config(config, attn_implementation="sdpa", dtype=torch.float32)
    if not words:
        model.set_input_embeddings(nn.Identity())
    return model


class LowRank(nn.Module):
    """W + B A: a weight that stays as it is, and an addition of low rank that learns (LoRA, Hu et al. 2021).

    B begins at zero, so that nothing changes at first. alpha = 2 rank, so that the addition counts twice.
    """

    def __init__(self, rows: int, columns: int, rank: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(rank, columns) * columns**-0.5)
        self.b = nn.Parameter(torch.zeros(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + 2 * (self.b @ self.a)


def add_low_rank(model: nn.Module, rank: int) -> None:
    """Freeze a model and let every linear layer of it learn a low-rank addition."""
    model.requires_grad_(False)
    for module in [m for m in model.modules() if isinstance(m, nn.Linear)]:
        rows, columns = module.weight.shape
        parametrize.register_parametrization(module, "weight", LowRank(rows, columns, rank))


def merged(model: nn.Module) -> dict[str, Tensor]:
    """The state of the same model without low-rank additions: each is added to its weight."""
    state = {k: v for k, v in model.state_dict().items() if ".parametrizations." not in k}
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module):
            weight: Any = module.weight
            state[f"{name}.weight"] = weight.detach()
    return state


def load_pretrained(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Fill a model with pretrained weights, whether low-rank additions are on it or not.

    Raises:
        RuntimeError: a weight is missing, or of another shape.
    """
    names = {k.replace(".parametrizations.weight.original", ".weight"): k for k in model.state_dict()}
    filled = {names[k]: v for k, v in state.items() if k in names}
    missing = [k for k in names if k not in state and ".parametrizations." not in k]
    if missing:
        raise RuntimeError(f"no weights for {missing[:3]}")
    model.load_state_dict(filled, strict=False)
