"""KARMA's serving half: item vectors from content, a language model over them, dot products. Eq. 2 and 3.

A causal language model reads the history as one continuous token an item. What it needs of words (their embeddings, its
head) is in `objective.py`: nothing here can decode.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from penchant.data.history import Requests
from penchant.errors import ConfigError
from penchant.layers import MLP, last_hidden
from penchant.models import Sizes

WIDEST = 128
"""Widest vectors that an index is asked to hold."""


@dataclass(frozen=True, kw_only=True)
class KarmaConfig:
    """Sizes of KARMA's serving half."""

    backbone: str = "smollm2"
    """The language model that reads histories: "smollm2" (`make models`), a Hugging Face name or a folder."""
    layers: int | None = 2
    """Its first so many layers; None = all. A model cut to its first layers is no language model any more."""
    freeze_backbone: bool = False
    """Leave the language model's layers as they are."""
    pretrained_rate: float = 0.2
    """Learning rate of what is pretrained, as a share of what is new."""
    width: int = 128
    """Width of the user and item vectors that are served."""
    scaled: bool = True
    """RMS-normalised vectors and a learned scale; without, the plain dot product as printed."""
    max_len: int = 50
    """Actions read, the latest ones."""
    content_width: int = 0
    """Width of the frozen item vectors; set by the data."""
    architecture: str = ""
    """The backbone's configuration as JSON; set when it is loaded, so that a saved model needs nothing else."""

    def __post_init__(self) -> None:
        if not 1 <= self.width <= WIDEST:
            raise ConfigError(f"width is {self.width}", fix=f"Set width to 1 to {WIDEST}.")
        if self.max_len < 1:
            raise ConfigError(f"max_len is {self.max_len}", fix="Set max_len to 1 or more.")
        if self.layers is not None and self.layers < 1:
            raise ConfigError(f"layers is {self.layers}", fix="Set layers to 1 or more, or None for all.")
        if not 0 <= self.pretrained_rate <= 1:
            raise ConfigError(f"pretrained_rate is {self.pretrained_rate}", fix="Set pretrained_rate to 0 to 1.")


class Karma(nn.Module):
    """e_i = norm(E(x_i)); S = D([e_1 .. e_t]); h_t its last state; score = user(h_t) . item(e_i).

    Deviates: the paper has one width for item encoder, decoder and index. Here a projection leads from content to the
    decoder's width, and another from there to a serving width; scores are of RMS-normalised vectors with a learned
    scale unless `scaled` is off.
    """

    kind: ClassVar[str] = "karma"
    Config: ClassVar[type] = KarmaConfig
    content: Tensor

    def __init__(self, config: KarmaConfig, sizes: Sizes) -> None:
        super().__init__()
        if not config.architecture or config.content_width < 1:
            raise ValueError(
                "architecture and content_width come from the backbone and the Store: see recipes/karma.py"
            )
        self.config, self.sizes = config, sizes
        self.num_items = sizes.num_items
        self.body = empty_body(config.architecture)
        width = self.body.config.hidden_size
        self.register_buffer("content", torch.zeros(sizes.num_items + 1, config.content_width))
        # The skip keeps what the frozen vectors say; the MLP bends it into the decoder's space.
        self.skip = nn.Linear(config.content_width, width, bias=False)
        self.bend = MLP(config.content_width, width, width)
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.to_item = nn.Linear(width, config.width, bias=False)
        self.to_user = nn.Linear(width, config.width, bias=False)
        self.scale = nn.Parameter(torch.tensor(config.width**-0.5)) if config.scaled else None

    def tokens(self, items: Int[Tensor, "*S"]) -> Float[Tensor, "*S D"]:
        """e_i in the decoder's width (Eq. 2): what the decoder reads, and what scores are made of."""
        content = self.content[items]
        return self.norm(self.skip(content) + self.bend(content))

    def states(self, tokens: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        """The decoder's states (Eq. 3). Right-padded input needs no mask: no real position sees what is after it."""
        return self.body(inputs_embeds=tokens, use_cache=False).last_hidden_state

    def users(self, states: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        """h_t as it is served."""
        vectors = self.to_user(states)
        return vectors if self.scale is None else _rms_normalised(vectors) * self.scale

    def embed_items(self, items: Int[Tensor, " N"]) -> Float[Tensor, "N V"]:
        """Vectors of some items as they are served."""
        return self._served(self.tokens(items))

    def _served(self, tokens: Float[Tensor, "N D"]) -> Float[Tensor, "N V"]:
        vectors = self.to_item(tokens)
        return vectors if self.scale is None else _rms_normalised(vectors)

    def hidden(self, history: Int[Tensor, "B S"]) -> Float[Tensor, "B S V"]:
        """The user's vector after each action, right-padded with what nobody should read."""
        return self.users(self.states(self.tokens(history)))

    def user_vectors(self, requests: Requests) -> Float[Tensor, "B V"]:
        """The vector after the last action; zero without any."""
        requests = requests.last(self.config.max_len)
        if not requests.history.shape[1]:
            return self.content.new_zeros(len(requests), self.config.width)
        return last_hidden(self.hidden(requests.history), requests.lengths)

    def item_vectors(self) -> Float[Tensor, "I V"]:
        """Of the whole catalogue; row 0 is zero."""
        items = torch.arange(self.num_items + 1, device=self.content.device)
        return self.embed_items(items) * (items > 0)[:, None]


def empty_body(architecture: str) -> Any:
    """A decoder of that architecture with fresh weights, and without word embeddings: items come as vectors.

    Args:
        architecture: a transformers configuration as JSON.
    """
    from transformers import AutoConfig, AutoModel

    described = json.loads(architecture)
    # One word instead of a vocabulary, which is thrown away in the next line.
    without_words = {"vocab_size": 1, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    config = AutoConfig.for_model(**{**described, **without_words})
    body = AutoModel.from_config(config, attn_implementation="sdpa", dtype=torch.float32)
    body.set_input_embeddings(nn.Identity())
    return body


def _rms_normalised(vectors: Float[Tensor, "*N V"]) -> Float[Tensor, "*N V"]:
    return nn.functional.rms_norm(vectors, vectors.shape[-1:], eps=1e-6)
