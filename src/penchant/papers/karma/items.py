"""KARMA's item encoder E (Eq. 2): from an item's content to one token e_i. Learned, run offline, never served.

Three trunks: frozen vectors; a language model or text encoder over the item's words; one that reads pictures too, as
Qwen3-VL does. A skip and a small MLP lead from a trunk's vector into the decoder's width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from penchant.layers import MLP
from penchant.papers.karma.pretrained import add_low_rank, empty_model

if TYPE_CHECKING:
    from penchant.papers.karma.model import KarmaConfig

CHUNK_WORDS = 16384
"""Words read at once, padding included. Where a batch has more, activations are made again in the backward pass, so
that it holds no more of them than this, however many negatives there are (the "gradient cache" of large pools)."""


class FrozenVectors(nn.Module):
    """Content vectors that were made once (`penchant encode`)."""

    content: Tensor

    def __init__(self, num_items: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("content", torch.zeros(num_items + 1, width))

    def forward(self, items: Int[Tensor, " N"]) -> Float[Tensor, "N E"]:
        return self.content[items]


class TextReader(nn.Module):
    """A transformer over an item's words; the mean of its last states is the item's vector.

    Its input embeddings are those of the words that occur in the catalogue. With `below` (the states that frozen lower
    layers make of every item, computed once) it is only the layers above them, and reads no words.
    """

    words: Tensor

    def __init__(self, config: KarmaConfig, num_items: int) -> None:
        super().__init__()
        self.on_top = config.item_tune == "top"
        self.body = empty_model(config.item_architecture, 0 if self.on_top else config.vocabulary)
        if config.item_tune == "lora":
            add_low_rank(self.body, config.rank)
        self.width: int = getattr(self.body.config, "text_config", self.body.config).hidden_size
        self.register_buffer("words", torch.full((num_items + 1, config.item_words), -1, dtype=torch.int32))
        self.below: np.ndarray | None = None
        """float16 [I+1, W, E], mapped; not saved with the model."""
        self.num_below = 0
        """How many layers made them; not saved either."""

    def forward(self, items: Int[Tensor, " N"]) -> Float[Tensor, "N E"]:
        """Zero for an item with nothing to read. Items of like length are read together, in chunks."""
        lengths = self.lengths(items)
        order = torch.argsort(lengths, stable=True)
        nothing = int((lengths == 0).sum())
        parts = [torch.zeros(nothing, self.width, device=items.device)]
        chunks = list(_chunks(lengths[order].tolist(), nothing))
        again = torch.is_grad_enabled() and len(chunks) > 1
        for rows in chunks:
            chosen = items[order[rows]]
            length = int(lengths[order[rows.stop - 1]])
            if again:
                read: Any = checkpoint(self._read, chosen, length, use_reentrant=False)
                parts.append(read)
            else:
                parts.append(self._read(chosen, length))
        vectors = torch.cat(parts)
        return torch.empty_like(vectors).index_copy(0, order, vectors)

    def lengths(self, items: Int[Tensor, " N"]) -> Int[Tensor, " N"]:
        """Positions that each item is read in."""
        return (self.words[items] >= 0).sum(1)

    def _read(self, items: Int[Tensor, " N"], length: int) -> Float[Tensor, "N E"]:
        inputs, real = self.inputs(items, length)
        # Only a decoder has a cache to be turned off.
        options = {"use_cache": False} if hasattr(self.body.config, "use_cache") else {}
        states = self.body(**inputs, **options).last_hidden_state
        kept = real[..., None].to(states.dtype)
        return ((states * kept).sum(1) / kept.sum(1).clamp(min=1)).float()

    def inputs(self, items: Int[Tensor, " N"], length: int) -> tuple[dict[str, Any], Bool[Tensor, "N L"]]:
        """What the transformer is given, and which of its positions are real."""
        words = self.words[items, :length].long()
        real = words >= 0
        if not self.on_top:
            return {"input_ids": words.clamp(min=0), "attention_mask": real.long()}, real
        if self.below is None:
            raise ValueError("the frozen layers' states are not here: see recipes/karma/build.py")
        states = torch.from_numpy(self.below[items.cpu().numpy(), :length]).to(words.device)
        return {"inputs_embeds": states.float(), "attention_mask": real.long()}, real


def _chunks(lengths: list[int], start: int) -> Iterator[slice]:
    """Runs of ascending lengths, from a place on, of at most `CHUNK_WORDS` words each, padding included."""
    for end, length in enumerate(lengths[start:], start + 1):
        if (end - start) * length > CHUNK_WORDS and end - 1 > start:
            yield slice(start, end - 1)
            start = end - 1
    if start < len(lengths):
        yield slice(start, len(lengths))


class ItemEncoder(nn.Module):
    """e_i in the decoder's width: norm(skip(v) + MLP(v)), v the trunk's vector.

    The skip keeps what v says; the MLP bends it into the decoder's space.
    """

    def __init__(self, config: KarmaConfig, num_items: int, width: int) -> None:
        super().__init__()
        self.trunk: FrozenVectors | TextReader
        if config.items == "vectors":
            self.trunk = FrozenVectors(num_items, config.content_width)
        elif config.items == "text":
            self.trunk = TextReader(config, num_items)
        else:
            from penchant.papers.karma.pictures import PictureReader

            self.trunk = PictureReader(config, num_items)
        self.skip = nn.Linear(self.trunk.width, width, bias=False)
        self.bend = MLP(self.trunk.width, width, width)
        self.norm = nn.RMSNorm(width, eps=1e-6)

    def forward(self, items: Int[Tensor, "*S"]) -> Float[Tensor, "*S D"]:
        """Tokens of items; each distinct one is read once."""
        if isinstance(self.trunk, FrozenVectors):
            return self.of_vectors(self.trunk.content[items])
        distinct, inverse = torch.unique(items, return_inverse=True)
        return F.embedding(inverse, self.of_vectors(self.trunk(distinct)))

    def of_vectors(self, vectors: Float[Tensor, "*S E"]) -> Float[Tensor, "*S D"]:
        """From a trunk's vectors: what is new of an item encoder."""
        return self.norm((self.skip(vectors) + self.bend(vectors)).float())
