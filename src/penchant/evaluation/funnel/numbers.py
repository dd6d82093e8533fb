"""From where each target stood after each stage to the numbers of a `FunnelReport`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int

from penchant.evaluation.funnel.report import (
    PLACE_BINS,
    REPEATED,
    STAGES,
    AtK,
    Ceiling,
    ChannelReport,
    Combination,
    Control,
    Curve,
    FunnelReport,
    FusionReport,
    Interval,
    Latency,
    Provenance,
    Slice,
    StageReport,
    Truncation,
)
from penchant.evaluation.metrics import hr_at, ndcg_at
from penchant.evaluation.significance import resample_users
from penchant.evaluation.slices import history_slices, popularity_slices

CURVE_KS = (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300, 500, 1000)


@dataclass(frozen=True)
class Evidence:
    """What an audit gathered of all batches.

    Attributes:
        ks: lengths of the final list to judge; the first is the headline's.
        rows: one a target.
        sizes: [3 + C] mean number of different items retrieved, merged, pre-ranked, and in each channel's list.
        overlap: [C, C] mean Jaccard similarity of the channels' lists.
        batches: seconds of each stage, and the number of requests, of each batch.
        item_counts, user_counts: of the training window.
        rescued: True if the ranker was asked about the targets that pre-ranking dropped.
        fused: True if the pre-ranker's scores were fused.
    """

    ks: tuple[int, ...]
    channels: tuple[str, ...]
    rows: Targets
    sizes: np.ndarray
    overlap: np.ndarray
    batches: list[tuple[Mapping[str, float], int]]
    item_counts: np.ndarray
    user_counts: np.ndarray | None
    rescued: bool
    fused: bool


class Targets:
    """Where each of T targets stood in each list, from 1; inf = not there. One line of integers a target.

    Args:
        rows: [T, C + 10] its place in each channel's list, the merged, the pre-ranked and the ranked one, and in what
            the pre-ranker alone would have passed on (0 = not there); how many items were pre-ranked; its place had it
            been saved from pre-ranking (0 = not asked); the target item; the user; the length of the history; whether
            the item is in it.
    """

    def __init__(self, rows: Int[np.ndarray, "T F"], num_channels: int) -> None:
        places = np.where(rows > 0, rows, np.inf)
        self.channels = places[:, :num_channels]
        self.merged, self.preranked, self.ranked, self.unfused = places[:, num_channels : num_channels + 4].T
        self.rescued = places[:, num_channels + 5]
        self.kept, _, self.target, self.user, self.length, repeated = rows[:, num_channels + 4 :].T
        self.repeated = repeated > 0

    def __len__(self) -> int:
        return len(self.target)

    def survived(self, k: int) -> list[np.ndarray]:
        """bool [T] for each stage. What the fallback's fill brought counts as retrieved."""
        merged = np.isfinite(self.merged)
        return [np.isfinite(self.channels).any(1) | merged, merged, np.isfinite(self.preranked), self.ranked <= k]

    def lost_at(self, k: int) -> np.ndarray:
        """int [T]: the stage that lost each target; 4 = none did."""
        survived = np.stack(self.survived(k), 1)
        return np.where(survived.all(1), len(STAGES), (~survived).argmax(1))

    def last_place(self, stage: int) -> np.ndarray:
        """[T]: the target's place in the last list before it was lost at this stage; inf at the first."""
        if stage == 0:
            return np.full(len(self), np.inf)
        return (self.channels.min(1), self.merged, self.ranked)[stage - 1]


class _Ratios:
    """Shares over targets with bootstrap intervals clustered by user, all from the same resamples.

    An anonymous request (user 0) is a cluster of its own.
    """

    def __init__(self, users: np.ndarray) -> None:
        alone = users == 0
        cluster = np.where(alone, users.max(initial=0) + np.cumsum(alone), users)
        self.users, self.codes = np.unique(cluster, return_inverse=True)
        self._numerators: list[np.ndarray] = []
        self._denominators: list[np.ndarray] = []

    def ask(self, values: np.ndarray, among: np.ndarray | None = None) -> int:
        """Ask for the mean of `values` [n] (among some rows); the answer is the interval of this index."""
        weights = np.ones(len(values)) if among is None else among.astype(np.float64)
        size = len(self.users)
        self._numerators.append(np.bincount(self.codes, values * weights, size))
        self._denominators.append(np.bincount(self.codes, weights, size))
        return len(self._numerators) - 1

    def answer(self, resamples: int, seed: int) -> list[Interval]:
        top, bottom = np.stack(self._numerators, 1), np.stack(self._denominators, 1)
        with np.errstate(invalid="ignore"):
            blocks = resample_users(len(self.users), resamples, seed)
            drawn = np.concatenate([(times @ top) / (times @ bottom) for times in blocks])
        # A slice of few users is absent from some resamples; those say nothing about it.
        low, high = np.nanquantile(drawn, (0.025, 0.975), axis=0)
        value = top.sum(0) / bottom.sum(0)
        return [Interval(float(v), float(a), float(b)) for v, a, b in zip(value, low, high, strict=True)]


def make_report(evidence: Evidence, provenance: Provenance, resamples: int, seed: int) -> FunnelReport:
    """The report; `resamples` and `seed` are the bootstrap's."""
    rows, k, names = evidence.rows, evidence.ks[0], evidence.channels
    ratios = _Ratios(rows.user)
    survived, lost_at = rows.survived(k), rows.lost_at(k)
    found = np.isfinite(rows.channels)
    exclusive = found & (found.sum(1, keepdims=True) == 1)
    kept_plainly = rows.merged <= rows.kept
    orders: list[tuple[str, Literal["channel", "stage"], np.ndarray]] = []
    orders.extend((name, "channel", rows.channels[:, c]) for c, name in enumerate(names))
    orders.extend((("merge", "stage", rows.merged), ("prerank", "stage", rows.preranked)))

    asked_stages = [(ratios.ask(survived[s]), ratios.ask(lost_at == s)) for s in range(len(STAGES))]
    asked_final = [(ratios.ask(hr_at(rows.ranked, at)), ratios.ask(ndcg_at(rows.ranked, at))) for at in evidence.ks]
    asked_channels = [(ratios.ask(found[:, c]), ratios.ask(exclusive[:, c])) for c in range(len(names))]
    asked_controls = []
    for _, _, places in orders:
        asked_controls.append(
            [
                ratios.ask(hr_at(places, k)),
                ratios.ask(ndcg_at(places, k)),
                ratios.ask(hr_at(rows.ranked, k) - hr_at(places, k)),
            ]
        )
    asked_truncation = [ratios.ask(v) for v in (survived[2], kept_plainly, survived[2] * 1.0 - kept_plainly)]
    fused, alone = survived[2], np.isfinite(rows.unfused)
    asked_fusion = [ratios.ask(v) for v in (alone, fused * 1.0 - alone, fused & ~alone, alone & ~fused)]
    asked_slices = [(group, name, among, ratios.ask(survived[3], among)) for group, name, among in _slices(evidence)]
    answers = ratios.answer(resamples, seed)

    misses = max(int((lost_at < len(STAGES)).sum()), 1)
    stages = tuple(
        StageReport(
            stage=stage,
            size=float(k if stage == "rank" else evidence.sizes[s]),
            survived=answers[asked_stages[s][0]],
            lost=int((lost_at == s).sum()),
            lost_share=answers[asked_stages[s][1]],
            miss_share=float((lost_at == s).sum() / misses),
        )
        for s, stage in enumerate(STAGES)
    )
    longest = max(k, math.ceil(evidence.sizes[1:].max()))
    curve_ks = tuple(sorted({c for c in CURVE_KS if c <= longest} | {k, longest}))
    curves = [("funnel", "funnel", rows.ranked), *orders[::-1]]
    return FunnelReport(
        provenance=provenance,
        num_targets=len(rows),
        num_users=len(ratios.users),
        num_items=len(evidence.item_counts) - 1,
        k=k,
        final=tuple(
            AtK(k=at, hr=answers[a], ndcg=answers[b]) for at, (a, b) in zip(evidence.ks, asked_final, strict=True)
        ),
        stages=stages,
        channels=tuple(
            _channel(name, float(evidence.sizes[3 + c]), rows.channels[:, c], answers[a], answers[b])
            for c, (name, (a, b)) in enumerate(zip(names, asked_channels, strict=True))
        ),
        overlap=tuple(tuple(float(v) for v in row) for row in evidence.overlap),
        combinations=_combinations(names, found, survived[0]),
        controls=tuple(
            Control(
                name=name,
                kind=kind,
                hr=answers[asked[0]],
                ndcg=answers[asked[1]],
                hr_gain=answers[asked[2]],
            )
            for (name, kind, _), asked in zip(orders, asked_controls, strict=True)
        ),
        truncation=Truncation(
            size=float(rows.kept.mean()),
            prerank=answers[asked_truncation[0]],
            plain=answers[asked_truncation[1]],
            gain=answers[asked_truncation[2]],
        ),
        fusion=FusionReport(
            alone=answers[asked_fusion[0]],
            gain=answers[asked_fusion[1]],
            only_fused=answers[asked_fusion[2]],
            only_alone=answers[asked_fusion[3]],
        )
        if evidence.fused
        else None,
        ceilings=_ceilings(rows, k, evidence.rescued),
        curve_ks=curve_ks,
        curves=tuple(
            Curve(name=name, kind=kind, hr=tuple(float(hr_at(places, at).mean()) for at in curve_ks))
            for name, kind, places in curves
        ),
        latency=_latency(evidence.batches),
        batch_size=max(size for _, size in evidence.batches),
        slices=tuple(
            Slice(
                group=group,
                name=name,
                count=int(among.sum()),
                retrieved=float(survived[0][among].mean()),
                merged=float(survived[1][among].mean()),
                preranked=float(survived[2][among].mean()),
                hit=answers[asked],
            )
            for group, name, among, asked in asked_slices
        ),
    )


def _channel(name: str, size: float, places: np.ndarray, found: Interval, alone: Interval) -> ChannelReport:
    there = places[np.isfinite(places)]
    return ChannelReport(
        name=name,
        size=size,
        found=found,
        exclusive=alone,
        median_place=float(np.median(there)) if len(there) else 0.0,
        places=tuple(int(c) for c in np.histogram(there, (*PLACE_BINS, np.inf))[0]),
    )


def _combinations(names: tuple[str, ...], found: np.ndarray, retrieved: np.ndarray) -> tuple[Combination, ...]:
    counts = Counter(map(tuple, found[retrieved].tolist()))
    ordered = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    return tuple(
        Combination(
            channels=tuple(name for name, there in zip(names, pattern, strict=True) if there),
            count=count,
            share=count / len(found),
        )
        for pattern, count in ordered
    )


def _ceilings(rows: Targets, k: int, rescued: bool) -> tuple[Ceiling, ...]:
    reached = [1.0, *(float(s.mean()) for s in rows.survived(k))]
    hit = reached[-1]
    ceilings = []
    for s, stage in enumerate(STAGES):
        given, passed = reached[s], reached[s + 1]
        saved = hit + given - passed
        verdict = None
        if stage == "rank":
            verdict = saved
        elif stage == "prerank" and rescued:
            verdict = float((np.minimum(rows.ranked, rows.rescued) <= k).mean())
        # The share of those that come through today, applied to all that were given.
        projected = saved if stage == "rank" else given * hit / passed if passed else 0.0
        ceilings.append(Ceiling(stage=stage, projected=projected, bound=saved, measured=verdict))
    return tuple(ceilings)


def _latency(batches: list[tuple[Mapping[str, float], int]]) -> tuple[Latency, ...]:
    stages = list(batches[0][0])
    seconds = np.array([[took[stage] for stage in stages] for took, _ in batches])
    seconds = np.concatenate([seconds, seconds.sum(1, keepdims=True)], 1)
    size = np.array([size for _, size in batches])
    each = np.repeat(seconds / size[:, None], size, axis=0)
    of_requests, of_batches = (1000 * np.quantile(values, (0.5, 0.95), axis=0) for values in (each, seconds))
    share = seconds.sum(0) / max(seconds[:, -1].sum(), 1e-12)
    return tuple(
        Latency(
            stage=stage,
            request_p50_ms=float(of_requests[0, s]),
            request_p95_ms=float(of_requests[1, s]),
            batch_p50_ms=float(of_batches[0, s]),
            batch_p95_ms=float(of_batches[1, s]),
            share=float(share[s]),
        )
        for s, stage in enumerate([*stages, "total"])
    )


def _slices(evidence: Evidence) -> list[tuple[str, str, np.ndarray]]:
    """Group, name and members of every slice that has any."""
    rows = evidence.rows
    slices = [("target item", n, items[rows.target]) for n, items in popularity_slices(evidence.item_counts).items()]
    slices += [("history length", name, among) for name, among in history_slices(rows.length).items()]
    if evidence.user_counts is not None:
        trained = (evidence.user_counts[rows.user] > 0) & (rows.user > 0)
        slices += [("user", "in training", trained), ("user", "new since training", ~trained)]
    if rows.repeated.any():
        slices += [("item and user", REPEATED, rows.repeated), ("item and user", "new to the user", ~rows.repeated)]
    return [entry for entry in slices if entry[2].any()]
