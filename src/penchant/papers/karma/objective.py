"""KARMA's train-only half: what makes h_t act, and what keeps it decodable. Eq. 4 to 9.

Words, separator, adapter and the picture's head are learned beside the model and never saved with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from penchant.data.batch import SequenceBatch
from penchant.errors import ConfigError
from penchant.layers import last_hidden
from penchant.papers.karma.generators import Generator, GeneratorConfig, VisualTargets
from penchant.papers.karma.language import Language, another_item, told_after_prompt
from penchant.papers.karma.model import Karma

ALONE = 0.1
"""With the query as the last token: share of the positions whose query is read without its history, so that a user
without one is no stranger."""


@dataclass(frozen=True, kw_only=True)
class KarmaObjectiveConfig:
    """Which losses, and how much of each."""

    act: Literal["pairwise", "infonce", "sampled_softmax", "hardest"] = "sampled_softmax"
    """Eq. 5 (pairwise), HLLM's cosine InfoNCE, a softmax corrected by logQ, or BPR on the hardest negative."""
    generate: float = 0.0
    """Weight of Task 1, Eq. 6: the target's text from the history."""
    reconstruct: float = 0.0
    """Weight of Task 2, Eq. 7: the target's text from h_t alone."""
    picture: float = 0.0
    """Weight of Eq. 8: the target's picture, as a frozen vector, from h_t alone."""
    head: GeneratorConfig = field(default_factory=GeneratorConfig)
    """What models the picture."""
    remember: float = 0.0
    """Weight of the warm-up's task, learned on: an item's text from its own e_i alone. Not in the paper, after whose
    second stage e_i tells its text no more."""
    literal: bool = False
    """As printed: Eq. 5 to 7 are sums over negatives, positions and words, and h_t is read without an adapter."""
    shuffled: bool = False
    """Placebo: every item decodes into another item's text and picture, always the same; a warm-up tells its own."""
    max_words: int = 24
    """Tokens of an item's text that are decoded, the first ones."""
    temperature: float = 0.07
    """The first value of InfoNCE's learned temperature."""

    def __post_init__(self) -> None:
        for name in ("generate", "reconstruct", "picture", "remember"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} is {getattr(self, name)}", fix=f"Set {name} to 0 or more.")
        if self.max_words < 1 or self.temperature <= 0:
            what = f"max_words is {self.max_words}, temperature {self.temperature}"
            raise ConfigError(what, fix="Set max_words to 1 or more, temperature above 0.")

    @property
    def tells(self) -> bool:
        """Whether text is decoded."""
        return self.generate > 0 or self.reconstruct > 0 or self.remember > 0


class KarmaObjective(nn.Module):
    """L = L_act + generate L_gen + reconstruct L_recon + picture L_img (Eq. 4, 9), as named terms.

    Deviates: means over negatives, positions and words, so that no weight depends on the batch; `literal` sums.

    Args:
        words: [I+1, W] the items' texts in the catalogue's words, -1 = none.
        shares: [I+1] share of each item among the train window's events: what logQ corrects by.
        language: only where text is decoded.
        pictures: only where pictures are modelled.
        width: D, of h_t.
    """

    words: Tensor
    shares: Tensor
    told_as: Tensor

    def __init__(
        self,
        config: KarmaObjectiveConfig,
        words: Int[Tensor, "I W"],
        shares: Float[Tensor, " I"],
        language: Language | None = None,
        pictures: VisualTargets | None = None,
        width: int = 0,
    ) -> None:
        super().__init__()
        self.config = config
        as_itself = torch.arange(len(words))
        told_as = another_item(len(words)) if config.shuffled else as_itself
        for name, value in (("words", words), ("shares", shares.float()), ("told_as", told_as)):
            self.register_buffer(name, value, persistent=False)
        self.log_scale = nn.Parameter(-torch.tensor(config.temperature).log()) if config.act == "infonce" else None
        self.language = language
        if config.tells and language is None:
            raise ValueError("decoding text needs a language")
        if language is not None:
            width = language.words.weight.shape[1]
            self.separator = nn.Parameter(torch.randn(width) * language.usual)
        if language is not None and config.reconstruct and not config.literal:
            # A state and a word are not of one space: an adapter leads from the one to the other.
            self.adapter = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
            self.adapted = nn.RMSNorm(width, eps=1e-6)
            with torch.no_grad():
                self.adapted.weight.fill_(language.usual)
        self.pictures = pictures
        if config.picture:
            if pictures is None:
                raise ValueError("modelling pictures needs their vectors")
            self.painter = Generator(config.head, pictures.values.shape[1], width)

    def forward(self, model: Karma, batch: SequenceBatch) -> dict[str, Tensor]:
        """{"act", "generate", "reconstruct", "picture", "remember"}: those that have a weight.

        Action at every position; the next item is decoded at the last one of each history, in one pass with the
        histories where there are no queries. Each distinct item of the batch is encoded once. What is remembered is
        the texts of those same next items.
        """
        config, mask = self.config, batch.mask
        shown = batch.targets[..., None][..., :0] if batch.shown is None else batch.shown
        parts = (batch.history, batch.targets, shown)
        items, inverse = torch.unique(torch.cat([part.flatten() for part in parts]), return_inverse=True)
        history, targets, exposed = (
            where.view_as(part) for where, part in zip(inverse.split([p.numel() for p in parts]), parts, strict=True)
        )
        tokens = model.tokens(items)
        # A lookup, whose gradient is summed in a fixed order: that of indexing is not, with several threads.
        read = F.embedding(history, tokens)
        lengths = mask.sum(1)
        target = self.told_as[batch.targets.gather(1, (lengths - 1)[:, None])[:, 0]]
        terms: dict[str, Tensor] = {}
        asked, first, prefix = self._queries(model, batch, read, lengths)
        words = self.words[target]
        if asked is not None:
            states = self._read_with(model, read, asked, first)
            if config.generate:
                told = self._told_after(model, *prefix, words)[1]
                terms["generate"] = config.generate * self._nll(told, words)
        elif config.generate:
            states, told = self._told_after(model, read, lengths, words)
            terms["generate"] = config.generate * self._nll(told, words)
        else:
            states = model.read(read)
        terms["act"] = self._act(model, states[mask], tokens, items, targets[mask], exposed[mask])
        h = last_hidden(states, lengths)
        if config.reconstruct:
            terms["reconstruct"] = config.reconstruct * self._nll(self.told_from(model, h, words), words)
        if config.picture and self.pictures is not None:
            terms["picture"] = config.picture * self.pictures.loss(self.painter, target, h)
        if config.remember:
            own = F.embedding(targets.gather(1, (lengths - 1)[:, None]), tokens)
            told = self._told_after(model, own, torch.ones_like(lengths), words)[1]
            terms["remember"] = config.remember * self._nll(told, words)
        return terms

    def isolated(self, model: Karma, items: Int[Tensor, " B"]) -> Float[Tensor, ""]:
        """The warm-up (§2.5): the text of an item from its own e_i; mean negative log-likelihood a word, in nats."""
        words = self.words[items]
        _, told = self._told_after(model, model.tokens(items[:, None]), torch.ones_like(items), words)
        return self._language.nll(told, words)

    def told_from(self, model: Karma, h: Float[Tensor, "B D"], words: Int[Tensor, "B W"]) -> Float[Tensor, "B W D"]:
        """Task 2: states that tell each word from [adapter(h_t), begin, the words before]. No history is there."""
        prompt = h if self.config.literal else self.adapted(self.adapter(h).float())
        return told_after_prompt(model, self._language, prompt, words)

    def _told_after(
        self, model: Karma, tokens: Float[Tensor, "B L D"], lengths: Int[Tensor, " B"], words: Int[Tensor, "B W"]
    ) -> tuple[Float[Tensor, "B L D"], Float[Tensor, "B W D"]]:
        """Task 1: states of [e_1 .. e_t, separator, the words before], in one pass with the histories' own.

        The text follows each history's last token, not its padding; h_t is a position before it and cannot see it.
        Returns: the histories' states; the states that tell each word.
        """
        text = torch.cat([self.separator.expand(len(tokens), 1, -1), self._language.read(words[:, :-1])], 1)
        after = lengths[:, None] + torch.arange(text.shape[1], device=lengths.device)
        at = after[..., None].expand_as(text)
        room = torch.cat([tokens, tokens.new_zeros(text.shape)], 1)
        states = model.states(room.scatter(1, at, text.to(room)))
        return states[:, : tokens.shape[1]], states.gather(1, at)

    @property
    def _language(self) -> Language:
        if self.language is None:
            raise ValueError("no language: this objective decodes no text")
        return self.language

    def _nll(self, states: Float[Tensor, "B W D"], words: Int[Tensor, "B W"]) -> Float[Tensor, ""]:
        nll = self._language.nll(states, words)
        return nll * (words >= 0).sum() if self.config.literal else nll

    def _queries(
        self, model: Karma, batch: SequenceBatch, read: Float[Tensor, "B S D"], lengths: Int[Tensor, " B"]
    ) -> tuple[Tensor | None, Tensor | None, tuple[Tensor, Tensor]]:
        """The queries' tokens, the first action's, and [history, last query] as serving has it, with its lengths."""
        if model.query is None:
            return None, None, (read, lengths)
        if batch.queries is None or batch.history_queries is None:
            raise ConfigError("the batches carry no queries", fix="Set data.queries to True.")
        asked, before = model.query.known(batch.queries), model.query.known(batch.history_queries)
        last = asked.gather(1, (lengths - 1)[:, None, None].expand(-1, 1, asked.shape[2]))
        tokens, first = read, before[:, 0]
        if model.config.query == "interleaved":
            tokens, lengths = torch.stack([before, read], 2).flatten(1, 2), 2 * lengths
        room = torch.cat([tokens, torch.zeros_like(last)], 1)
        whole = room.scatter(1, lengths[:, None, None].expand_as(last), last)
        return asked, first, (whole, lengths + 1)

    def _read_with(
        self, model: Karma, read: Float[Tensor, "B S D"], asked: Float[Tensor, "B S D"], first: Tensor | None
    ) -> Float[Tensor, "B S D"]:
        states = model.read(read, asked, first)
        if model.config.query == "interleaved" or not self.training:
            return states
        alone = torch.rand(asked.shape[:2], device=asked.device) < ALONE
        if not alone.any():
            return states
        return states.masked_scatter(alone[..., None], model.states(asked[alone][:, None])[:, 0].to(states))

    def _act(
        self,
        model: Karma,
        states: Float[Tensor, "N D"],
        tokens: Float[Tensor, "C D"],
        items: Int[Tensor, " C"],
        right: Int[Tensor, " N"],
        shown: Int[Tensor, "N E"],
    ) -> Float[Tensor, ""]:
        """Eq. 5 or one of its alternatives. Negatives: the other targets of the batch, and what was shown with each.

        Args:
            tokens, items: the batch's distinct items.
            right, shown: their places among these; shown where `items` is 0 are none.
        """
        # In the batch every target is everybody's candidate; what was shown with one is a negative of that one alone.
        in_batch = torch.zeros(len(items), dtype=torch.bool, device=items.device)
        in_batch[right] = True
        exposed = torch.zeros(len(right), len(items), dtype=torch.bool, device=items.device).scatter(1, shown, True)
        exposed &= items > 0
        kept = in_batch | exposed.any(0)  # of the rest, which only histories hold, nothing is scored
        place = torch.cumsum(kept, 0) - 1
        items, right, in_batch, exposed = items[kept], place[right], in_batch[kept], exposed[:, kept]
        own = torch.zeros_like(exposed).scatter(1, right[:, None], True)
        negatives = (in_batch | exposed) & ~own  # an equal item elsewhere in the batch is no negative
        users, vectors = model.users(states), model.served(tokens[kept])
        # Differences of scores are what is learned from: they are made in float32, whatever the rest is made in.
        with torch.autocast(users.device.type, enabled=False):
            users, vectors = users.float(), vectors.float()
            match self.config.act:
                case "pairwise":
                    return pairwise(users @ vectors.T, right, negatives, summed=self.config.literal)
                case "hardest":
                    return hardest(users @ vectors.T, right, negatives)
                case "infonce":
                    assert self.log_scale is not None
                    cosines = F.normalize(users, dim=-1) @ F.normalize(vectors, dim=-1).T
                    return softmax(cosines * self.log_scale.exp().clamp(max=100.0), right, negatives)
                case "sampled_softmax":
                    # In the sample if it is any position's target; those that were shown are there for certain.
                    log_inclusion = torch.log(-torch.expm1(-(len(right) * self.shares[items]).clamp(min=1e-9)))
                    logits = users @ vectors.T
                    return softmax(torch.where(own | exposed, logits, logits - log_inclusion), right, negatives)


def pairwise(
    scores: Float[Tensor, "N C"], right: Int[Tensor, " N"], negatives: Bool[Tensor, "N C"], *, summed: bool = False
) -> Float[Tensor, ""]:
    """Eq. 5: -log sigmoid(s+ - s-), mean over a row's negatives, then over rows that have any; or the sum. In nats."""
    losses = F.softplus(scores - scores.gather(1, right[:, None])) * negatives
    if summed:
        return losses.sum()
    counts = negatives.sum(1)
    return (losses.sum(1) / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1)


def hardest(
    scores: Float[Tensor, "N C"], right: Int[Tensor, " N"], negatives: Bool[Tensor, "N C"]
) -> Float[Tensor, ""]:
    """The same against each row's highest negative alone."""
    best = scores.masked_fill(~negatives, -torch.inf).amax(1)
    some = negatives.any(1)
    return F.softplus((best - scores.gather(1, right[:, None])[:, 0])[some]).sum() / some.sum().clamp(min=1)


def softmax(
    logits: Float[Tensor, "N C"], right: Int[Tensor, " N"], negatives: Bool[Tensor, "N C"]
) -> Float[Tensor, ""]:
    """Cross-entropy of the target among itself and its negatives. In nats."""
    candidates = negatives.scatter(1, right[:, None], True)
    return F.cross_entropy(logits.masked_fill(~candidates, -torch.inf), right)


@dataclass(frozen=True)
class ItemBatch:
    """Items whose texts are to be decoded."""

    items: Int[Tensor, " B"]

    @property
    def num_targets(self) -> int:
        return len(self.items)

    def to(self, device: torch.device) -> ItemBatch:
        return replace(self, items=self.items.to(device))


class WarmUp(nn.Module):
    """§2.5's first stage: the texts of items from their isolated e_i."""

    def __init__(self, objective: KarmaObjective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, model: Karma, batch: ItemBatch) -> dict[str, Tensor]:
        """{"isolated": nats a word}."""
        return {"isolated": self.objective.isolated(model, batch.items)}
