"""KARMA's train-only half: what makes h_t act, and what keeps it decodable. Eq. 4 to 9 but for the picture's Eq. 8.

Words exist only here: their embeddings, the head, the separator and the adapter are learned beside the model and never
saved with it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from penchant.data.batch import SequenceBatch
from penchant.errors import ConfigError
from penchant.papers.karma.model import Karma


@dataclass(frozen=True, kw_only=True)
class KarmaObjectiveConfig:
    """Which losses, and how much of each."""

    act: Literal["pairwise", "infonce", "sampled_softmax", "hardest"] = "sampled_softmax"
    """Eq. 5 (pairwise), HLLM's cosine InfoNCE, a softmax corrected by logQ, or BPR on the hardest negative.

    Deviates: Eq. 5 sums over negatives and positions; these are means, so that no weight depends on the batch."""
    generate: float = 0.0
    """Weight of Task 1, Eq. 6: the target's text from the history."""
    reconstruct: float = 0.0
    """Weight of Task 2, Eq. 7: the target's text from h_t alone."""
    max_words: int = 24
    """Tokens of an item's text, the first ones."""
    temperature: float = 0.07
    """The first value of InfoNCE's learned temperature."""

    def __post_init__(self) -> None:
        if min(self.generate, self.reconstruct) < 0:
            what = f"generate is {self.generate}, reconstruct {self.reconstruct}"
            raise ConfigError(what, fix="Set both to 0 or more.")
        if self.max_words < 1 or self.temperature <= 0:
            what = f"max_words is {self.max_words}, temperature {self.temperature}"
            raise ConfigError(what, fix="Set max_words to 1 or more, temperature above 0.")

    @property
    def decodes(self) -> bool:
        return self.generate > 0 or self.reconstruct > 0


@dataclass(frozen=True)
class Texts:
    """The items' texts as a language model's tokens.

    Attributes:
        words: int64 [I+1, W], -1 = none; row 0 is padding.
        cut: how many texts were longer.
        begin: the token a text begins with.
    """

    words: Int[Tensor, "I W"]
    cut: int
    begin: int


class KarmaObjective(nn.Module):
    """L = L_act + generate L_gen + reconstruct L_recon (Eq. 4, 9), as named terms.

    Args:
        words: the backbone's word embeddings and its head, which may be the same tensor; float32 [V, D].
        shares: [I+1] share of each item among the train window's events: what logQ corrects by.
        rate: learning rate of the words, as a share of what is new.
        warms_up: words are needed for the warm-up, if for nothing else.
    """

    texts: Tensor
    shares: Tensor

    def __init__(
        self,
        config: KarmaObjectiveConfig,
        texts: Texts,
        words: Tensor,
        head: Tensor,
        shares: Tensor,
        *,
        rate: float = 1.0,
        warms_up: bool = False,
    ) -> None:
        super().__init__()
        self.config, self.begin = config, texts.begin
        width = words.shape[1]
        self.register_buffer("texts", texts.words, persistent=False)
        self.register_buffer("shares", shares.float(), persistent=False)
        self.log_scale = nn.Parameter(-torch.tensor(config.temperature).log()) if config.act == "infonce" else None
        if config.decodes or warms_up:
            self.words = nn.Embedding.from_pretrained(words.clone(), freeze=False)
            self.own_head = None if head is words else nn.Parameter(head.clone())
            for pretrained in (self.words.weight, *([] if self.own_head is None else [self.own_head])):
                pretrained.lr_share = rate  # pyright: ignore[reportAttributeAccessIssue]
            usual = words.pow(2).mean().sqrt()
            self.separator = nn.Parameter(torch.randn(width) * usual)
        if config.reconstruct:
            # A state and a word are not of one space: an adapter leads from the one to the other.
            self.adapter = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
            self.adapted = nn.RMSNorm(width, eps=1e-6)
            with torch.no_grad():
                self.adapted.weight.fill_(float(words.pow(2).mean().sqrt()))

    def forward(self, model: Karma, batch: SequenceBatch) -> dict[str, Tensor]:
        """{"act", "generate", "reconstruct"}: those that have a weight.

        Action at every position; texts are decoded at the last one of each history, whose states Task 1 shares.
        """
        history, mask = batch.history, batch.mask
        tokens = model.tokens(history)
        if not self.config.decodes:
            states = model.states(tokens)
            return {"act": self._act(model, states[mask], batch)}
        lengths = mask.sum(1)
        target = batch.targets.gather(1, (lengths - 1)[:, None])[:, 0]
        words = self.texts[target]
        terms: dict[str, Tensor] = {}
        if self.config.generate:
            states, told = self._told_after(model, tokens, lengths, words)
            terms["generate"] = self.config.generate * self._nll(told, words)
        else:
            states = model.states(tokens)
        terms["act"] = self._act(model, states[mask], batch)
        if self.config.reconstruct:
            h = states[torch.arange(len(states), device=states.device), lengths - 1]
            terms["reconstruct"] = self.config.reconstruct * self._nll(self.told_from(model, h, words), words)
        return terms

    def isolated(self, model: Karma, items: Int[Tensor, " B"]) -> Float[Tensor, ""]:
        """The warm-up (§2.5): the text of an item from its own e_i; mean negative log-likelihood a word, in nats."""
        one = torch.ones_like(items)
        _, told = self._told_after(model, model.tokens(items[:, None]), one, self.texts[items])
        return self._nll(told, self.texts[items])

    def told_from(self, model: Karma, h: Float[Tensor, "B D"], words: Int[Tensor, "B W"]) -> Float[Tensor, "B W D"]:
        """Task 2: states that tell each word from [adapter(h_t), begin, the words before]. No history is there."""
        prompt = self.adapted(self.adapter(h))[:, None]
        begin = self.words.weight[self.begin].expand(len(h), 1, -1)
        return model.states(torch.cat([prompt, begin, self._read(words[:, :-1])], 1))[:, 1:]

    def _told_after(
        self, model: Karma, tokens: Float[Tensor, "B S D"], lengths: Int[Tensor, " B"], words: Int[Tensor, "B W"]
    ) -> tuple[Float[Tensor, "B S D"], Float[Tensor, "B W D"]]:
        """Task 1: states of [e_1 .. e_t, separator, the words before], in one pass with the histories' own.

        The text follows each history's last action, not its padding; h_t is a position before it and cannot see it.
        Returns: the histories' states; the states that tell each word.
        """
        text = torch.cat([self.separator.expand(len(tokens), 1, -1), self._read(words[:, :-1])], 1)
        after = lengths[:, None] + torch.arange(text.shape[1], device=lengths.device)
        at = after[..., None].expand_as(text)
        room = tokens.new_zeros(len(tokens), text.shape[1], tokens.shape[2])
        states = model.states(torch.cat([tokens, room], 1).scatter(1, at, text))
        return states[:, : tokens.shape[1]], states.gather(1, at)

    def _read(self, words: Int[Tensor, "B W"]) -> Float[Tensor, "B W D"]:
        return self.words(words.clamp(min=0))

    def _nll(self, states: Float[Tensor, "B W D"], words: Int[Tensor, "B W"]) -> Float[Tensor, ""]:
        """Mean over the words that are there; logits at these alone."""
        real = words >= 0
        if not real.any():
            return states.sum() * 0.0
        head = self.words.weight if self.own_head is None else self.own_head
        return F.cross_entropy(states[real] @ head.T, words[real])

    def _act(self, model: Karma, states: Float[Tensor, "N D"], batch: SequenceBatch) -> Float[Tensor, ""]:
        """Eq. 5 or one of its alternatives. Negatives: the other targets of the batch, and what was shown with each."""
        users, targets = model.users(states), batch.targets[batch.mask]
        shown = targets[:, None][:, :0] if batch.shown is None else batch.shown[batch.mask]
        items, inverse = torch.unique(torch.cat([targets, shown.flatten()]), return_inverse=True)
        right, at = inverse[: len(targets)], inverse[len(targets) :].view_as(shown)
        # In the batch every target is everybody's candidate; what was shown with one is a negative of that one alone.
        in_batch = torch.zeros(len(items), dtype=torch.bool, device=items.device)
        in_batch[right] = True
        exposed = torch.zeros(len(targets), len(items), dtype=torch.bool, device=items.device)
        rows, columns = (shown > 0).nonzero(as_tuple=True)
        exposed[rows, at[rows, columns]] = True
        own = torch.zeros_like(exposed).scatter(1, right[:, None], True)
        negatives = (in_batch | exposed) & ~own  # an equal item elsewhere in the batch is no negative
        vectors = model.embed_items(items)
        match self.config.act:
            case "pairwise":
                return pairwise(users @ vectors.T, right, negatives)
            case "hardest":
                return hardest(users @ vectors.T, right, negatives)
            case "infonce":
                assert self.log_scale is not None
                cosines = F.normalize(users, dim=-1) @ F.normalize(vectors, dim=-1).T
                return softmax(cosines * self.log_scale.exp().clamp(max=100.0), right, negatives)
            case "sampled_softmax":
                # In the sample if it is any position's target; those that were shown are there for certain.
                log_inclusion = torch.log(-torch.expm1(-(len(targets) * self.shares[items]).clamp(min=1e-9)))
                logits = users @ vectors.T
                return softmax(torch.where(own | exposed, logits, logits - log_inclusion), right, negatives)


def pairwise(
    scores: Float[Tensor, "N C"], right: Int[Tensor, " N"], negatives: Bool[Tensor, "N C"]
) -> Float[Tensor, ""]:
    """Eq. 5: -log sigmoid(s+ - s-), mean over a row's negatives, then over the rows that have any. In nats."""
    losses = F.softplus(scores - scores.gather(1, right[:, None]))
    counts = negatives.sum(1)
    each = (losses * negatives).sum(1) / counts.clamp(min=1)
    return each.sum() / (counts > 0).sum().clamp(min=1)


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
