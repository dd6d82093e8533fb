"""Follows the true next item of each request through a funnel's trace.

A request leaves a few integers behind (the target's place in each list), its lists are let go: memory is about
4 (C + 9) bytes a request, whatever the length of the lists and the size of the catalogue. A place is what the user
would see: equal scores keep the order the stage gave them.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Int
from torch import Tensor

from penchant.data.history import Requests
from penchant.evaluation.funnel.numbers import Evidence, Targets, make_report
from penchant.evaluation.funnel.report import STAGES, FunnelReport, Provenance, StageName
from penchant.evaluation.metrics import hr_at, ndcg_at
from penchant.evaluation.protocol import per_user_table
from penchant.funnel.pipeline import Funnel, Trace
from penchant.funnel.stages import Candidates


@dataclass(frozen=True)
class LostTarget:
    """One target that did not reach the list, for a reader of the data's own: never part of a report.

    Attributes:
        item: the target, dense.
        place: its place in the last list that had it (the best channel's, the merged one, the ranked one); 0 = in none.
        history: the last items before it, oldest first.
        training_count: how often it occurs in the training window.
    """

    stage: StageName
    item: int
    place: int
    history: tuple[int, ...]
    training_count: int


class FunnelAudit:
    """Add batches, then ask for the report.

    Args:
        ks: lengths of the final list to judge; the first is the headline's.
        item_counts: [I+1], occurrences of each item in the channels' training window (`Split.item_counts`).
        user_counts: [U+1], events of each user in that window, to tell users the channels were trained on from others.
        funnel: the one that is judged; with it the ceiling of a perfect pre-ranker is measured, not only bounded.
        seed: of the bootstrap and of the choice of samples.
        samples: lost targets to keep for each stage.
    """

    def __init__(
        self,
        ks: Sequence[int] = (10, 20, 50),
        *,
        item_counts: Int[np.ndarray, " I"],
        user_counts: Int[np.ndarray, " U"] | None = None,
        funnel: Funnel | None = None,
        seed: int = 0,
        resamples: int = 1000,
        samples: int = 4,
    ) -> None:
        if not ks or min(ks) < 1:
            raise ValueError(f"ks must be at least 1: {ks}")
        self.ks = tuple(ks)
        self.item_counts = np.asarray(item_counts)
        self.user_counts = user_counts
        self.funnel = funnel
        self.seed = seed
        self.resamples = resamples
        self.samples = samples
        self.channels: tuple[str, ...] = ()
        self._rows: list[np.ndarray] = []  # a batch's places and facts, see `Targets`
        self._sizes: list[np.ndarray] = []  # a batch's list sizes, summed
        self._jaccard = np.zeros((0, 0, 2))  # sum, and number of requests that have a list in either
        self._batches: list[tuple[Mapping[str, float], int]] = []
        self._lost: dict[StageName, list[tuple[int, int, LostTarget]]] = {s: [] for s in STAGES}
        self._seen = 0
        self._fused = False

    def add(self, trace: Trace, requests: Requests, targets: Int[Tensor, " B"]) -> None:
        """Take in one batch.

        Args:
            trace: of `Funnel.run(requests)`.
            targets: what each user did next, dense items.
        """
        if len(targets) != len(requests) or len(targets) != len(trace.merged.items):
            raise ValueError("trace, requests and targets are not of the same batch")
        if len(targets) == 0:
            return
        if int(targets.min()) < 1 or int(targets.max()) >= len(self.item_counts):
            raise ValueError("a target is not an item of the catalogue")
        names = tuple(found.channels[0] for found in trace.lists)
        if not self._rows:
            self.channels = names
            self._jaccard = np.zeros((len(names), len(names), 2))
        elif names != self.channels:
            raise ValueError(f"channels {names}, before they were {self.channels}")
        in_channels = [_places(found.items, targets) for found in trace.lists]
        merged, preranked, ranked = (_places(c.items, targets) for c in (trace.merged, trace.preranked, trace.ranked))
        self._fused |= trace.unfused is not None
        unfused = preranked if trace.unfused is None else _places(trace.unfused.items, targets)
        kept = trace.preranked.mask.sum(1)
        rescued = self._rescue(trace, requests, targets, merged, preranked)
        repeats = (requests.history == targets[:, None].to(requests.history.device)).any(1)
        facts = [merged, preranked, ranked, unfused, kept, rescued, targets, requests.users, requests.lengths, repeats]
        rows = torch.stack([*in_channels, *facts], 1).cpu().numpy().astype(np.int32)
        self._rows.append(rows)
        self._sizes.append(_sizes(trace))
        self._overlap(trace.lists)
        self._batches.append((dict(trace.seconds), len(targets)))
        self._keep_samples(rows, requests)

    def report(self, provenance: Provenance) -> FunnelReport:
        """The report of all batches so far.

        Raises:
            ValueError: nothing was added.
        """
        if not self._rows:
            raise ValueError("no targets were added")
        rows = Targets(np.concatenate(self._rows), len(self.channels))
        overlap = self._jaccard[..., 0] / np.maximum(self._jaccard[..., 1], 1)
        np.fill_diagonal(overlap, 1.0)
        evidence = Evidence(
            ks=self.ks,
            channels=self.channels,
            rows=rows,
            sizes=np.sum(self._sizes, axis=0) / len(rows),
            overlap=overlap,
            batches=self._batches,
            item_counts=self.item_counts,
            user_counts=self.user_counts,
            rescued=self.funnel is not None and self.funnel.rank is not None,
            fused=self._fused,
        )
        return make_report(evidence, provenance, self.resamples, self.seed)

    def per_user(self) -> pa.Table:
        """HR and NDCG of the final list at each k, and the share retrieved: see `per_user_table`."""
        rows = Targets(np.concatenate(self._rows), len(self.channels))
        values: dict[str, np.ndarray] = {}
        for k in self.ks:
            values |= {f"HR@{k}": hr_at(rows.ranked, k), f"NDCG@{k}": ndcg_at(rows.ranked, k)}
        values["Retrieved"] = rows.survived(self.ks[0])[0].astype(np.float64)
        return per_user_table(rows.user, values)

    def lost_targets(self) -> tuple[LostTarget, ...]:
        """A few lost targets of each stage, drawn evenly. They are the data's own: show them, do not publish them."""
        return tuple(lost for stage in STAGES for _, _, lost in sorted(self._lost[stage], key=lambda entry: -entry[0]))

    @torch.no_grad()
    def _rescue(
        self,
        trace: Trace,
        requests: Requests,
        targets: Int[Tensor, " B"],
        merged: Int[Tensor, " B"],
        preranked: Int[Tensor, " B"],
    ) -> Int[Tensor, " B"]:
        """The true ranker's place for each target that pre-ranking dropped, had it been kept; 0 = not asked."""
        places = torch.zeros_like(merged)
        if self.funnel is None or self.funnel.rank is None:
            return places
        dropped = ((merged > 0) & (preranked == 0) & ~trace.without_history).nonzero()[:, 0]
        if len(dropped) == 0:
            return places
        kept = trace.preranked.rows(dropped)
        last = kept.mask.sum(1) - 1  # never empty: the merged list was longer than the kept one
        row = torch.arange(len(dropped), device=last.device)
        fields = {name: getattr(kept, name).clone() for name in ("items", "ranks", "channel_scores")}
        for name, tensor in fields.items():
            tensor[row, last] = getattr(trace.merged, name)[dropped, merged[dropped] - 1]
        seen = requests.rows(dropped).last(self.funnel.settings.max_history)
        scored = self.funnel.rank.score(seen, replace(kept, **fields))
        places[dropped] = _places(scored.items, targets[dropped])
        return places

    def _overlap(self, lists: Sequence[Candidates]) -> None:
        for a, b in combinations(range(len(lists)), 2):
            both = _num_shared(lists[a].items, lists[b].items)
            either = lists[a].mask.sum(1) + lists[b].mask.sum(1) - both
            some = either > 0
            total = float((both[some].double() / either[some]).sum())
            self._jaccard[[a, b], [b, a]] += (total, int(some.sum()))

    def _keep_samples(self, rows: np.ndarray, requests: Requests) -> None:
        found = Targets(rows, len(self.channels))
        lost_at = found.lost_at(self.ks[0])
        history, lengths = requests.history.cpu().numpy(), requests.lengths.cpu().numpy()
        ordinals = np.arange(self._seen, self._seen + len(rows))
        keys = _scatter(ordinals, self.seed)
        self._seen += len(rows)
        for s, stage in enumerate(STAGES):
            mine = np.flatnonzero(lost_at == s)
            # The smallest keys of all batches: a draw that does not depend on how the requests were batched.
            for r in mine[np.argsort(keys[mine])][: self.samples]:
                item, place = int(found.target[r]), found.last_place(s)[r]
                lost = LostTarget(
                    stage=stage,
                    item=item,
                    place=int(place) if np.isfinite(place) else 0,
                    history=tuple(int(i) for i in history[r, max(0, lengths[r] - 5) : lengths[r]]),
                    training_count=int(self.item_counts[item]),
                )
                heapq.heappush(self._lost[stage], (-int(keys[r]), int(ordinals[r]), lost))
                if len(self._lost[stage]) > self.samples:
                    heapq.heappop(self._lost[stage])


def _places(items: Int[Tensor, "B K"], targets: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
    """Each target's place in its list from 1; 0 = not there."""
    same = items == targets[:, None]
    if not same.shape[1]:
        return torch.zeros_like(targets)
    return torch.where(same.any(1), same.int().argmax(1) + 1, 0)


def _num_shared(a: Int[Tensor, "B K"], b: Int[Tensor, "B L"]) -> Int[Tensor, " B"]:
    """How many items each two lists share; an item occurs in a list at most once."""
    both = torch.cat([a, b], 1).sort(dim=1).values
    return ((both[:, 1:] == both[:, :-1]) & (both[:, 1:] > 0)).sum(1)


def _sizes(trace: Trace) -> np.ndarray:
    """Summed over the batch: different items retrieved, merged, pre-ranked, then each channel's list length."""
    everything = torch.cat([found.items for found in trace.lists], 1).sort(dim=1).values
    different = (everything > 0) & (everything != torch.nn.functional.pad(everything, (1, 0))[:, :-1])
    stages = [different, trace.merged.mask, trace.preranked.mask, *(found.mask for found in trace.lists)]
    return np.array([float(mask.sum()) for mask in stages])


def _scatter(ordinals: np.ndarray, seed: int) -> np.ndarray:
    """uint64 [n]: numbers 0, 1, 2, ... made look random, each on its own (the finaliser of SplitMix64)."""
    x = (ordinals.astype(np.uint64) + np.uint64(seed + 1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))) >> np.uint64(1)
