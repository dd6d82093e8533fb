"""One funnel of the four papers, each part of it taken away in turn, and funnels without them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow.parquet as pq

from penchant.baselines.ranking.parts import RankerConfig
from penchant.data.output import alone, whole
from penchant.data.split import Split, load_split
from penchant.data.store import Store, fingerprint
from penchant.errors import RunError
from penchant.evaluation.funnel.report import FunnelReport, points
from penchant.evaluation.results import Result, versions_here, write_result
from penchant.funnel.pipeline import Funnel
from penchant.recipes.controls import item_knn, popularity, sasrec
from penchant.recipes.funnel.plan import Channel, FunnelRun, funnel, funnel_of, seeded, settled
from penchant.recipes.funnel.run import PER_USER, judge_funnel, open_channels, run_funnel
from penchant.recipes.karma.run import karma_decoded
from penchant.recipes.rows import FunnelRow, choose_rate
from penchant.recipes.runs import Run, flat, train_run
from penchant.recipes.t2diff.causal import t2diff_causal
from penchant.recipes.ulim.run import ulim
from penchant.training.loop import FitResult

DATA = ("ml-1m-liked", "bazaar-small-pictures")
SPLIT, LATER = "funnel", "temporal-successive"
"""They judge the same clicks; what rankers learn from is in the train window of the latter."""
TUNED, RATES = ("sasrec", "ulim", "t2diff"), (1.0, 2.0, 4.0)
"""Channels whose learning rate is chosen on validation, of so many times the recipe's; KARMA takes too long."""
TARGETS = 5000
"""Clicks of the test window judged, drawn by the seed."""
HISTORY = 2000
"""Actions of a history that reach the channels: what ULIM reads."""
RANK_TARGETS, VALID_TARGETS = 10_000, 1_500
"""Clicks that pre-ranker and ranker learn from, and are chosen on, in every row: a third of the default, and half."""
CUT = "Cut and gone on with: the seconds are the channels' and those after the last cut."


def of_four() -> FunnelRun:
    """KARMA, ULIM, T2Diff and popularity; KARMA fused with the pre-ranker and a feature of DMAE, which ranks. T2Diff is
    of the form that validation chose (`t2diff-past`)."""
    return _with_karma({"karma": _karma(), "ulim": ulim(), "t2diff": t2diff_causal(), "popularity": popularity()})


def _karma() -> Run:
    run = karma_decoded()
    return replace(run, train=replace(run.train, epochs=2.0, tensorboard=False))


def _with_karma(channels: Mapping[str, Run]) -> FunnelRun:
    run = _read_far(funnel_of(channels))
    return replace(run, fuse="karma", features_from="karma", rank_kind="dmae")


def _read_far(run: FunnelRun) -> FunnelRun:
    settings = replace(run.settings, max_history=HISTORY)
    return replace(run, settings=settings, rank_targets=RANK_TARGETS, valid_targets=VALID_TARGETS)


def _with_session(run: FunnelRun) -> FunnelRun:
    """Work on the stage that loses most: pre-ranker and ranker read what the session is about, and a smaller ranker
    learns more slowly, as the usual one soon knows its clicks by heart."""
    rank = RankerConfig(width=8, hidden=64, hidden_second=32, embedding_dropout=0.5)
    slower = replace(run.rank_train, optim=replace(run.rank_train.optim, lr=3e-4))
    return replace(run, session_minutes=30.0, rank=rank, rank_train=slower)


def _without(run: FunnelRun, name: str) -> FunnelRun:
    """The same without a channel, and without what it is used for elsewhere."""
    channels = tuple(c for c in run.channels if c.name != name)
    settings = replace(run.settings, channels=tuple(c for c in run.settings.channels if c.name != name))
    uses = {use: None if getattr(run, use) == name else getattr(run, use) for use in ("fuse", "features_from")}
    return replace(run, channels=channels, settings=settings, **uses)


def alone_of(name: str, run: Run) -> FunnelRun:
    """A funnel of one channel, which nothing stands in for where there is no history."""
    made = _read_far(funnel_of({name: run, "popularity": popularity()}))
    settings = replace(made.settings, channels=made.settings.channels[:1], fallback=name)
    return replace(made, channels=made.channels[:1], settings=settings)


def rows() -> tuple[FunnelRow, ...]:
    """The four together; each taken away, popularity excepted, which answers where there is no history; the same beside
    SASRec and item-kNN; the default funnel, with its own ranker and with DMAE; and learned channels alone, of which
    the validation window says which is best. Those that do not take long also with what the rankers learn from."""
    whole = of_four()
    plain = _read_far(funnel())
    channels = {c.name: c.run for c in whole.channels}
    runs = {
        "four": whole,
        **{f"wo-{name}": _without(whole, name) for name in ("karma", "ulim", "t2diff")},
        "wo-fusion": replace(whole, fuse=None),
        "wo-feature": replace(whole, features_from=None),
        "wo-dmae": replace(whole, rank_kind="din"),
        "four-session": _with_session(whole),
        "four-sasrec-knn": _with_karma({"sasrec": sasrec(), "item_knn": item_knn(), **channels}),
        "default": replace(plain, rank_kind="din"),
        "default-dmae": replace(plain, rank_kind="dmae"),
    }
    single = {"sasrec": sasrec(), **{name: run for name, run in channels.items() if name != "popularity"}}
    later = {name: run for name, run in single.items() if name in TUNED}
    return tuple(
        row
        for data in DATA
        for row in (
            *(
                FunnelRow(name=name, run=run, data=data, minutes=40.0 if name == "four" else 6.0)
                for name, run in runs.items()
            ),
            *(
                FunnelRow(name=f"{name}-alone", run=alone_of(name, run), data=data, minutes=2.0, alone=True)
                for name, run in single.items()
            ),
            *(
                FunnelRow(
                    name=f"{name}-alone-later", run=alone_of(name, run), data=data, minutes=8.0, alone=True, later=True
                )
                for name, run in later.items()
            ),
        )
    )


def run_funnel_row(row: FunnelRow, seed: int, store: Store, split: Split, folder: Path, results: Path) -> Result:
    """Train (or go on training) one funnel, judge it, write its result file.

    A channel that several rows have is trained once, beside their folders.

    Args:
        folder: of this row and seed.

    Raises:
        RunError: another process is at work on this row, or on a channel of it.
    """
    run = seeded(settled(replace(row.run, seed=seed), store, split))
    learned = _later(store, split) if row.later else split
    cut = folder.is_dir()
    with alone(folder, RunError):
        run, tried, trials = _at_best_rates(run, store, learned, folder)
        spent = [_channel(c.name, c.run, store, learned, folder) for c in run.channels]
        # Channels cost what they cost, whichever row trained them.
        wall = time.perf_counter() - sum(fit.wall_seconds for fit in spent)
        cpu = time.process_time() - sum(fit.cpu_seconds for fit in spent)
        if row.alone:
            report, chosen = _judge_alone(run, store, split, folder)
        else:
            report, chosen = run_funnel(run, store, split, folder, limit=TARGETS).report, {}
        result = Result(
            paper="funnel",
            table="four",
            row=row.name,
            data=row.data,
            split=split.name,
            seed=seed,
            window="test",
            config=asdict(run),
            data_fingerprint=store.fingerprint,
            split_fingerprint=split.fingerprint,
            versions=versions_here(),
            device="cpu",
            cpu_seconds=time.process_time() - cpu,
            wall_seconds=time.perf_counter() - wall,
            steps=sum(fit.steps for fit in spent),  # the channels'
            trials=trials,
            metrics=metrics_of(report) | chosen,
            slices=slices_of(report),
            notes=(*(() if row.alone else said_by(report)), *tried, *((CUT,) if cut else ())),
            synthetic=bool(store.manifest.get("synthetic", False)),
        )
        write_result(results, result, pq.read_table(folder / PER_USER))
    return result


def _judge_alone(run: FunnelRun, store: Store, split: Split, folder: Path) -> tuple[FunnelReport, dict[str, float]]:
    """One channel's own lists on the test window, and what they reach on the window that chooses among channels."""
    funnel, settings = Funnel(open_channels(run, folder), None, None, run.settings), flat(asdict(run))
    reports: dict[str, FunnelReport] = {}
    for window in ("valid", "test"):
        out = folder / window
        out.mkdir(parents=True, exist_ok=True)
        reports[window] = judge_funnel(
            funnel, store, split, out, config=settings, seed=run.seed, limit=TARGETS, window=window
        )
    shutil.copy(folder / "test" / PER_USER, folder / PER_USER)
    return reports["test"], {f"HR@{at.k}, valid": at.hr.value for at in reports["valid"].final}


def _later(store: Store, split: Split) -> Split:
    """The split whose train window is all that is before the funnel's validation.

    Raises:
        StoreError: the Store has none.
    """
    later = load_split(store, LATER)
    assert later.cut_ms("valid") == split.cut_ms("valid")
    assert later.cut_ms("test") == split.cut_ms("test")
    return later


def _at_best_rates(run: FunnelRun, store: Store, split: Split, folder: Path) -> tuple[FunnelRun, tuple[str, ...], int]:
    """The funnel with channels of `TUNED` at their best learning rates, what was tried, and how many were at most."""
    channels, notes, trials = list[Channel](), list[str](), 1
    for channel in run.channels:
        if channel.name in TUNED:
            tries = _shared(channel.name, channel.run, store, split, folder)
            chosen = choose_rate(channel.run, RATES, store, split, tries)
            channel = replace(channel, run=chosen.run)
            notes += [f"{channel.name}: {note}" for note in chosen.notes]
            trials = max(trials, chosen.trials)
        channels.append(channel)
    return replace(run, channels=tuple(channels)), tuple(notes), trials


def _shared(name: str, run: Run, store: Store, split: Split, folder: Path) -> Path:
    """Where all rows find a channel."""
    needs = {"run": asdict(run), "store": store.fingerprint, "split": split.fingerprint}
    return folder.parent / "channels" / f"{name}-{fingerprint(needs)}"


def _channel(name: str, run: Run, store: Store, split: Split, folder: Path) -> FitResult:
    """Train a channel where all rows can find it, and lay it where this row's funnel looks for it."""
    shared = _shared(name, run, store, split, folder)
    result = train_run(run, store, split, shared)
    own = folder / "channels" / name
    if not own.is_dir():
        own.parent.mkdir(parents=True, exist_ok=True)
        with whole(own) as temporary:
            shutil.copytree(shared, temporary, ignore=shutil.ignore_patterns("tensorboard", "lock"))
    return result


def metrics_of(report: FunnelReport) -> dict[str, float | None]:
    """What tables show of a report: the final list, what each stage still had, the best channel alone, the time."""
    out: dict[str, float | None] = {}
    for at in report.final:
        out |= {f"HR@{at.k}": at.hr.value, f"NDCG@{at.k}": at.ndcg.value}
    out |= {
        "Retrieved": report.stage("retrieve").survived.value,
        "Merged": report.stage("merge").survived.value,
        "Pre-ranked": report.stage("prerank").survived.value,
    }
    alone_of = {control.name: control.hr.value for control in report.controls if control.kind == "channel"}
    out[f"HR@{report.k}, best channel alone"] = max(alone_of.values())
    out["ms a request"] = next(t.request_p50_ms for t in report.latency if t.stage == "total")
    return out


def slices_of(report: FunnelReport) -> dict[str, dict[str, dict[str, float]]]:
    """HR of the final list by slice, under the names that other results have."""
    known = {"target item": "item", "history length": "history"}
    out: dict[str, dict[str, dict[str, float]]] = {}
    for part in report.slices:
        values = {"targets": part.count, f"HR@{report.k}": part.hit.value, "Retrieved": part.retrieved}
        out.setdefault(known.get(part.group, part.group), {})[part.name] = values
    return out


def said_by(report: FunnelReport) -> tuple[str, ...]:
    """What the numbers do not say: gains over each simpler order, and which stage has most to give."""
    gains = (f"{c.name} {points(c.hr_gain)}" for c in report.controls)
    best = max(report.ceilings, key=lambda ceiling: ceiling.projected)
    return (
        f"HR@{report.k} less that of a channel alone, or of stopping after a stage: {'; '.join(gains)}.",
        f"Most to win: {best.stage}, whose losses cost up to {best.projected - report.final[0].hr.value:.3f} of HR.",
    )
