"""Words, which exist only in training: the catalogue's vocabulary, its embeddings and head, a backbone's continuation.

Of a language model's vocabulary only the words that occur in the catalogue are held: the others are never right, and
their logits are most of what decoding would cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class Vocabulary:
    """The catalogue's words among a tokenizer's.

    Attributes:
        tokens: int64 [V], the tokenizer's numbers, ascending; a word's own number is its place here.
        begin, end: words that a text begins and ends with.
    """

    tokens: np.ndarray
    begin: int
    end: int

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]], begin: int, end: int) -> Vocabulary:
        """Of all tokens in some texts, and the two that begin and end them."""
        seen = np.unique(np.concatenate([np.array([begin, end]), *(np.asarray(t, dtype=np.int64) for t in texts)]))
        return cls(seen, int(np.searchsorted(seen, begin)), int(np.searchsorted(seen, end)))

    def numbers(self, tokens: Sequence[int]) -> np.ndarray:
        """int64 [W], the catalogue's numbers of tokens that occur in it."""
        return np.searchsorted(self.tokens, np.asarray(tokens, dtype=np.int64))


@dataclass(frozen=True)
class Texts:
    """The items' texts as the catalogue's words.

    Attributes:
        whole: of items 1, 2, ..: all words of each, without an end.
        max_words: how many of each are decoded.
    """

    vocabulary: Vocabulary
    whole: tuple[np.ndarray, ...]
    max_words: int

    @cached_property
    def words(self) -> Int[Tensor, "I W"]:
        """Row 0 is padding; -1 = none. Ended by the end where it fits; an item without text has no word at all."""
        out = torch.full((len(self.whole) + 1, self.max_words), -1, dtype=torch.int64)
        for row, text in enumerate(self.whole, 1):
            if len(text):
                kept = np.append(text, self.vocabulary.end)[: self.max_words]
                out[row, : len(kept)] = torch.from_numpy(kept)
        return out

    def shuffled(self) -> Texts:
        """Every item with another's text (`another_item`)."""
        order = another_item(len(self.whole) + 1)[1:] - 1
        return replace(self, whole=tuple(self.whole[i] for i in order.tolist()))

    @property
    def cut(self) -> int:
        """How many texts do not fit."""
        return sum(len(text) + 1 > self.max_words for text in self.whole)


def another_item(count: int) -> Int[Tensor, " I"]:
    """For every item but padding another one, each once: a random cycle, the same every time."""
    order = torch.randperm(count - 1, generator=torch.Generator().manual_seed(0)) + 1
    other = torch.zeros(count, dtype=torch.int64)
    other[order] = order.roll(1)
    return other


class Language(nn.Module):
    """Embeddings and head of the catalogue's words, taken from a language model and learned on.

    Args:
        words, head: float32 [V, D]; the same tensor where the model ties them.
        rate: learning rate, as a share of what is new.
    """

    def __init__(self, vocabulary: Vocabulary, words: Tensor, head: Tensor, rate: float = 1.0) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.words = nn.Embedding.from_pretrained(words.clone(), freeze=False)
        self.own_head = None if head is words else nn.Parameter(head.clone())
        for pretrained in self.parameters():
            pretrained.lr_share = rate  # pyright: ignore[reportAttributeAccessIssue]

    @classmethod
    def of(cls, backbone: Any, vocabulary: Vocabulary, rate: float = 1.0) -> Language:
        """The rows of a causal language model (transformers) that the catalogue needs."""
        tokens = torch.from_numpy(vocabulary.tokens)
        words = backbone.get_input_embeddings().weight.detach()[tokens].float()
        if backbone.config.tie_word_embeddings:
            return cls(vocabulary, words, words, rate)
        return cls(vocabulary, words, backbone.get_output_embeddings().weight.detach()[tokens].float(), rate)

    @property
    def usual(self) -> float:
        """Root mean square of a word's vector: what a decoder has read so far is about so long a dimension."""
        return float(self.words.weight.detach().pow(2).mean().sqrt())

    def read(self, words: Int[Tensor, "*B W"]) -> Float[Tensor, "*B W D"]:
        """Their embeddings; -1 is read as something, which nobody looks at."""
        return self.words(words.clamp(min=0))

    def nll(self, states: Float[Tensor, "B W D"], words: Int[Tensor, "B W"]) -> Float[Tensor, ""]:
        """Mean negative log-likelihood a word, in nats, over the words that are there; logits at these alone.

        Deviates: of the catalogue's words only, p(w | w occurs in the catalogue), not of the whole vocabulary.
        """
        real = words >= 0
        if not real.any():
            return states.sum() * 0.0
        return F.cross_entropy(self.logits(states[real]), words[real])

    def logits(self, states: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        """Of each of the catalogue's words."""
        return states @ (self.words.weight if self.own_head is None else self.own_head).T


def told_after_prompt(
    model: Any, language: Language, prompt: Float[Tensor, "B D"], words: Int[Tensor, "B W"]
) -> Float[Tensor, "B W D"]:
    """States that tell each word from [prompt, begin, the words before]; the last word is never read.

    Args:
        model: KARMA, whose `states` are its decoder's.
    """
    begin = language.words.weight[language.vocabulary.begin].expand(len(prompt), 1, -1)
    return model.states(torch.cat([prompt[:, None], begin, language.read(words[:, :-1])], 1))[:, 1:]


@dataclass(frozen=True)
class WordBatch:
    """Runs of text. `words` are int64 [B, W], each to be told from those before it; -1 = padding."""

    words: Int[Tensor, "B W"]

    @property
    def num_targets(self) -> int:
        return int((self.words >= 0).sum())

    def to(self, device: torch.device) -> WordBatch:
        return replace(self, words=self.words.to(device))


class WordBatches:
    """Texts as runs of at most `length` words, begun and ended; in random order each epoch."""

    def __init__(self, texts: Sequence[np.ndarray], vocabulary: Vocabulary, length: int, rows: int, seed: int) -> None:
        stream = np.concatenate([np.append(text, vocabulary.end) for text in texts if len(text)] or [np.zeros(0)])
        padded = np.full((-(-len(stream) // length), length), -1, dtype=np.int64)
        padded.reshape(-1)[: len(stream)] = stream
        begin = np.full((len(padded), 1), vocabulary.begin)
        self.runs = torch.from_numpy(np.concatenate([begin, padded], 1))
        self.rows, self.seed = rows, seed
        self.steps_per_epoch = max(1, len(self.runs) // rows)

    def batch(self, step: int) -> WordBatch:
        """The batch of a step: a pure function of it."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.runs))
        return WordBatch(self.runs[order[place * self.rows :][: self.rows]])


class Continuation(nn.Module):
    """A backbone's own objective, the next word: what makes one that was cut to its first layers a language model."""

    def __init__(self, language: Language) -> None:
        super().__init__()
        self.language = language

    def forward(self, model: Any, batch: WordBatch) -> dict[str, Tensor]:
        """{"words": nats a word}. `model.body` is the decoder."""
        read = model.body(inputs_embeds=self.language.read(batch.words[:, :-1]), use_cache=False)
        return {"words": self.language.nll(read.last_hidden_state, batch.words[:, 1:])}


@torch.no_grad()
def perplexity(model: Any, language: Language, batches: WordBatches) -> float:
    """exp of the mean negative log-likelihood a word over all runs; among the catalogue's words."""
    told = Continuation(language)
    total, count = 0.0, 0
    for start in range(0, len(batches.runs), batches.rows):
        batch = WordBatch(batches.runs[start : start + batches.rows])
        targets = int((batch.words[:, 1:] >= 0).sum())
        total += float(told(model, batch)["words"]) * targets
        count += targets
    return float(np.exp(total / max(count, 1)))
