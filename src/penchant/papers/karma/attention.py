"""How KARMA attends: its decoder over histories, its item encoder over texts (figure 2). For reports, never served."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from penchant.data.history import Requests
from penchant.papers.karma.items import ItemEncoder, TextReader
from penchant.papers.karma.model import Karma
from penchant.papers.karma.pictures import PictureReader
from penchant.papers.karma.pretrained import empty_model


@torch.no_grad()
def attention_of(body: Any, inputs: dict[str, Any]) -> list[Float[np.ndarray, "N H L L"]]:
    """Weights [text, head, query, key] of every layer of a transformer.

    Args:
        inputs: what its forward is given.
    """
    options = {"use_cache": False} if hasattr(body.config, "use_cache") else {}
    with _eager(body):
        read = body(**inputs, **options, output_attentions=True)
    return [layer.float().cpu().numpy() for layer in read.attentions]


def text_reader(model: Karma) -> TextReader | None:
    """The transformer of its item encoder, where it has one that reads words alone."""
    trunk = model.items.trunk if isinstance(model.items, ItemEncoder) else None
    return trunk if isinstance(trunk, TextReader) and not isinstance(trunk, PictureReader) else None


def texts_read(reader: TextReader, items: Int[Tensor, " N"]) -> tuple[dict[str, Any], list[int]]:
    """What the item encoder is given of some items, and how many positions of each are real."""
    lengths = reader.lengths(items)
    with torch.no_grad():
        inputs, _ = reader.inputs(items, int(lengths.max()))
    return inputs, lengths.tolist()


def histories_read(model: Karma, requests: Requests) -> tuple[dict[str, Any], list[int]]:
    """What the decoder is given of some requests, and how many positions of each are real."""
    with torch.no_grad():
        tokens, lengths = model.sequence(requests.last(model.config.max_len))
    return {"inputs_embeds": tokens}, lengths.tolist()


def random_body(architecture: str, body: Any, seed: int = 0) -> Any:
    """A transformer of that architecture with fresh weights, which reads what `body` reads.

    Args:
        architecture: as in `KarmaConfig.architecture` or `item_architecture`.
    """
    words = body.get_input_embeddings()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return empty_model(architecture, getattr(words, "num_embeddings", 0)).eval()


def is_causal(maps: Sequence[Float[np.ndarray, "N H L L"]]) -> bool:
    """Whether no position of a transformer's maps sees one after it: text encoders see all."""
    return not any(np.triu(layer, 1).any() for layer in maps)


@contextmanager
def _eager(body: Any) -> Iterator[None]:
    """Attention that can say its weights; the fast kinds never hold them."""
    before = body.config._attn_implementation
    body.set_attn_implementation("eager")
    try:
        yield
    finally:
        body.set_attn_implementation(before)
