"""The three places of an embedding model in a funnel, each with and without it: KARMA, section 3.5.

recall        HR of the channel alone at a share of the catalogue
pre-ranking   targets among the M' items that reach the ranker: merged order, pre-ranker alone, fused
ranking       AUC of a ranker on impressions, without the similarities among its features and with them
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from penchant.data.store import read_json, write_json
from penchant.errors import ConfigError, RunError
from penchant.evaluation.funnel.report import FunnelReport, Interval, points
from penchant.evaluation.pages import percent
from penchant.evaluation.protocol import evaluate_retrieval
from penchant.recipes.judge import judge_run
from penchant.recipes.runs import AGAIN, RUN, LoadedRun, flat, load_run

RECALL_SHARE = 0.05
"""Deviates: the paper's HR@5000 is of a catalogue whose size it does not tell. This is HR at so large a share of it."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """What one embedding model is worth in each place, on the test window.

    Attributes:
        recall_k: list length, `recall_share` of the catalogue's `num_items`.
        recall_hr: among the whole catalogue, what was seen included, even if the funnel leaves that out.
        size: mean M', items that reach the ranker.
        merged, alone, fused: share of the targets among them by the merged order, by the pre-ranker alone, and fused.
        fused_gain: fused less alone.
        auc_plain, auc_similar: without and with similarities among the ranker's features.
    """

    channel: str
    num_items: int
    recall_share: float
    recall_k: int
    recall_hr: float
    size: float
    merged: Interval
    alone: Interval
    fused: Interval
    fused_gain: Interval
    auc_plain: float
    auc_similar: float


def measure_places(
    funnel: Path, plain: Path, similar: Path, *, share: float = RECALL_SHARE, store: Path | None = None
) -> Places:
    """The numbers of a judged funnel and of two ranking runs on its split; also written to `funnel`/places.json.

    Args:
        funnel: folder of a funnel that was trained with `fuse`, and judged.
        plain, similar: folders of two ranking runs, alike but for `features_from`, which `plain` does not have.
        share: of the catalogue, the length of the recalled list.
        store: where the Store is, if not where the runs found it.

    Raises:
        ConfigError: `share` is no share.
        RunError: a run is missing or unfinished, nothing is fused, or the runs differ in more than the features.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"share is {share}", fix="Give a share of the catalogue above 0, at most 1.")
    report, channel, fingerprint = _judged(funnel)
    source = load_run(funnel / "channels" / channel, store, "cpu")
    rankers = {folder: load_run(folder, store, "cpu") for folder in (plain, similar)}
    _check_alike(rankers, fingerprint)
    auc_plain, auc_similar = (judge_run(loaded, folder).metrics()["AUC"] for folder, loaded in rankers.items())
    k = max(1, round(share * source.store.num_items))
    max_len = source.model.config.max_len
    recalled = evaluate_retrieval(source.model, source.store, source.split, ks=(k,), max_len=max_len)
    assert report.fusion is not None
    places = Places(
        channel=channel,
        num_items=source.store.num_items,
        recall_share=share,
        recall_k=k,
        recall_hr=recalled.metrics()[f"HR@{k}"],
        size=report.truncation.size,
        merged=report.truncation.plain,
        alone=report.fusion.alone,
        fused=report.truncation.prerank,
        fused_gain=report.fusion.gain,
        auc_plain=auc_plain,
        auc_similar=auc_similar,
    )
    write_json(funnel / "places.json", asdict(places))
    return places


def places_table(places: Places) -> Table:
    """The numbers for a terminal."""
    table = Table("place", "metric", "without", "with", "gain", title=f"{places.channel} in the funnel", box=None)
    recall = f"HR@{places.recall_k:,} ({percent(places.recall_share)} of {places.num_items:,} items), the channel alone"
    table.add_row("recall", recall, "", percent(places.recall_hr), "")
    fused = f"targets among the first {places.size:.0f}; {percent(places.merged.value)} in merged order"
    gain = f"{points(places.fused_gain)} points"
    table.add_row("pre-ranking", fused, percent(places.alone.value), percent(places.fused.value), gain)
    gain = f"{100 * (places.auc_similar - places.auc_plain):+.2f} points"
    table.add_row("ranking", "AUC on impressions", f"{places.auc_plain:.4f}", f"{places.auc_similar:.4f}", gain)
    return table


def _judged(funnel: Path) -> tuple[FunnelReport, str, str]:
    """Report, fused channel and the split's fingerprint of a funnel."""
    if not (funnel / "report.json").is_file():
        raise RunError("no judged funnel here", where=funnel, fix="Train one with `penchant funnel`.")
    report = FunnelReport.from_json((funnel / "report.json").read_text())
    channel = read_json(funnel / RUN, AGAIN, RunError)["config"]["fuse"]
    if report.fusion is None or channel is None:
        raise RunError("nothing is fused in this funnel", where=funnel, fix="Train one with `fuse`.")
    return report, channel, report.provenance.split_fingerprint


def _check_alike(rankers: dict[Path, LoadedRun], fingerprint: str) -> None:
    """Refuse two rankers whose difference says something else than what the similarities are worth."""
    for folder, loaded in rankers.items():
        if loaded.described["run"] != "RankingRun" or loaded.split.fingerprint != fingerprint:
            raise RunError("no ranking run on the funnel's split", where=folder, fix="Train it with --split funnel.")
    (plain, similar), (ours, theirs) = rankers, (flat(loaded.described["config"]) for loaded in rankers.values())
    differ = sorted(key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key))
    if differ != ["features_from"] or ours.get("features_from") is not None:
        what = f"differs from {plain} in {', '.join(differ) or 'nothing'}"
        fix = "Compare two runs of which only this one has features_from, and which are alike in all else."
        raise RunError(what, where=similar, fix=fix)
