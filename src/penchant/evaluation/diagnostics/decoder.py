"""Is the next item's title still in the user vector? A fresh decoder is asked, not the one that was trained for it.

A model that was taught to be decodable would be judged by its own teacher otherwise, and one that never was could not
be judged at all. So the same small decoder learns for the same number of steps from any model's frozen vectors; beside
it one whose vectors are dealt out anew, which is what titles tell of themselves, and the words' mere frequencies.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from penchant.errors import ConfigError, at_least

_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The fresh decoder: a GRU over words that begins with the user vector. Seconds to a minute on one core."""

    steps: int = 300
    rows: int = 128
    """Targets in a step."""
    width: int = 64
    words: int = 2000
    """Most frequent words of the catalogue's titles; all others are one word, "another"."""
    longest: int = 10
    """Words of a title that are told, the end included."""
    lr: float = 3e-3
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(1, self, "steps", "rows", "width", "words", "longest")
        at_least(0, self, "seed")
        if self.lr <= 0:
            raise ConfigError(f"lr is {self.lr}", fix="Set it above 0.")


@dataclass(frozen=True)
class Decodability:
    """Nats a word of the titles of targets whose users the decoder never saw, lower = told better.

    Attributes:
        own: from each target's own user vector.
        shuffled: of a decoder that learned, and is asked, with vectors dealt out anew.
        unigram: from how often words occur in the titles it learned.
        targets: that were judged.
    """

    own: float
    shuffled: float
    unigram: float
    targets: int


def title_words(titles: Sequence[str], config: DecoderConfig) -> Int[np.ndarray, "I W"]:
    """Words of each title as numbers: 0 = the end, 1 = another word, 2 and more by frequency; -1 = none follows.

    A title without words has none at all. `titles` begin with padding's.
    """
    split = [_WORD.findall(title.lower()) for title in titles]
    common = Counter(word for words in split for word in words).most_common(config.words)
    # most_common keeps the order of first occurrence among equals: the same titles give the same numbers.
    numbers = {word: number for number, (word, _) in enumerate(common, start=2)}
    out = np.full((len(titles), config.longest), -1, dtype=np.int64)
    for row, words in enumerate(split):
        if words:
            told = [*(numbers.get(word, 1) for word in words), 0][: config.longest]
            out[row, : len(told)] = told
    return out


def decodability(
    users: Float[np.ndarray, "T D"],
    targets: Int[np.ndarray, " T"],
    owners: Int[np.ndarray, " T"],
    words: Int[np.ndarray, "I W"],
    config: DecoderConfig,
    step_done: Callable[[], None] = lambda: None,
) -> Decodability | None:
    """Learn from three quarters of the users' targets, tell the titles of the others'.

    Args:
        users: the user vector that was to find each target.
        targets: the items.
        owners: whose each is: no user is on both sides.
        words: `title_words` of all items.
        step_done: called after each of the 2 `steps` steps.

    Returns: None where there are too few targets with a title on a side (fewer than 16).
    """
    told = np.flatnonzero((words[targets] >= 0).any(1) & (users != 0).any(1))
    people = np.unique(owners[told])
    judged_by = np.random.default_rng(config.seed).permutation(people)[: len(people) // 4]
    out = np.isin(owners[told], judged_by)
    learn, judge = told[~out], told[out]
    if min(len(learn), len(judge)) < 16:
        return None
    x = users.astype(np.float32)
    x = (x - x[learn].mean(0)) / np.maximum(x[learn].std(0), 1e-6)
    dealt = x.copy()
    rng = np.random.default_rng([config.seed, 1])
    for side in (learn, judge):
        dealt[side] = x[side[of_another(owners[side], rng)]]
    answers = torch.from_numpy(words[targets])
    own, shuffled = (
        _nll_after_learning(torch.from_numpy(v), answers, learn, judge, config, step_done) for v in (x, dealt)
    )
    return Decodability(own, shuffled, unigram_nll(words[targets[learn]], words[targets[judge]]), len(judge))


def of_another(owners: Int[np.ndarray, " T"], rng: np.random.Generator) -> Int[np.ndarray, " T"]:
    """For each place one of another owner, drawn evenly; its own where there is no other owner."""
    order = np.argsort(owners, kind="stable")
    ordered = owners[order]
    first, stop = (np.searchsorted(ordered, owners, side=side) for side in ("left", "right"))
    others = len(owners) - (stop - first)
    drawn = rng.integers(0, np.maximum(others, 1))
    place = order[np.where(drawn < first, drawn, np.minimum(drawn + stop - first, len(owners) - 1))]
    return np.where(others > 0, place, np.arange(len(owners)))


def unigram_nll(learn: Int[np.ndarray, "N W"], judge: Int[np.ndarray, "M W"]) -> float:
    """Nats a word of `judge` by the frequencies in `learn`, each word counted once more than it occurs; -1 = none."""
    counts = np.bincount(learn[learn >= 0], minlength=int(max(learn.max(), judge.max())) + 1) + 1.0
    return float(-np.log(counts / counts.sum())[judge[judge >= 0]].mean())


class _Teller(nn.Module):
    """Logits of each word of a title from a vector and the words before it."""

    def __init__(self, width: int, words: int, config: DecoderConfig) -> None:
        super().__init__()
        self.begin = nn.Linear(width, config.width)
        self.words = nn.Embedding(words + 1, config.width)  # the last one begins
        self.body = nn.GRU(config.width, config.width, batch_first=True)
        self.head = nn.Linear(config.width, words)

    def forward(self, vectors: Float[Tensor, "B D"], words: Int[Tensor, "B W"]) -> Float[Tensor, "B W V"]:
        first = torch.full_like(words[:, :1], self.words.num_embeddings - 1)
        before = torch.cat([first, words[:, :-1].clamp(min=0)], 1)
        said = self.begin(vectors)
        # Beside the first state it is added to every word: what a title's end depends on is not to be remembered.
        states, _ = self.body(self.words(before) + said[:, None], torch.tanh(said)[None])
        return self.head(states)


def _nll_after_learning(
    vectors: Tensor,
    answers: Tensor,
    learn: np.ndarray,
    judge: np.ndarray,
    config: DecoderConfig,
    step_done: Callable[[], None],
) -> float:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        teller = _Teller(vectors.shape[1], int(answers.max()) + 1, config)
    optimizer = torch.optim.AdamW(teller.parameters(), lr=config.lr, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=config.steps)
    rng = np.random.default_rng([config.seed, 2])
    with torch.enable_grad():
        for _ in range(config.steps):
            rows = torch.from_numpy(rng.choice(learn, min(config.rows, len(learn)), replace=False))
            optimizer.zero_grad()
            _nll(teller, vectors[rows], answers[rows]).backward()
            optimizer.step()
            schedule.step()
            step_done()
    with torch.no_grad():
        parts = torch.from_numpy(judge).split(512)
        counts = [int((answers[part] >= 0).sum()) for part in parts]
        losses = [float(_nll(teller, vectors[part], answers[part])) for part in parts]
    return float(np.average(losses, weights=counts))


def _nll(teller: _Teller, vectors: Tensor, words: Tensor) -> Tensor:
    real = words >= 0
    return F.cross_entropy(teller(vectors, words)[real], words[real])
