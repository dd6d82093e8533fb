"""Frozen text vectors by any Hugging Face encoder, or by the packaged MiniLM."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from penchant.data.store import fingerprint
from penchant.encoders.packaged import MINILM
from penchant.encoders.pretrained import find_folder, load_part, load_weights, model_fingerprint, unavailable
from penchant.models import pick_device

Pooling = Literal["mean", "cls", "max", "lasttoken"]
# How sentence-transformers spells them.
_POOLING_KEYS: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "lasttoken",
}


def item_text(title: str | None, text: str | None) -> str:
    """What is encoded of an item: its title, then its further text. Empty for an item with neither."""
    title, text = (title or "").strip(), (text or "").strip()
    return f"{title.rstrip('.')}. {text}" if title and text else title or text


class TextEncoder:
    """Texts to vectors; made by `load_text_encoder`. Instruction prefixes some models ask for are not added.

    Attributes:
        dim: width of its vectors.
        fingerprint: of weights, tokenizer and settings; equal where vectors are equal.
        max_tokens: longer texts are cut.
    """

    kind = "text"

    def __init__(
        self,
        name: str,
        model: Any,
        tokenizer: Any,
        *,
        pooling: Pooling,
        normalize: bool,
        max_tokens: int,
        device: torch.device,
        unused: frozenset[str] = frozenset(),
    ) -> None:
        self.name = name
        self.max_tokens = max_tokens
        self._model = model
        self._tokenizer = tokenizer
        self._pooling: Pooling = pooling
        self._normalize = normalize
        self._device = device
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self.fingerprint = model_fingerprint(
            model,
            {
                "tokenizer": fingerprint(backend.to_str() if backend is not None else sorted(tokenizer.get_vocab())),
                "pooling": pooling,
                "normalize": normalize,
                "max_tokens": max_tokens,
            },
            without=unused,
        )
        model.to(device)
        self.dim = self.encode(["a"]).shape[1]

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> Float[np.ndarray, "B D"]:
        """float32 vectors of B texts, as one batch."""
        tokens = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).to(self._device)
        hidden = self._model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
        pooled = _pool(hidden.float(), tokens["attention_mask"], self._pooling)
        if self._normalize:
            pooled = torch.nn.functional.normalize(pooled, dim=1)
        return pooled.cpu().numpy()


def load_text_encoder(name: str = MINILM.short, *, device: str = "auto", max_tokens: int = 256) -> TextEncoder:
    """A frozen text encoder by short name ("minilm"), Hugging Face name or local folder.

    Pooling is what the model's sentence-transformers files say, else the mean over its tokens. Of an encoder-decoder,
    the encoder is used.

    Args:
        max_tokens: texts are cut there, or earlier where the model can read no more.

    Raises:
        ModelUnavailableError: it cannot be had, or its vectors would not be those its makers meant.
        ConfigError: no such device.
    """
    from transformers import AutoModel, AutoTokenizer

    where = pick_device(device)
    folder = MINILM.weights_path().parent if name == MINILM.short else find_folder(name, MINILM)
    pooling, normalize, longest = _sentence_settings(folder, name)
    # Texts are padded on the right whatever the tokenizer's habit: "lasttoken" and absolute positions rely on it.
    tokenizer = load_part(AutoTokenizer, folder, name, MINILM, {"padding_side": "right"})
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):
        # transformers makes an empty vocabulary of absent files: every word would be the same unknown one.
        raise unavailable(name, "it has no tokenizer files", MINILM)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model, missing = load_weights(AutoModel, folder, name, MINILM, dtype=torch.float32)
    if getattr(model.config, "is_encoder_decoder", False):
        model = model.get_encoder()
    limits = (max_tokens, longest, tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None))
    try:
        return TextEncoder(
            name,
            model,
            tokenizer,
            pooling=pooling,
            normalize=normalize,
            max_tokens=min(limit for limit in limits if limit),
            device=where,
            unused=missing,
        )
    except (TypeError, ValueError, AttributeError) as error:  # a joint or a vision model, which wants more than text
        raise unavailable(name, f"it does not encode text alone ({error})", MINILM) from error


def _pool(hidden: Float[Tensor, "B W D"], mask: Int[Tensor, "B W"], pooling: Pooling) -> Float[Tensor, "B D"]:
    """One vector a text, of its W tokens; padding (mask 0, on the right) has no part in it."""
    kept = mask[..., None].to(hidden.dtype)
    if pooling == "mean":
        return (hidden * kept).sum(1) / kept.sum(1).clamp(min=1)
    if pooling == "max":
        return hidden.masked_fill(kept == 0, -torch.inf).amax(1)
    if pooling == "cls":
        return hidden[:, 0]
    return hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(1).clamp(min=1) - 1]


def _sentence_settings(folder: Path, name: str) -> tuple[Pooling, bool, int | None]:
    """Pooling, normalisation and greatest length of a sentence-transformers folder; mean and no more of any other."""
    modules = folder / "modules.json"
    if not modules.is_file():
        return "mean", False, None
    pooling: Pooling = "mean"
    normalize, longest = False, None
    for module in json.loads(modules.read_text()):
        kind = module["type"].rsplit(".", 1)[-1]
        if kind == "Transformer":
            settings = folder / module["path"] / "sentence_bert_config.json"
            longest = json.loads(settings.read_text()).get("max_seq_length") if settings.is_file() else None
        elif kind == "Pooling":
            pooling = _pooling(json.loads((folder / module["path"] / "config.json").read_text()), name)
        elif kind == "Normalize":
            normalize = True
        else:
            raise unavailable(name, f"its sentence-transformers module {kind!r} is not supported", MINILM)
    return pooling, normalize, longest


def _pooling(config: dict[str, Any], name: str) -> Pooling:
    if "pooling_mode" in config:  # the newer spelling: {"pooling_mode": "mean"}
        modes = config["pooling_mode"] if isinstance(config["pooling_mode"], list) else [config["pooling_mode"]]
    else:
        on = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
        modes = [_POOLING_KEYS.get(key, key) for key in on]
    known: list[Pooling] = [pooling for pooling in _POOLING_KEYS.values() if [pooling] == modes]
    if not known:
        raise unavailable(name, f"its pooling {modes} is not one of {sorted(_POOLING_KEYS.values())}", MINILM)
    return known[0]
