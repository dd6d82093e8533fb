"""Batches of impressions for pointwise rankers, and scores of a window's impressions to judge them by.

`batch(step)` is a pure function of the step and the seed, so a killed run goes on with the very next batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from penchant.data.history import ends_before, make_requests, texts_of
from penchant.data.split import Split
from penchant.data.store import Store
from penchant.errors import StoreError
from penchant.funnel.features import Features, RankInputs
from penchant.funnel.rank import judging


@dataclass(frozen=True)
class RankBatch:
    """Requests, the items to score for each, and what came of them.

    Attributes:
        labels: 1 clicked, 0 not; 0 in empty slots.
        chance: that the place was looked at, where the logs know it and it is to be corrected for.
        positions: of the place, from 1, 0 = unknown, where its effect is to be estimated.
        offset: what the place adds to the logit, while it is estimated.
        further: 1 where the item of the request was also put in the cart, say, or ordered: one column an action.
    """

    inputs: RankInputs
    labels: Float[Tensor, "B K"]
    chance: Float[Tensor, "B K"] | None = None
    positions: Int[Tensor, "B K"] | None = None
    offset: Float[Tensor, "B K"] | None = None
    further: Float[Tensor, "B K A"] | None = None

    @property
    def mask(self) -> Bool[Tensor, "B K"]:
        """True at real items."""
        return self.inputs.mask

    @property
    def num_targets(self) -> int:
        """Real items: what is learned from."""
        return int(self.mask.sum())

    def to(self, device: torch.device | str) -> RankBatch:
        chance, positions, further = (
            None if of is None else of.to(device) for of in (self.chance, self.positions, self.further)
        )
        return RankBatch(self.inputs.to(device), self.labels.to(device), chance, positions, further=further)


Positions = Literal["ignored", "propensity", "estimated"]
"""What is done about places that are looked at less: nothing; clicks count 1 / the logged chance that their place was
looked at (`propensity`); or each place's effect on the logit is learned beside the model, and left out when serving."""

LEAST_CHANCE = 0.1
"""Logged chances below count as this: one click at a far place would outweigh all others."""


class BatchPlan:
    """Which rows form a batch: rows of like size together, newly mixed each epoch, batches in random order.

    Rows fall into buckets by width and by history length, each rounded up to a power of two. An epoch shuffles rows
    within their bucket, so the number of batches, and what each may cost, is the same in every epoch.

    Args:
        widths: int [N], items of each row.
        lengths: int [N], actions in each row's history.
        cells: bound of rows times (rounded) width in a batch; a batch has at least one row.
    """

    def __init__(self, widths: np.ndarray, lengths: np.ndarray, cells: int, seed: int) -> None:
        self._seed = seed
        rounded = np.minimum(_power_of_two(widths), widths.max(initial=1))
        self._bucket = rounded * 64 + np.log2(_power_of_two(lengths)).astype(np.int64)
        in_order = np.sort(rounded)
        starts = [0]
        while (start := starts[-1]) < len(in_order):
            # The bound of the widest row decides; widths ascend, so the last row that may join is the widest.
            inside = in_order[start : start + cells]
            fits = np.arange(1, len(inside) + 1) * inside <= cells
            starts.append(start + max(1, int(fits.sum())))
        self._starts = np.array(starts)
        self.steps_per_epoch = len(starts) - 1
        self._epoch: tuple[int, np.ndarray, np.ndarray] | None = None

    def rows(self, step: int) -> np.ndarray:
        """int64 [B]: the rows of this step's batch."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            rng = np.random.default_rng((self._seed, epoch))
            rows = np.lexsort((rng.random(len(self._bucket)), self._bucket))
            self._epoch = (epoch, rows, rng.permutation(self.steps_per_epoch))
        _, rows, batches = self._epoch
        start, stop = self._starts[batches[place] : batches[place] + 2]
        return rows[start:stop]

    def in_order(self) -> Iterator[np.ndarray]:
        """Every row once, in batches of the same bounds, never shuffled."""
        rows = np.argsort(self._bucket, kind="stable")
        for start, stop in zip(self._starts[:-1], self._starts[1:], strict=True):
            yield rows[start:stop]


class ImpressionBatches:
    """What one window's users were shown, by request: items and clicks, with the history strictly before the request.

    A request with more than `max_items` impressions is cut into pieces of that many, each a row of its own, so that
    one long list does not pad the rest.

    Args:
        cells: bound of impressions and padding in a batch.
        positions: what the batches carry of places.
        actions: further labels, by the names of the events' actions.

    Raises:
        StoreError: the Store has no impressions in the window, or the split no times; or it does not know the places or
            has no such action.
    """

    def __init__(
        self,
        store: Store,
        split: Split,
        window: str,
        features: Features,
        *,
        cells: int = 4096,
        max_items: int = 64,
        seed: int = 0,
        positions: Positions = "ignored",
        actions: Sequence[str] = (),
    ) -> None:
        requests = split.requests(store, window)
        if not len(requests):
            raise StoreError(
                f"no impressions in window {window!r} of split {split.name!r}",
                where=store.path,
                fix="A ranker needs what was shown and not clicked: prepare the Store with impressions.",
            )
        self._store, self._features = store, features
        self._chance = _known_of_places(store, "propensity") if positions == "propensity" else None
        self._positions = _known_of_places(store, "position") if positions == "estimated" else None
        self._further = _further_labels(store, actions) if actions else None
        first, stop = store.request_indptr[requests - 1], store.request_indptr[requests]
        pieces = -(-(stop - first) // max_items)
        row = np.repeat(np.arange(len(requests)), pieces)
        nth = np.arange(len(row)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        self._first = first[row] + nth * max_items
        self._count = np.minimum(stop[row] - self._first, max_items)
        self.requests = requests[row]
        """int64 [N]: the request of each row (piece)."""
        self._users = store.request_user[self.requests].astype(np.int64)
        self._times = store.request_ts_ms[self.requests]
        self._ends = ends_before(store, self._users, self._times)
        lengths = np.minimum(self._ends - store.user_indptr[self._users], features.max_len)
        self._plan = BatchPlan(self._count, lengths, cells, seed)
        self.steps_per_epoch = self._plan.steps_per_epoch

    def batch(self, step: int) -> RankBatch:
        """The batch of a step, counted from 0 over all epochs."""
        return self._make(self._plan.rows(step))[0]

    def in_order(self) -> Iterator[tuple[RankBatch, np.ndarray]]:
        """Every impression once, never shuffled, with its row in the Store's impressions, int64 [B, K]; -1 = empty."""
        for rows in self._plan.in_order():
            yield self._make(rows)

    def _make(self, rows: np.ndarray) -> tuple[RankBatch, np.ndarray]:
        store, users = self._store, self._users[rows]
        requests = make_requests(
            users,
            self._times[rows],
            store.event_item,
            store.event_ts_ms,
            store.user_indptr[users],
            self._ends[rows],
            self._features.max_len,
            texts_of(store, store.request_query[self.requests[rows]]) if store.num_queries else None,
            store.event_query if store.num_queries else None,
        )
        count = self._count[rows, None]
        place = np.arange(count.max())
        real = place < count
        shown = np.where(real, self._first[rows, None] + place, -1)
        items = torch.from_numpy(np.where(real, store.impression_item[shown], 0).astype(np.int64))
        labels = torch.from_numpy(np.where(real, store.impression_label[shown], 0).astype(np.float32))
        at = np.maximum(shown, 0)
        chance = None if self._chance is None else torch.from_numpy(np.where(real, self._chance[at], 1.0)).float()
        place = None if self._positions is None else torch.from_numpy(np.where(real, self._positions[at], 0)).long()
        further = None
        if self._further is not None:
            further = torch.from_numpy(np.where(real[..., None], self._further[at], False)).float()
        inputs = self._features.of_items(requests, items)
        return RankBatch(inputs, labels, chance, place, further=further), shown

    @property
    def most_positions(self) -> int:
        """The last place there is."""
        return 0 if self._positions is None else int(self._positions.max())


@dataclass(frozen=True)
class ImpressionScores:
    """A model's logits of a window's impressions, in the Store's order.

    Attributes:
        scores: float32 [N].
        labels: int8 [N], 1 clicked.
        requests, users, items: int64 [N].
    """

    scores: np.ndarray
    labels: np.ndarray
    requests: np.ndarray
    users: np.ndarray
    items: np.ndarray


def evaluate_impressions(
    model: nn.Module, features: Features, store: Store, split: Split, window: str, cells: int = 8192
) -> ImpressionScores:
    """Score every impression of a window once; the order and the batches change nothing.

    Raises:
        StoreError: the Store has no impressions in the window, or the split no times.
    """
    batches = ImpressionBatches(store, split, window, features, cells=cells)
    device = next(model.parameters()).device
    rows, scores = [], []
    with judging(model):
        for batch, shown in batches.in_order():
            rows.append(shown[shown >= 0])
            scores.append(model(batch.inputs.to(device)).cpu().numpy()[shown >= 0])
    row = np.concatenate(rows)
    order = np.argsort(row)
    row = row[order]
    requests = np.searchsorted(store.request_indptr, row, side="right")
    return ImpressionScores(
        scores=np.concatenate(scores)[order],
        labels=store.impression_label[row],
        requests=requests,
        users=store.request_user[requests].astype(np.int64),
        items=store.impression_item[row].astype(np.int64),
    )


def _further_labels(store: Store, actions: Sequence[str]) -> np.ndarray:
    """bool [N, A]: whether an impression's request and item also have an event of each action.

    Raises:
        StoreError: there is no event of an action, or none that names its request.
    """
    events = store.table("events", ["item", "action", "request"])
    named, width = events["action"].to_numpy(zero_copy_only=False), store.num_items + 1
    key = events["request"].to_numpy() * width + events["item"].to_numpy()
    known = events["request"].to_numpy() > 0
    request = np.repeat(np.arange(1, store.num_requests + 1), np.diff(store.request_indptr))
    shown = request * width + store.impression_item
    columns = []
    for action in actions:
        of_action = key[(named == action) & known]
        if not len(of_action):
            what = f"no event of action {action!r} names its request"
            there = ", ".join(sorted(set(named[known].tolist()))) or "none"
            raise StoreError(what, where=store.path, fix=f"Choose among those that do: {there}.")
        columns.append(np.isin(shown, of_action))
    return np.stack(columns, axis=1)


def _known_of_places(store: Store, column: str) -> np.ndarray:
    """A column of the impressions.

    Raises:
        StoreError: the Store does not have it, or it says nothing.
    """
    known = column in store.columns("impressions")
    values = store.table("impressions", [column])[column].to_numpy() if known else np.zeros(0)
    if column == "propensity" and known:
        if not (np.isfinite(values) & (values > 0) & (values <= 1)).all():
            bad = values[~(np.isfinite(values) & (values > 0) & (values <= 1))][0]
            what = f"propensity {bad} is no chance"
            raise StoreError(
                what, where=store.path, fix="Log chances above 0, at most 1, or use data.positions ignored."
            )
        return np.maximum(values, LEAST_CHANCE)
    if not known or not values.any():
        what = f"the impressions do not know their {column}"
        raise StoreError(what, where=store.path, fix="Prepare the Store with it, or use data.positions ignored.")
    return values


def _power_of_two(counts: np.ndarray) -> np.ndarray:
    """The least power of two that is no smaller than each count and 1."""
    return 1 << np.ceil(np.log2(np.maximum(counts, 1))).astype(np.int64)
