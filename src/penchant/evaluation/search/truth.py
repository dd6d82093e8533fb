"""What the generated market knows of its searches: what was meant, and so how relevant every item is.

A model that puts what its user likes above what was asked for may win clicks and still be a bad search. On real logs
nobody can tell; here the truth is lived again from the Store's manifest (docs/bazaar.md).
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from penchant.bazaar.behaviour import DWELL_MS
from penchant.bazaar.behaviour import Requests as Lived
from penchant.bazaar.oracle import market_of, replay, search_rates
from penchant.bazaar.queries import relevance
from penchant.data.history import Requests
from penchant.errors import StoreError
from penchant.evaluation.search.targets import SearchTargets


class BazaarTruth:
    """The true meaning of the query behind each of T targets.

    Attributes:
        events: int64 [T], the targets.
        asked: int32 [T, A], what each query means (`bazaar.queries.query`).

    Raises:
        StoreError: the Store is not of the generated market, its split has no global cuts, or this version of the
            market does not live the same days again.
    """

    def __init__(self, targets: SearchTargets) -> None:
        store = targets.store
        world = market_of(store)
        self.market = world.market
        self.events = targets.events
        self.numbers = np.array([0, *(int(name[1:]) for name in store.item_ids[1:])])
        """int64 [I+1]: each of the Store's items in the market."""
        people = np.array([0, *(int(name[1:]) for name in store.user_ids[1:])])
        users = np.searchsorted(store.user_indptr, self.events, side="right") - 1
        times = np.asarray(store.event_ts_ms[self.events])
        self._of_request = dict(zip(zip(users.tolist(), times.tolist(), strict=True), range(len(times)), strict=True))
        clicks: dict[tuple[int, int, int], list[int]] = {}
        columns = (people[users], times, self.numbers[store.event_item[self.events]])
        for target, click in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
            clicks.setdefault(click, []).append(target)
        found: dict[int, tuple[Lived, int]] = {}
        for log in replay(world, targets.split, targets.window):
            r = log.requests
            row, place = np.nonzero((log.reached > 0) & r.is_search[:, None])
            columns = (r.user[row], r.ts_ms[row] + (place + 1) * DWELL_MS, log.items[row, place])
            ours = [
                (clicks[click], at)
                for at, click in enumerate(zip(*(column.tolist() for column in columns), strict=True))
                if click in clicks
            ]
            kept = r.take(row[[at for _, at in ours]]) if ours else r
            found |= {target: (kept, i) for i, (of, _) in enumerate(ours) for target in of}
        if len(found) < len(self.events):
            raise StoreError(
                f"{len(self.events) - len(found):,} of {len(self.events):,} searches did not happen again: another "
                "version of the market made it",
                where=store.path,
                fix="Prepare it again.",
            )
        self._lived = [found[target] for target in range(len(self.events))]
        self.asked = np.stack([lived.truth.asked[i] for lived, i in self._lived])

    def relevance(self, lists: Int[np.ndarray, "T K"]) -> Float[np.ndarray, "T K"]:
        """True relevance in [0, 1] of the items of a list for each target; 0 in empty slots (item 0)."""
        return np.where(lists > 0, relevance(self.asked, self.market.catalogue.attributes, self.numbers[lists]), 0)

    def rates(self, target: int) -> Float[np.ndarray, " I"]:
        """True rate of a click on each of the Store's items in the list of a target's search; row 0 is padding."""
        lived, i = self._lived[target]
        return search_rates(self.market, lived.take(np.array([i])))[self.numbers]

    def targets(self, requests: Requests) -> list[int]:
        """Which target each request is of, by its user and time.

        Raises:
            KeyError: of none.
        """
        pairs = zip(requests.users.tolist(), requests.times_ms.tolist(), strict=True)
        return [self._of_request[pair] for pair in pairs]


class TrueRelevance:
    """The most relevant items, whoever asks: the most that any list can have. A `CatalogueScorer` of the targets alone.

    Items of equal relevance share their rank.
    """

    def __init__(self, truth: BazaarTruth) -> None:
        self._truth = truth
        self.num_items = len(truth.numbers) - 1

    def score_items(self, requests: Requests) -> Float[Tensor, "B I"]:
        asked = self._truth.asked[self._truth.targets(requests)]
        items = np.broadcast_to(self._truth.numbers, (len(asked), self.num_items + 1))
        return _padded(relevance(asked, self._truth.market.catalogue.attributes, items))


class TrueRate:
    """Items by the true rate of a click on them in this search: the best personalization. Of the targets alone.

    An item that the shop could not have shown has no score.
    """

    def __init__(self, truth: BazaarTruth) -> None:
        self._truth = truth
        self.num_items = len(truth.numbers) - 1

    def score_items(self, requests: Requests) -> Float[Tensor, "B I"]:
        rates = _padded(np.stack([self._truth.rates(t) for t in self._truth.targets(requests)]))
        return rates.masked_fill(rates == 0, -torch.inf)


def _padded(scores: np.ndarray) -> Tensor:
    out = torch.from_numpy(scores.astype(np.float32))
    out[:, 0] = -torch.inf
    return out
