"""What search is judged on: clicks that came from a query, and the items that match the query's words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from penchant.data.split import Split
from penchant.data.store import Store
from penchant.errors import StoreError
from penchant.evaluation.protocol import subsample
from penchant.index.lexical import SEARCH_POOL, LexicalIndex, Matches


class Matcher:
    """The server's text search over a Store's catalogue: the `SEARCH_POOL` best matches; a query is searched once."""

    def __init__(self, store: Store) -> None:
        items = store.table("items", ["title", "category_path", "text"])
        columns = (items[name].to_pylist() for name in items.column_names)
        self._index = LexicalIndex(*columns)
        self._known: dict[str, Matches] = {}
        self.num_items = store.num_items

    def of(self, query: str) -> Matches:
        """Items that match, best first."""
        if query not in self._known:
            self._known[query] = self._index.search(query, SEARCH_POOL)
        return self._known[query]

    def scores(self, queries: Sequence[str]) -> Float[Tensor, "B I"]:
        """BM25 of each query's matches; -inf for every other item and for column 0 (padding)."""
        out = torch.full((len(queries), self.num_items + 1), -torch.inf)
        for row, query in enumerate(queries):
            found = self.of(query)
            out[row, torch.from_numpy(found.items)] = torch.from_numpy(found.scores).float()
        return out


@dataclass(frozen=True)
class SearchTargets:
    """The clicks that all systems of a comparison are judged on. T targets, in the Store's order.

    Attributes:
        events: rows of the Store's events; each has a query.
        matcher: who matches; all systems share what it has found.
        notes: what a reader of the numbers must know, one line each.
    """

    store: Store
    split: Split
    window: str
    events: Int[np.ndarray, " T"]
    matcher: Matcher
    notes: tuple[str, ...] = ()


def search_targets(store: Store, split: Split, window: str = "test", *, targets: int | None = None) -> SearchTargets:
    """The targets of a window (`Split.targets`) that came from a query.

    Args:
        targets: a random subsample of so many, always the same; None takes all.

    Raises:
        StoreError: there are none.
    """
    events = split.targets(window)
    events = events[np.asarray(store.event_query[events]) > 0]
    if not len(events):
        raise StoreError(
            f"no target of window {window!r} of split {split.name!r} came from a query, so no search can be judged",
            where=store.path,
            fix="Prepare a Store whose events have queries: `penchant prepare bazaar`, or your own logs with a column "
            "`query`.",
        )
    events, notes = subsample(events, targets, seed=0)
    return SearchTargets(store, split, window, events, Matcher(store), notes)
