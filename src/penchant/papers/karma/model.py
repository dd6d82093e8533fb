"""KARMA's serving half: a language model over item vectors, dot products. Eq. 2 and 3.

A causal language model reads the history as one continuous token an item. What it needs of words (their embeddings, its
head) is in `language.py` and `objective.py`: nothing here can decode. What is served holds the items' vectors as a
table; the encoder that made them (`items.py`) stays with the run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from penchant.data.history import Requests
from penchant.errors import ConfigError, at_least
from penchant.layers import last_hidden
from penchant.models import Sizes
from penchant.papers.karma.items import ItemEncoder
from penchant.papers.karma.pretrained import add_low_rank, empty_model, merged
from penchant.papers.karma.queries import QueryEncoder

WIDEST = 128
"""Widest vectors that an index is asked to hold."""


@dataclass(frozen=True, kw_only=True)
class KarmaConfig:
    """Sizes of KARMA, and where its parts come from."""

    backbone: str = "smollm2"
    """The language model that reads histories: "smollm2" (`make models`), a Hugging Face name or a folder."""
    layers: int | None = 2
    """Its first so many layers; None = all. A model cut to its first layers is no language model any more."""
    tune: Literal["full", "lora", "frozen"] = "full"
    """What of them learns: all, low-rank additions, nothing."""
    items: Literal["vectors", "text", "pictures", "table"] = "vectors"
    """Item encoder: frozen text vectors under a trained projection, a language model or text encoder over the items'
    words, one that reads their pictures too; or, in what is served, a table of what one of these made."""
    item_backbone: str = "smollm2"
    """For "text" and "pictures": the model that reads items; for "pictures" one of Qwen3-VL's kind."""
    item_layers: int | None = 2
    item_tune: Literal["full", "lora", "top"] = "full"
    """What of the item encoder learns; "top": its last layers, whose input is computed once and kept on disk."""
    item_top: int = 1
    """Layers that learn with "top"."""
    item_words: int = 24
    """Tokens of an item's text that its encoder reads, the first ones."""
    shuffled: bool = False
    """Placebo: every item has another item's content, its vector and its text, always the same; of "vectors" alone."""
    query: Literal["none", "token", "interleaved"] = "none"
    """Personalized search: the query as the last token, or Eq. 1's (query, item) pairs all the way."""
    rank: int = 8
    """Of low-rank additions."""
    pretrained_rate: float = 0.2
    """Learning rate of what is pretrained, as a share of what is new."""
    width: int = 128
    """Width of the user and item vectors that are served."""
    scaled: bool = True
    """RMS-normalised vectors and a learned scale; without, the plain dot product as printed."""
    max_len: int = 50
    """Actions read, the latest ones."""
    queries: int = 0
    """Queries known from the logs; set by the data."""
    content_width: int = 0
    """Width of the frozen item vectors; set by the data."""
    vocabulary: int = 0
    """Words the item encoder knows; set by the data."""
    architecture: str = ""
    """The backbone's configuration as JSON; set when it is loaded, so that a saved model needs nothing else."""
    item_architecture: str = ""
    """The same of the item encoder."""

    def __post_init__(self) -> None:
        if not 1 <= self.width <= WIDEST:
            raise ConfigError(f"width is {self.width}", fix=f"Set width to 1 to {WIDEST}.")
        at_least(1, self, "max_len", "item_top", "item_words", "rank")
        for name in ("layers", "item_layers"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ConfigError(f"{name} is {number}", fix=f"Set {name} to 1 or more, or None for all.")
        if self.item_tune == "top" and self.item_layers is not None and self.item_top > self.item_layers:
            what = f"item_top is {self.item_top}, item_layers {self.item_layers}"
            raise ConfigError(what, fix="Set item_top to at most item_layers.")
        if self.shuffled and self.items not in ("vectors", "table"):
            raise ConfigError(f"shuffled with items {self.items!r}", fix="Set items to vectors, or shuffled to False.")
        if not 0 <= self.pretrained_rate <= 1:
            raise ConfigError(f"pretrained_rate is {self.pretrained_rate}", fix="Set pretrained_rate to 0 to 1.")


class ItemTable(nn.Module):
    """e_i of every item, made offline: what is served instead of an item encoder."""

    vectors: Tensor

    def __init__(self, num_items: int, width: int) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(num_items + 1, width))

    def forward(self, items: Int[Tensor, "*S"]) -> Float[Tensor, "*S D"]:
        return self.vectors[items]


@dataclass(frozen=True)
class UserState:
    """A user's vector with what the decoder remembers of the history, so that one more action is one step.

    Attributes:
        vector: h_t as it is served; zero without any action.
        length: actions read.
        memory: keys and values of every layer.
    """

    vector: Float[Tensor, "1 V"]
    length: int
    memory: Any


class Karma(nn.Module):
    """e_i = E(x_i); S = D([e_1 .. e_t]); h_t its last state; score = user(h_t) . item(e_i).

    With queries (K12 of Eq. 1) h_t is the state at the current query's token, which comes last.

    Deviates: the paper has one width for item encoder, decoder and index. Here a projection leads from content to the
    decoder's width, and another from there to a serving width; scores are of RMS-normalised vectors with a learned
    scale unless `scaled` is off.
    """

    kind: ClassVar[str] = "karma"
    Config: ClassVar[type] = KarmaConfig

    def __init__(self, config: KarmaConfig, sizes: Sizes) -> None:
        super().__init__()
        if not config.architecture:
            raise ValueError("architecture comes from the backbone: see recipes/karma/run.py")
        self.config, self.sizes = config, sizes
        self.num_items = sizes.num_items
        self.body = empty_model(config.architecture)
        if config.tune == "lora":
            add_low_rank(self.body, config.rank)
        width = self.body.config.hidden_size
        self.items: nn.Module
        if config.items == "table":
            self.items = ItemTable(sizes.num_items, width)
        else:
            self.items = ItemEncoder(config, sizes.num_items, width)
        self.query = None if config.query == "none" else QueryEncoder(config.queries, width)
        self.to_item = nn.Linear(width, config.width, bias=False)
        self.to_user = nn.Linear(width, config.width, bias=False)
        self.scale = nn.Parameter(torch.tensor(config.width**-0.5)) if config.scaled else None

    def recompute(self) -> None:
        """Activation checkpointing: while it learns, the decoder keeps its layers' inputs alone and makes the rest
        again for the gradient. About a third more time for a fraction of the memory; nothing else changes."""
        self.body.activation_checkpointing_enable({"use_reentrant": False})

    def tokens(self, items: Int[Tensor, "*S"]) -> Float[Tensor, "*S D"]:
        """e_i in the decoder's width (Eq. 2): what the decoder reads, and what scores are made of."""
        return self.items(items)

    def states(
        self,
        tokens: Float[Tensor, "B S D"],
        sees: Bool[Tensor, "B S S"] | None = None,
        places: Int[Tensor, "B S"] | None = None,
    ) -> Float[Tensor, "B S D"]:
        """The decoder's states (Eq. 3). Right-padded input needs no mask: no real position sees what is after it.

        Args:
            sees: which position sees which; causal if None.
            places: positions in the sequence; 0, 1, .. if None.
        """
        mask = None if sees is None else sees[:, None]
        read = self.body(inputs_embeds=tokens, attention_mask=mask, position_ids=places, use_cache=False)
        return read.last_hidden_state

    def read(
        self,
        tokens: Float[Tensor, "B S D"],
        asked: Float[Tensor, "B S D"] | None = None,
        first: Float[Tensor, "B D"] | None = None,
    ) -> Float[Tensor, "B S D"]:
        """h after each action of right-padded histories, the state that is to predict the next one.

        Args:
            asked: with queries: the token of the query under which each next action happened.
            first: for "interleaved": that of the first action's own.
        """
        if asked is None:
            return self.states(tokens)
        count, length, _ = tokens.shape
        if self.config.query == "interleaved":
            assert first is not None
            asked = torch.cat([first[:, None], asked], 1)
            pairs = torch.stack([asked[:, :-1], tokens], 2).flatten(1, 2)
            return self.states(torch.cat([pairs, asked[:, -1:]], 1))[:, 2::2]
        # Each query after its own history, seen by nobody: all positions of a history in one pass.
        place = torch.arange(length, device=tokens.device)
        causal = place[:, None] >= place
        own = torch.eye(length, dtype=torch.bool, device=tokens.device)
        sees = torch.cat([torch.cat([causal, own & ~own], 1), torch.cat([causal, own], 1)])
        places = torch.cat([place, place + 1]).expand(count, -1)
        states = self.states(torch.cat([tokens, asked], 1), sees.expand(count, -1, -1), places)
        return states[:, length:]

    def users(self, states: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        """h_t as it is served."""
        vectors = self.to_user(states)
        return vectors if self.scale is None else _rms_normalised(vectors) * self.scale

    def served(self, tokens: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        """e_i as it is served."""
        vectors = self.to_item(tokens)
        return vectors if self.scale is None else _rms_normalised(vectors)

    def embed_items(self, items: Int[Tensor, " N"]) -> Float[Tensor, "N V"]:
        """Vectors of some items as they are served."""
        return self.served(self.tokens(items))

    def item_vectors(self) -> Float[Tensor, "I V"]:
        """Of the whole catalogue; row 0 is zero."""
        items = torch.arange(self.num_items + 1, device=self.to_item.weight.device)
        return torch.cat([self.embed_items(part) for part in items.split(4096)]) * (items > 0)[:, None]

    def user_vectors(self, requests: Requests) -> Float[Tensor, "B V"]:
        """The vector after the last action, or of the query after it; zero without either."""
        states, known = self.last_states(requests)
        return self.users(states) * known[:, None]

    def last_states(self, requests: Requests) -> tuple[Float[Tensor, "B D"], Bool[Tensor, " B"]]:
        """h_t, and whether there was anything to read."""
        tokens, lengths = self.sequence(requests.last(self.config.max_len))
        if not tokens.shape[1]:
            return tokens.new_zeros(len(requests), tokens.shape[2]), lengths > 0
        return last_hidden(self.states(tokens), lengths), lengths > 0

    def sequence(self, requests: Requests) -> tuple[Float[Tensor, "B L D"], Int[Tensor, " B"]]:
        """What the decoder reads of each request, right-padded, and how much of it is real."""
        tokens, lengths = self.tokens(requests.history), requests.lengths
        if self.query is None:
            return tokens, lengths
        now = self.query(["" for _ in lengths] if requests.queries is None else requests.queries)[:, None]
        if self.config.query == "interleaved":
            before = requests.history_queries
            before = torch.zeros_like(requests.history) if before is None else before
            tokens = torch.stack([self.query.known(before), tokens], 2).flatten(1, 2)
            lengths = 2 * lengths
        room = torch.cat([tokens, tokens.new_zeros(len(tokens), 1, tokens.shape[2])], 1)
        at = lengths[:, None, None].expand_as(now)
        return room.scatter(1, at, now.to(room)), lengths + 1

    def begin(self, requests: Requests) -> UserState:
        """One user's vector, with what `advance` needs. Only without queries.

        Raises:
            ValueError: several requests, or a model of queries.
        """
        if len(requests) != 1 or self.query is not None:
            raise ValueError("a state is of one user, and of a model without queries")
        return self.advance(None, requests.last(self.config.max_len).history[0])

    def advance(self, state: UserState | None, items: Int[Tensor, " S"]) -> UserState:
        """The state after further actions: equal to reading the whole history, at the price of those alone.

        The state given is spent: its memory is written on.

        Raises:
            ValueError: the history grows longer than `max_len`, whose first actions the memory cannot forget.
        """
        from transformers import DynamicCache

        length = (state.length if state else 0) + len(items)
        if length > self.config.max_len:
            raise ValueError(f"{length} actions, max_len is {self.config.max_len}: begin anew")
        memory = state.memory if state else DynamicCache(config=self.body.config)
        if not len(items):
            return state or UserState(self.to_user.weight.new_zeros(1, self.config.width), 0, memory)
        read = self.body(inputs_embeds=self.tokens(items[None]), past_key_values=memory, use_cache=True)
        return UserState(self.users(read.last_hidden_state[:, -1]), length, memory)

    @torch.no_grad()
    def exported(self) -> Karma:
        """What is served: the items' vectors as a table, low-rank additions merged into the weights they add to.

        Its parameters' names and shapes depend on backbone, layers and widths alone, not on what it was trained with.
        """
        usual = KarmaConfig()
        changes = {name: getattr(usual, name) for name in ("item_backbone", "item_layers", "item_tune", "item_top")}
        config = replace(
            self.config,
            **changes,
            items="table",
            tune="full",
            item_words=usual.item_words,
            rank=usual.rank,
            content_width=0,
            vocabulary=0,
            item_architecture="",
            # What people typed is served only where histories are read with it.
            queries=self.config.queries if self.config.query == "interleaved" else 0,
        )
        served = Karma(config, self.sizes)
        was_training = self.training
        self.eval()
        items = torch.arange(self.num_items + 1, device=self.to_item.weight.device)
        table = torch.cat([self.tokens(part) for part in items.split(4096)])
        self.train(was_training)
        state = {f"body.{k}": v for k, v in merged(self.body).items()}
        others = {k: v for k, v in self.state_dict().items() if not k.startswith(("body.", "items."))}
        if self.query is not None:
            others["query.table"] = self.query.table[: config.queries + 1]
        served.load_state_dict({**others, **state, "items.vectors": table})
        return served.eval()

    def with_items(self, tokens: Float[Tensor, "n D"]) -> Karma:
        """The exported model with further items, whose e_i (`tokens` of the run's encoder) come after those it has.

        Raises:
            ValueError: this is not an exported model.
        """
        if not isinstance(self.items, ItemTable):
            raise ValueError("only an exported model has a table of items")
        grown = Karma(self.config, replace(self.sizes, num_items=self.num_items + len(tokens)))
        table = torch.cat([self.items.vectors, tokens.to(self.items.vectors)])
        grown.load_state_dict({**self.state_dict(), "items.vectors": table})
        return grown.eval()


def _rms_normalised(vectors: Float[Tensor, "*N V"]) -> Float[Tensor, "*N V"]:
    return nn.functional.rms_norm(vectors, vectors.shape[-1:], eps=1e-6)
