"""What KARMA's h_t says of its user: words and a picture told from it alone, and the items nearest to it.

And whether it says anything: the texts of clicks that nobody has seen are told from the right h_t, from another user's,
and from nobody's (the mean), in nats a word, beside what popularity knows of them without a vector; and told words are
compared with what was clicked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from rich.progress import track
from torch import Tensor

from penchant.data.history import Requests, requests_before_events, requests_before_times
from penchant.data.store import Store
from penchant.errors import ConfigError, RunError
from penchant.evaluation.diagnostics.decoder import of_another
from penchant.evaluation.diagnostics.meaning import terms_of
from penchant.evaluation.funnel.page import item_titles
from penchant.evaluation.protocol import subsample
from penchant.evaluation.significance import Difference, paired_bootstrap
from penchant.index.exact import best_items
from penchant.models import READER
from penchant.papers.karma.language import Texts
from penchant.papers.karma.model import Karma
from penchant.papers.karma.reader import InterestReader, Spelling
from penchant.recipes.karma.build import item_texts
from penchant.recipes.runs import LoadedRun

BLOCK = 256
"""Requests read at once."""
SEEN = 10
"""Pictures nearest to the one told, among which the next item's may be."""
CHOICES = 50
"""Texts among which the one clicked is told apart."""
APART = f"Nats of which of {CHOICES} texts"
"""Name of that measure."""


@dataclass(frozen=True)
class Explanation:
    """One user's interest, read.

    Attributes:
        user_id: as in the logs.
        query: what was typed; "" for none.
        history: items, the newest first.
        words: told from h_t alone.
        nearest: items by their scores, best first.
        pictures: items whose pictures are nearest to the one told; none where no picture is told.
    """

    user_id: str
    query: str
    history: tuple[int, ...]
    words: str
    nearest: tuple[int, ...]
    pictures: tuple[int, ...]


class Explainer:
    """A finished KARMA run with its reader.

    Raises:
        RunError: the run is no KARMA's, was not taught to be read, or was taught other items' texts.
    """

    def __init__(self, folder: Path, loaded: LoadedRun) -> None:
        if not isinstance(loaded.model, Karma):
            kind = loaded.described["config"]["kind"]
            raise RunError(f"{kind} has no words in it", where=folder, fix="Name a run of karma_decoded.")
        config = loaded.described["config"]
        if config["model"]["shuffled"] or config["objective"]["shuffled"]:
            why = "is a placebo: it was taught other items' texts, and tells those"
            raise RunError(why, where=folder, fix="Name the run that it is compared with.")
        self.model, self.store, self.split = loaded.model, loaded.store, loaded.split
        self.seed = int(loaded.described["config"]["train"]["seed"])
        self.reader = InterestReader.load(folder / READER).to(self.model.to_user.weight.device)
        self.spelling = Spelling.load(folder / READER, self.reader)
        self.titles = item_titles(self.store)
        self._items = self.model.item_vectors()
        self._texts = _texts_of(self.store, self.spelling, self.reader)
        painted = self.reader.painter is not None and "image" in self.store.vector_names
        self._pictures = self.store.vectors("image") if painted else None

    @torch.no_grad()
    def explain(self, user_ids: Sequence[str], queries: Sequence[str] | None = None, k: int = 10) -> list[Explanation]:
        """Of each user, after all they did in the Store.

        Args:
            queries: what each typed, for a model of queries.

        Raises:
            ConfigError: nobody of that name, or a query given to a model that reads none.
        """
        known = {name: user for user, name in enumerate(self.store.user_ids) if user}
        for user_id in user_ids:
            if user_id not in known:
                raise ConfigError(f"no user {user_id!r}", where=self.store.path, fix="Give an id as in the logs.")
        if queries and self.model.query is None:
            raise ConfigError(
                "this model reads no queries",
                where="--query",
                fix="Leave it out, or train karma_search with --objective.reconstruct 0.1.",
            )
        users = np.array([known[user_id] for user_id in user_ids])
        now = self.store.event_ts_ms[self.store.user_indptr[users + 1] - 1] + 1
        typed = tuple(queries) if queries else None
        requests = requests_before_times(self.store, users, now, self.model.config.max_len, typed)
        states, known_rows = self._read(requests)
        told = self.reader.tell(self.model, states)
        scores = self.model.users(states) @ self._items.T
        scores[:, 0] = -torch.inf
        nearest, pictures = best_items(scores, k)[0], self._seen(states, k)
        out = []
        for row, user_id in enumerate(user_ids):
            if not bool(known_rows[row]):
                raise ConfigError(f"user {user_id!r} has no history", where=self.store.path, fix="Name another.")
            history = requests.history[row][requests.mask[row]].flip(0)
            out.append(
                Explanation(
                    user_id,
                    typed[row] if typed else "",
                    tuple(history.tolist()),
                    self.spelling.spelt(told[row]),
                    _there(nearest[row]),
                    _there(pictures[row]),
                )
            )
        return out

    def drawn(self, count: int, seed: int = 0) -> list[str]:
        """So many users of the Store with a history, at random."""
        active = np.flatnonzero(np.diff(self.store.user_indptr) > 0)
        chosen = np.random.default_rng(seed).choice(active, min(count, len(active)), replace=False)
        return [self.store.user_ids[user] for user in chosen]

    @torch.no_grad()
    def readability(self, window: str = "test", targets: int = 1000, seed: int = 0, apart: int = 200) -> Readability:
        """Whether words told from h_t are about what its user clicked next, on a window no training has seen.

        Args:
            targets: clicks, drawn at random.
            apart: so many of them, drawn at random, are told apart from others, which costs the most.

        Raises:
            ConfigError: the window has too few clicks on items with a text.
        """
        events = subsample(self.split.targets(window), targets, seed)[0]
        items = self.store.event_item[events].astype(np.int64)
        events = events[(self._texts[torch.from_numpy(items)] >= 0).any(1).numpy()]
        if len(events) < 2:
            what = f"{len(events)} clicks of window {window!r} are on items with a text"
            raise ConfigError(what, where="--check", fix="Judge more of them, or a Store with texts.")
        items = self.store.event_item[events].astype(np.int64)
        users = np.searchsorted(self.store.user_indptr, events, side="right") - 1
        states = []
        for start in track(range(0, len(events), BLOCK), description="reading histories", transient=True):
            some = events[start : start + BLOCK]
            states.append(self._read(requests_before_events(self.store, some, self.model.config.max_len))[0])
        h, words = torch.cat(states), self._texts[torch.from_numpy(items)].to(self._items.device)
        other = h[torch.from_numpy(of_another(users, np.random.default_rng(seed)))]
        sides = {"own": h, "another's": other, "nobody's": h.mean(0, keepdim=True).expand_as(h)}
        told = {
            name: torch.cat(
                [self.reader.nll(self.model, *part) for part in zip(x.split(BLOCK), words.split(BLOCK), strict=True)]
            )
            for name, x in sides.items()
        }
        counts = self.split.item_counts(self.store)
        some = np.random.default_rng(seed).permutation(len(items))[:apart]
        told |= {
            "popular titles": _by_popularity(self._texts, torch.from_numpy(counts))[torch.from_numpy(items)],
            "word frequencies": _by_frequency(self._texts, torch.from_numpy(counts), words.cpu()),
        }
        popular = set(terms_of(self.titles[int(np.argmax(counts))]))
        right = [terms_of(self.titles[item]) for item in items.tolist()]
        spelt = [
            self.spelling.spelt(row)
            for x in (h, other)
            for part in x.split(BLOCK)
            for row in self.reader.tell(self.model, part)
        ]
        own, others = (
            np.array([_share(terms_of(text), of) for text, of in zip(side, right, strict=True)])
            for side in (spelt[: len(h)], spelt[len(h) :])
        )
        return Readability(
            window,
            users,
            {name: values.cpu().numpy() for name, values in told.items()},
            {"own": own, "another's": others, "popular titles": np.array([_share(popular, of) for of in right])},
            {name: self._found(x, items) for name, x in sides.items()} if self._pictures else {},
            users[some],
            self._told_apart({name: x[torch.from_numpy(some)] for name, x in sides.items()}, items[some], counts, seed),
        )

    def _told_apart(
        self,
        sides: dict[str, Float[Tensor, "S D"]],
        items: Int[np.ndarray, " S"],
        counts: Int[np.ndarray, " I"],
        seed: int,
    ) -> dict[str, Float[np.ndarray, " S"]]:
        """Nats of which of `CHOICES` texts is the item's, the others drawn as often as their items are clicked.

        A text's score is the log of how many times likelier it is told from the vector than from nobody's. By
        popularity alone the texts, drawn by it, cannot be told apart.
        """
        lengths = (self._texts >= 0).sum(1)
        often = np.where(lengths.numpy() > 0, counts + 1, 0)  # one more each: some are new
        drawn = np.random.default_rng(seed).choice(len(often), (len(items), CHOICES - 1), p=often / often.sum())
        offered = torch.from_numpy(np.concatenate([items[:, None], drawn], axis=1)).flatten()

        def nats(h: Float[Tensor, "B D"], of: Int[Tensor, " B"], said: str) -> Float[Tensor, " B"]:
            blocks = track(range(0, len(of), BLOCK), description=said, transient=True)
            parts = [slice(start, start + BLOCK) for start in blocks]
            words = self._texts[of].to(h.device)
            return torch.cat([self.reader.nll(self.model, h[part], words[part]) for part in parts]).cpu() * lengths[of]

        texts, place = torch.unique(offered, return_inverse=True)
        anyhow = nats(sides["nobody's"][:1].expand(len(texts), -1), texts, "texts of nobody")[place]
        out = {}
        for name in ("own", "another's"):
            gain = anyhow - nats(sides[name].repeat_interleave(CHOICES, 0), offered, "texts told apart")
            out[name] = -gain.reshape(-1, CHOICES).log_softmax(1)[:, 0].numpy()
        return out | {"popular titles": np.full(len(items), np.log(CHOICES))}

    def _read(self, requests: Requests) -> tuple[Float[Tensor, "B D"], Tensor]:
        return self.model.last_states(requests.to(self._items.device))

    def _found(self, states: Float[Tensor, "B D"], items: Int[np.ndarray, " B"]) -> Float[np.ndarray, " B"]:
        """1 where the item's picture is among the nearest to the one told."""
        nearest = torch.cat([self._seen(part, SEEN) for part in states.split(BLOCK)])
        return (nearest.numpy() == items[:, None]).any(1).astype(np.float64)

    def _seen(self, states: Float[Tensor, "B D"], k: int) -> Int[Tensor, "B K"]:
        """Items whose pictures are nearest, by cosine, to those told."""
        if self._pictures is None:
            return torch.zeros(len(states), 0, dtype=torch.int64)
        made = torch.nn.functional.normalize(self.reader.picture(states), dim=1).cpu()
        there = torch.nn.functional.normalize(torch.from_numpy(self._pictures.standardised()), dim=1)
        scores = (made @ there.T).masked_fill(~torch.from_numpy(self._pictures.present.copy()), -torch.inf)
        return best_items(scores, k)[0]


@dataclass(frozen=True)
class Readability:
    """Of each of T targets; users are whose they are.

    Attributes:
        nats: a word of the target's text, told from the user's own h_t, another's, the mean of all, or by no vector:
            by how often items ("popular titles") or words ("word frequencies") were clicked. Lower is better.
        overlap: share of the terms of the target's title among the words told, or in the most popular title.
        pictures: whether the target's picture is among the ten nearest to the one told; empty where none is told.
        apart_users: of S of the targets.
        apart: of these, nats of which of `CHOICES` texts is the target's. Lower is better.
    """

    window: str
    users: Int[np.ndarray, " T"]
    nats: dict[str, Float[np.ndarray, " T"]]
    overlap: dict[str, Float[np.ndarray, " T"]]
    pictures: dict[str, Float[np.ndarray, " T"]]
    apart_users: Int[np.ndarray, " S"]
    apart: dict[str, Float[np.ndarray, " S"]]

    def measures(self) -> dict[str, dict[str, Float[np.ndarray, " _"]]]:
        """Those there are, by name."""
        all_of_them = {
            "Nats a word": self.nats,
            APART: self.apart,
            "Title's terms told": self.overlap,
            f"Picture among {SEEN}": self.pictures,
        }
        return {name: values for name, values in all_of_them.items() if values}

    def gains(self, what: str) -> dict[str, Difference]:
        """The user's own less each other in one of `measures`, over users."""
        values = self.measures()[what]
        _, of = np.unique(self.apart_users if what == APART else self.users, return_inverse=True)
        weights = np.bincount(of)
        means = {name: np.bincount(of, value) / weights for name, value in values.items()}
        return {name: paired_bootstrap(means["own"], mean, weights) for name, mean in means.items() if name != "own"}

    def lines(self) -> list[str]:
        """For a terminal: means, and differences with their intervals."""
        out = []
        for what, values in self.measures().items():
            means = ", ".join(f"{name} {value.mean():.4f}" for name, value in values.items())
            out.append(f"{what}: {means}")
            for name, gain in self.gains(what).items():
                out.append(f"  own against {name}: {gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]")
        return out


def _texts_of(store: Store, spelling: Spelling, reader: InterestReader) -> Int[Tensor, "I W"]:
    """The items' texts in the reader's words; a text with a word it does not know has none from there on."""
    told = spelling.tokenizer([text or " " for text in item_texts(store)], add_special_tokens=False)["input_ids"]
    place = {int(token): word for word, token in enumerate(spelling.tokens.tolist())}
    whole = []
    for text, tokens in zip(item_texts(store), told, strict=True):
        words = [place.get(token, -1) for token in tokens] if text else []
        known = words.index(-1) if -1 in words else len(words)
        whole.append(np.array(words[:known], dtype=np.int64))
    return Texts(reader.language.vocabulary, tuple(whole), reader.config.max_words).words


def _by_popularity(texts: Int[Tensor, "I W"], counts: Int[Tensor, " I"]) -> Float[Tensor, " I"]:
    """Nats a word of each item's text where all texts are known by heart, each as likely as its items are clicked.

    What tells the most popular titles to everybody. The chance of a whole text is the product of those of its words,
    each given the ones before, so that this stands beside what a decoder tells word by word. NaN without a text.
    """
    lengths = (texts >= 0).sum(1)
    often = torch.where(lengths > 0, counts + 1, 0).double()  # one more each: nothing is impossible
    told, of = torch.unique(texts, dim=0, return_inverse=True)  # of one text there may be several items
    chances = often.new_zeros(len(told)).index_add_(0, of, often) / often.sum()
    return torch.where(lengths > 0, -chances[of].log() / lengths, torch.nan).float()


def _by_frequency(
    texts: Int[Tensor, "I W"], counts: Int[Tensor, " I"], words: Int[Tensor, "T W"]
) -> Float[Tensor, " T"]:
    """Nats a word of texts by the frequencies of words in the items' texts, each as often as the item was clicked."""
    real = texts >= 0
    often = torch.ones(int(texts.max()) + 1, dtype=torch.float64)  # one more each: nothing is impossible
    often.index_add_(0, texts[real], counts[:, None].expand_as(texts)[real].double())
    losses = -(often / often.sum()).log()[words.clamp(min=0)] * (words >= 0)
    return (losses.sum(1) / (words >= 0).sum(1).clamp(min=1)).float()


def _there(items: Int[Tensor, " K"]) -> tuple[int, ...]:
    """Without the empty places of a list that is longer than what there is."""
    return tuple(item for item in items.tolist() if item)


def _share(told: set[str], of: set[str]) -> float:
    return len(told & of) / max(len(of), 1)
