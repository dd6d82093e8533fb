"""How personalized search is judged: the clicked item's rank in the whole catalogue, and among the text's matches.

Systems are `CatalogueScorer`s or `Embedder`s that may read `requests.queries` (systems.py). The first rank asks whether
the system finds the item, the second how well it orders what the words found.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from penchant.data.history import requests_before_events
from penchant.errors import RunError
from penchant.evaluation.metrics import hr_at, mrr_at, ndcg_at
from penchant.evaluation.protocol import Scored, per_user_table, targets_of
from penchant.evaluation.search.targets import SearchTargets
from penchant.evaluation.search.truth import BazaarTruth
from penchant.evaluation.slices import mean_of_slices, popularity_slices
from penchant.funnel.rank import judging
from penchant.funnel.stages import CatalogueScorer, Embedder
from penchant.index.exact import best_items

KS = (5, 10, 20, 50, 100)
"""Lengths of lists that are judged."""
SHOWN = 10
"""Places of a list whose relevance is judged."""


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """Where each clicked item was ranked. T targets, in the Store's order.

    Attributes:
        ranks: 1-based among all items, average of ties; inf where the system did not score the item.
        match_ranks: the same among the best text matches of the query; inf too where the clicked item is none of them.
        outside: the clicked item is none of them.
        lists: the best items, best first, 0 = empty slot.
        relevance: true relevance of what `lists` shows, in [0, 1]; None where nobody knows it.
        unanswered: requests the system could say nothing about.
        notes: what a reader of the numbers must know, one line each.
    """

    events: Int[np.ndarray, " T"]
    users: Int[np.ndarray, " T"]
    items: Int[np.ndarray, " T"]
    queries: Int[np.ndarray, " T"]
    ranks: Float[np.ndarray, " T"]
    match_ranks: Float[np.ndarray, " T"]
    outside: Bool[np.ndarray, " T"]
    lists: Int[np.ndarray, "T K"]
    relevance: Float[np.ndarray, "T K"] | None
    item_counts: Int[np.ndarray, " I"]
    query_counts: Int[np.ndarray, " Q"]
    unanswered: int
    notes: tuple[str, ...] = ()

    @cached_property
    def values(self) -> dict[str, Float[np.ndarray, " T"]]:
        """Each target's value of every metric: "HR@10" (whole catalogue), "HR@10 matches", ...

        Where the truth is known also, of the list's first ten places: "Relevance@10", their mean true relevance, 0 in
        an empty one; "Irrelevant@10", the share that shows an item without any; "Filled@10", the share that shows one.
        """
        out = {
            f"{name}@{k}{label}": of(ranks, k)
            for label, ranks in (("", self.ranks), (" matches", self.match_ranks))
            for name, of in (("HR", hr_at), ("NDCG", ndcg_at), ("MRR", mrr_at))
            for k in KS
        }
        if self.relevance is not None:
            shown = self.lists > 0
            out[f"Relevance@{SHOWN}"] = np.where(shown, self.relevance, 0).mean(1)
            out[f"Irrelevant@{SHOWN}"] = (shown & (self.relevance == 0)).mean(1)
            out[f"Filled@{SHOWN}"] = shown.mean(1)
        return out

    def metrics(self) -> dict[str, float]:
        """Means over the targets; "Outside matches" is the share of clicked items that do not match their query."""
        means = {name: float(value.mean()) for name, value in self.values.items()}
        return means | {"Outside matches": float(self.outside.mean()), "Unanswered": self.unanswered / len(self.events)}

    def per_user(self) -> pa.Table:
        """Columns `user`, `weight` (its targets) and the mean of each metric, those at 10 first.

        The mean of a column weighted by `weight` is the metric.
        """
        order = sorted(self.values, key=lambda name: "@10" not in name.replace("@100", ""))
        return per_user_table(self.users, {name: self.values[name] for name in order})

    def slices(self) -> dict[str, dict[str, dict[str, float]]]:
        """Targets and means by how common query and item are in the train window.

        Of `query`: head, torso, tail (`popularity_slices`) and unseen, which nobody typed in it; of `item`: head,
        torso, tail and cold.
        """
        by_query = {name: of[self.queries] for name, of in popularity_slices(self.query_counts).items()}
        by_query["unseen"] = by_query.pop("cold")
        by_item = {name: of[self.items] for name, of in popularity_slices(self.item_counts).items()}
        return {"query": mean_of_slices(by_query, self.values), "item": mean_of_slices(by_item, self.values)}


def evaluate_search(
    model: CatalogueScorer | Embedder,
    targets: SearchTargets,
    *,
    max_len: int = 50,
    memory_mb: float = 256,
    batch_size: int = 256,
    truth: BazaarTruth | None = None,
) -> SearchResult:
    """Rank the clicked item of every target in the whole catalogue and among its query's matches.

    Args:
        max_len: actions of the history the system sees.
        memory_mb: about what scoring holds at once, in MB, and at least a row of scores; changes no rank.
        batch_size: requests given to the system at once.
        truth: of the same targets; adds the true relevance of what is shown.

    Raises:
        RunError: the system gives scores that are not numbers.
        ValueError: the truth is of other targets.
    """
    store, events = targets.store, targets.events
    if truth is not None and not np.array_equal(truth.events, events):
        raise ValueError("the truth is of other targets")
    base = targets_of(store, targets.split, events)
    order = np.argsort(base.pop("history_lengths"), kind="stable")
    ranks, match_ranks = np.full((2, len(events)), np.inf)
    outside = np.zeros(len(events), bool)
    lists = np.zeros((len(events), SHOWN), dtype=np.int32)
    unanswered = 0
    with judging(model) if isinstance(model, nn.Module) else torch.no_grad():
        scored = Scored(model, store.num_items, memory_mb)
        for start in range(0, len(events), scored.rows(batch_size)):
            batch = order[start : start + scored.rows(batch_size)]
            requests = requests_before_events(store, events[batch], max_len).to(scored.device)
            for rows, blocks, answered in scored.blocks(requests):
                place = batch[rows]
                # Each block's first column repeats the last one of the block before it.
                parts = [scores if first == 0 else scores[:, 1:] for first, scores in blocks()]
                scores = torch.cat(parts, 1).masked_fill(~answered[:, None], -torch.inf)
                scores[:, 0] = -torch.inf
                matching = targets.matcher.scores((requests.queries or ())[rows]).to(scores.device) > -torch.inf
                target = torch.from_numpy(base["items"][place].astype(np.int64)).to(scores.device)[:, None]
                unanswered += int((~answered).sum())
                lists[place] = _best(scores).cpu().numpy()
                ranks[place] = _ranks(scores, target).cpu().numpy()
                match_ranks[place] = _ranks(scores.masked_fill(~matching, -torch.inf), target).cpu().numpy()
                outside[place] = ~matching.gather(1, target)[:, 0].cpu().numpy()
    notes = targets.notes
    if unanswered:
        notes = (*notes, f"{unanswered:,} of {len(events):,} requests got no answer: rank infinite.")
    return SearchResult(
        events=events,
        **base,
        ranks=ranks,
        match_ranks=match_ranks,
        outside=outside,
        lists=lists,
        relevance=None if truth is None else truth.relevance(lists),
        unanswered=unanswered,
        notes=notes,
    )


def _ranks(scores: Float[Tensor, "B I"], target: Int[Tensor, "B 1"]) -> Float[Tensor, " B"]:
    """1 + #higher + (#same - 1) / 2, the target itself among the same; inf where it has no score."""
    own = scores.gather(1, target)
    rank = (scores > own).sum(1) + ((scores == own).sum(1) + 1) / 2
    return torch.where(own[:, 0] > -torch.inf, rank, torch.inf)


def _best(scores: Float[Tensor, "B I"]) -> Int[Tensor, "B K"]:
    """The best items, best first, 0 = empty slot.

    Raises:
        RunError: a score is not a number.
    """
    try:
        return best_items(scores, SHOWN)[0]
    except ValueError as error:
        raise RunError(
            f"the model gives scores that are not numbers ({error})", fix="Its training diverged: train it again."
        ) from error
