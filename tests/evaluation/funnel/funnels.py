"""Funnels whose every list is written by hand, and made-up ones for properties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from penchant.data.history import Requests
from penchant.evaluation.funnel.audit import FunnelAudit
from penchant.evaluation.funnel.report import FunnelReport, Provenance
from penchant.funnel.pipeline import Trace
from penchant.funnel.stages import Candidates

PROVENANCE = Provenance(
    data="made-up",
    store_fingerprint="0123456789abcdef",
    split="funnel",
    split_fingerprint="fedcba9876543210",
    window="test",
    seed=0,
    synthetic=True,
    versions={"penchant": "0"},
    config={"merge": "rrf", "merged_size": "4"},
)

Lists = Sequence[Sequence[int]]


def candidates(lists: Lists, channels: tuple[str, ...]) -> Candidates:
    """Lists, best first, shorter ones filled with empty slots; no provenance."""
    width = max(map(len, lists))
    items = torch.tensor([[*row, *[0] * (width - len(row))] for row in lists], dtype=torch.int64).reshape(
        len(lists), width
    )
    scores = torch.where(items > 0, torch.arange(width, 0, -1).expand_as(items).float(), -torch.inf)
    nothing = torch.zeros(*items.shape, len(channels))
    return Candidates(items, scores, channels, nothing.long(), nothing)


def trace(
    channels: Mapping[str, Lists],
    merged: Lists,
    preranked: Lists,
    ranked: Lists | None = None,
    unfused: Lists | None = None,
) -> Trace:
    """A trace with these lists; without `ranked` the pre-ranked order stays. One millisecond a stage."""
    names = tuple(channels)
    stages = [*(f"retrieve:{name}" for name in names), "merge", "prerank", "rank"]
    return Trace(
        lists=tuple(candidates(lists, (name,)) for name, lists in channels.items()),
        merged=candidates(merged, names),
        preranked=candidates(preranked, names),
        ranked=candidates(ranked or preranked, names),
        without_history=torch.zeros(len(merged), dtype=torch.bool),
        seconds=dict.fromkeys(stages, 0.001),
        unfused=None if unfused is None else candidates(unfused, names),
    )


def requests(users: Sequence[int], histories: Lists | None = None) -> Requests:
    """Requests of these users; without histories each has item 1 behind it."""
    histories = histories or [[1]] * len(users)
    width = max(map(len, histories))
    history = torch.tensor([[*row, *[0] * (width - len(row))] for row in histories], dtype=torch.int64)
    return Requests(
        torch.tensor(users, dtype=torch.int64),
        torch.zeros(len(users), dtype=torch.int64),
        history.reshape(len(users), width),
        torch.zeros(len(users), width, dtype=torch.int64),
    )


def by_hand(unfused: Lists | None = None) -> tuple[Trace, Requests, torch.Tensor]:
    """Six targets, k = 2: one lost at each stage, two found.

    Item 1 no channel finds; 2 only `a` finds, the merge cuts it; 3 both find, pre-ranking drops it; 4 only `b` finds,
    ranked third; 5 both find, ranked first; 6 only `b` finds, ranked second.
    """
    made = trace(
        {
            "a": [[7, 8], [2, 7], [3, 7], [7, 8], [5, 7], [7, 8]],
            "b": [[7, 9], [7, 9], [9, 3], [9, 4], [9, 5], [6, 9]],
        },
        merged=[[7, 8, 9], [7, 9], [9, 3, 7], [9, 4, 7, 8], [9, 5, 7], [6, 7, 9]],
        preranked=[[7, 8, 9], [7, 9], [9, 7], [9, 7, 4], [9, 5, 7], [7, 6, 9]],
        ranked=[[7, 8, 9], [7, 9], [9, 7], [9, 7, 4], [5, 9, 7], [7, 6, 9]],
        unfused=unfused,
    )
    return made, requests([1, 1, 2, 2, 3, 3]), torch.tensor([1, 2, 3, 4, 5, 6])


UNFUSED = [[7, 8, 9], [7, 9], [9, 3], [9, 7, 8], [9, 7, 8], [6, 7, 9]]
"""Keeps 3 and 6, where the fused scores keep 4, 5 and 6."""


def report_by_hand(unfused: Lists | None = None) -> FunnelReport:
    """The report of `by_hand`.

    Args:
        unfused: what the pre-ranker alone would have passed on; its scores are fused then.
    """
    made, asked, targets = by_hand(unfused)
    audit = FunnelAudit((2, 3), item_counts=np.array([0, 0, 9, 5, 4, 2, 1, 1, 1, 1]), resamples=200)
    audit.add(made, asked, targets)
    return audit.report(PROVENANCE)
