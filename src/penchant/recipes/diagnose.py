"""Collapse diagnostics of finished runs: their vectors, lists and attention, on one Store and split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress, TaskID

from penchant.data.history import requests_before_events
from penchant.data.store import Store
from penchant.errors import ConfigError, ModelUnavailableError, RunError, StoreError, at_least
from penchant.evaluation.diagnostics import content, vectors
from penchant.evaluation.diagnostics.attention import Reading
from penchant.evaluation.diagnostics.decoder import DecoderConfig, decodability, title_words
from penchant.evaluation.diagnostics.meaning import item_terms, js_at
from penchant.evaluation.diagnostics.report import WITHIN, Diagnosis, DiagnosticsReport
from penchant.evaluation.diagnostics.topics import topics
from penchant.evaluation.protocol import RetrievalResult, evaluate_retrieval
from penchant.evaluation.results import versions_here
from penchant.funnel.rank import judging
from penchant.papers.karma.items import ItemEncoder
from penchant.papers.karma.model import Karma
from penchant.papers.karma.pictures import PictureReader
from penchant.papers.karma.within import Within
from penchant.recipes.karma.build import item_texts
from penchant.recipes.karma.readings import attention_readings
from penchant.recipes.runs import LoadedRun, load_run

K = 50
"""Depth of the lists that hubs, meaning and hits are taken of."""
RARE = 5
"""Training events that a rare item has at most."""


@dataclass(frozen=True, kw_only=True)
class DiagnoseConfig:
    """How much is looked at."""

    targets: int = 4000
    """Judge a random subsample of so many targets of the window; 0 = all."""
    layers: tuple[int, ...] = ()
    """Layers whose attention is drawn, from 1; the first and the last if not given."""
    heads: tuple[int, ...] = (1,)
    """Heads whose attention is drawn, from 1. Numbers are of all layers and heads."""
    attention: bool = True
    """Read attention, of runs that have any."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    seed: int = 0
    """Draws targets, texts and histories."""

    def __post_init__(self) -> None:
        if self.targets < 0:
            raise ConfigError(f"targets is {self.targets}", fix="Give 1 or more, or 0 for all.")
        at_least(0, self, "seed")
        if min((*self.layers, *self.heads), default=1) < 1:
            raise ConfigError("layers and heads count from 1", fix="Give numbers of 1 or more.")


def diagnose(
    folders: Sequence[Path], config: DiagnoseConfig, console: Console, window: str = "test", store: Path | None = None
) -> DiagnosticsReport:
    """Diagnose finished runs of one Store and split.

    Args:
        console: shows progress.
        store: where the Store is now; where the runs say if None.

    Raises:
        RunError: a folder holds no finished run, a ranker, or a run of another Store or split than the first.
    """
    with Progress(console=console, transient=True) as progress:
        loaded: list[tuple[Path, LoadedRun]] = []
        for folder in folders:
            run = load_run(folder, store)
            _check(folder, run, loaded[0] if loaded else None)
            loaded.append((folder, run))
        known = loaded[0][1].store
        shared = _Shared.of(known, config.seed)
        names = _short_names(folders)
        columns, within = list[Diagnosis](), list[Diagnosis]()
        for name, (folder, run) in zip(names, loaded, strict=True):
            column, result = _diagnosed(name, folder, run, shared, config, window, progress)
            columns.append(column)
            if isinstance(run.model, Karma):
                within.append(_within(name, run.model, run.store, shared, result, config, progress))
    columns += within
    if shared.text is not None:
        columns.append(_of_text(shared))
    split = loaded[0][1].split
    return DiagnosticsReport(
        data=known.name,
        store_fingerprint=known.fingerprint,
        split=split.name,
        split_fingerprint=split.fingerprint,
        window=window,
        seed=config.seed,
        synthetic=bool(known.manifest.get("synthetic", False)),
        num_items=known.num_items,
        columns=tuple(columns),
        chance_purity=content.chance_purity(shared.categories),
        versions=versions_here(),
    )


@dataclass(frozen=True)
class _Shared:
    """What all runs are compared with.

    Attributes:
        text: the frozen text vectors, standardised, and which items have one; None where the Store has none.
        topics: of the items' texts, zeros of an item that shares no word with another.
    """

    store: Store
    titles: list[str]
    terms: np.ndarray
    categories: np.ndarray
    text: tuple[np.ndarray, np.ndarray] | None
    topics: np.ndarray

    @classmethod
    def of(cls, store: Store, seed: int) -> _Shared:
        titles = ["", *(title or "" for title in store.table("items", ["title"])["title"].to_pylist())]
        text = None
        if "text" in store.vector_names:
            frozen = store.vectors("text")
            text = frozen.standardised()[1:], np.asarray(frozen.present[1:])
        told = topics(item_texts(store), seed=seed)
        return cls(store, titles, item_terms(store), np.asarray(store.item_category[1:]), text, told)

    def about(self, items: np.ndarray) -> dict[str, float]:
        """How much of the topics is read off vectors of all items; nothing where no texts share a word."""
        some = self.topics.any(1)
        return {"topics": content.ridge_r2(items[some], self.topics[some])} if some.any() else {}


def _check(folder: Path, run: LoadedRun, first: tuple[Path, LoadedRun] | None) -> None:
    if run.described["run"] == "RankingRun":
        what = f"{run.described['config']['kind']} ranks what it is given and has no lists of the catalogue"
        raise RunError(what, where=folder, fix="Name retrieval runs, such as sasrec or karma.")
    if first is None:
        return
    for what in ("store", "split"):
        one, other = getattr(first[1], what), getattr(run, what)
        if one.fingerprint != other.fingerprint:
            said = f"is of {what} {other.name!r} ({other.fingerprint}), {first[0]} of {one.name!r} ({one.fingerprint})"
            raise RunError(said, where=folder, fix="Compare runs of one Store and one split.")


def _short_names(folders: Sequence[Path]) -> list[str]:
    """The folders' names, with their parents' where two are alike; a place in the list where even these are."""
    resolved = [folder.resolve() for folder in folders]
    names = [path.name for path in resolved]
    if len(set(names)) < len(names):
        names = [f"{path.parent.name}/{path.name}" for path in resolved]
    if len(set(names)) < len(names):
        names = [f"{name} ({place})" for place, name in enumerate(names, 1)]
    # A run's name often ends in data, split and seed, which all have in common.
    parts = [name.split(".") for name in names]
    while len(parts) > 1 and min(map(len, parts)) > 1 and len({part[-1] for part in parts}) == 1:
        parts = [part[:-1] for part in parts]
    return [".".join(part) for part in parts]


def _diagnosed(
    name: str,
    folder: Path,
    run: LoadedRun,
    shared: _Shared,
    config: DiagnoseConfig,
    window: str,
    progress: Progress,
) -> tuple[Diagnosis, RetrievalResult]:
    model: Any = run.model
    store, split, kind = run.store, run.split, run.described["config"]["kind"]
    task = progress.add_task(f"{name}: lists", total=None)
    max_len = getattr(model.config, "max_len", 50)
    made = vectors.with_items(model) if hasattr(model, "item_vectors") else None
    # A model of several vectors a user scores by itself: its lists are not those of any one of them.
    several = hasattr(model, "score_items")
    targets = config.targets or None
    result = evaluate_retrieval(
        model if made is None or several else made,
        store,
        split,
        window,
        ks=(K,),
        max_len=max_len,
        targets=targets,
        seed=config.seed,
    )
    numbers = _of_lists(result, store, shared)
    of_items = of_users = np.zeros(0)
    notes, readings, width = list(result.notes), (), 0
    if made is None:
        notes.append(f"{kind} has no vectors: numbers of its lists alone.")
    else:
        progress.update(task, description=f"{name}: vectors")
        items = made.item_vectors()[1:].float().cpu().numpy()
        width, of_items = items.shape[1], vectors.spectrum(items)
        numbers |= _of_items(items, of_items, shared.categories) | _of_content(items, shared)
        if hasattr(model, "user_vectors"):
            users = _user_vectors(made, store, result.events, max_len)
            of_users = vectors.spectrum(users)
            numbers |= _of_users(users, items[result.items - 1], of_users)
            numbers |= _told(name, users, result, shared, config.decoder, notes, progress, task)
            if several:
                notes.append(
                    f"{kind} searches with several vectors: those of users here are the first, lists are of all."
                )
        elif several:
            notes.append(f"{kind} has several vectors a user: numbers of its items and lists alone.")
    if config.attention and kind == "karma":
        progress.update(task, description=f"{name}: attention", total=None)
        try:
            readings = attention_readings(
                folder,
                run.described["config"],
                store,
                result.events,
                layers=config.layers,
                heads=config.heads,
                seed=config.seed,
            )
            notes += _not_drawn(model, readings, config)
        except (ModelUnavailableError, StoreError, RunError) as error:
            notes.append(f"no attention: {error}")
    progress.remove_task(task)
    told = Diagnosis(
        name=name,
        kind=kind,
        width=width,
        targets=len(result.events),
        numbers=numbers,
        item_spectrum=of_items,
        user_spectrum=of_users,
        occurrences=np.sort(vectors.occurrences(result.lists[:, :K], store.num_items))[::-1],
        readings=tuple(readings),
        notes=tuple(notes),
    )
    return told, result


def _not_drawn(model: Karma, readings: Sequence[Reading], config: DiagnoseConfig) -> list[str]:
    """What was asked for, or might be looked for, and is not there; and what all columns of a picture share."""
    notes = []
    if isinstance(model.items, ItemEncoder) and isinstance(model.items.trunk, PictureReader):
        notes.append("its item encoder reads pictures: how that attends is not shown.")
    for told in readings:
        if told.weights != "trained":
            continue
        first, last, heads = told.below + 1, told.below + len(told.heads), len(told.heads[0])
        without = [f"layer {layer}" for layer in config.layers if not first <= layer <= last]
        without += [f"head {head}" for head in config.heads if head > heads]
        if without:
            has = f"the {told.reader} has layers {first} to {last}, and heads 1 to {heads}"
            notes.append(f"no maps of {', '.join(without)}: {has}.")
        if told.below:
            notes.append(
                f"the {told.reader}'s layers below {first} were not trained: all columns have the pretrained ones."
            )
    return notes


def _within(
    name: str,
    model: Karma,
    store: Store,
    shared: _Shared,
    result: RetrievalResult,
    config: DiagnoseConfig,
    progress: Progress,
) -> Diagnosis:
    """The vectors that decoding reads: those that search are projected from them, and may hold less."""
    task = progress.add_task(f"{name}: within", total=None)
    notes = ["e_i and h_t that decoding reads; the vectors that search are projected from them."]
    made = vectors.with_items(Within(model))
    items = made.item_vectors()[1:].float().cpu().numpy()
    users = _user_vectors(made, store, result.events, model.config.max_len)
    of_items, of_users = vectors.spectrum(items), vectors.spectrum(users)
    numbers = _of_items(items, of_items, shared.categories) | _of_content(items, shared)
    of_both = _of_users(users, items[result.items - 1], of_users)
    numbers |= {key: value for key, value in of_both.items() if key != "alignment"}  # no score is made of them
    numbers |= _told(name, users, result, shared, config.decoder, notes, progress, task)
    progress.remove_task(task)
    return Diagnosis(
        name=f"{name}{WITHIN}",
        kind="",
        width=items.shape[1],
        targets=len(result.events),
        numbers=numbers,
        item_spectrum=of_items,
        user_spectrum=of_users,
        notes=tuple(notes),
    )


def _of_content(items: np.ndarray, shared: _Shared) -> dict[str, float]:
    """How much of the frozen text vectors, and of the texts' topics, is read off vectors of all items."""
    if shared.text is None:
        return shared.about(items)
    text, present = shared.text
    return {"ridge": content.ridge_r2(items[present], text[present])} | shared.about(items)


def _told(
    name: str,
    users: np.ndarray,
    result: RetrievalResult,
    shared: _Shared,
    config: DecoderConfig,
    notes: list[str],
    progress: Progress,
    task: TaskID,
) -> dict[str, float]:
    """What a fresh decoder tells of the next title by the users' vectors."""
    words = title_words(shared.titles, config)
    progress.update(task, description=f"{name}: fresh decoder", total=2 * config.steps, completed=0)
    advance: Callable[[], None] = lambda: progress.advance(task)  # noqa: E731
    found = decodability(users, result.items.astype(np.int64), result.users, words, config, advance)
    if found is None:
        notes.append("too few targets with a title for a fresh decoder.")
        return {}
    return {
        "told": found.own,
        "told_shuffled": found.shuffled,
        "told_unigram": found.unigram,
        "told_gain": found.shuffled - found.own,
    }


def _of_lists(result: RetrievalResult, store: Store, shared: _Shared) -> dict[str, float]:
    """Hubs, meaning and hits of lists of K."""
    lists = result.lists[:, :K]
    counts = vectors.occurrences(lists, store.num_items)
    js, others = js_at(lists, result.items, shared.terms)
    hits = result.values[f"HR@{K}"]
    rare = result.item_counts[result.items] <= RARE
    numbers = {
        "skew": vectors.skew(counts),
        "coverage": float((counts > 0).mean()),
        # Of a smaller catalogue every list is within them.
        **({"popular": vectors.within_popular(lists, result.item_counts)} if store.num_items > 100 else {}),
        "js": float(js.mean()),
        "js_others": float(others.mean()),
        "hr": float(hits.mean()),
        "rare_targets": float(rare.sum()),
    }
    return numbers | ({"hr_rare": float(hits[rare].mean())} if rare.any() else {})


def _of_items(items: np.ndarray, shares: np.ndarray, categories: np.ndarray) -> dict[str, float]:
    """How item vectors fill their space, and whether neighbours are alike."""
    return {
        "rank": vectors.effective_rank(shares),
        "rank_centred": vectors.effective_rank(vectors.spectrum(items - items.mean(0))),
        "rank_share": vectors.effective_rank(shares) / items.shape[1],
        "stable": vectors.stable_rank(shares),
        "top": float(shares[0]),
        "cosine": vectors.mean_cosine(items),
        "uniformity": vectors.uniformity(items),
        "purity": content.category_purity(items, categories),
    }


def _of_users(users: np.ndarray, targets: np.ndarray, shares: np.ndarray) -> dict[str, float]:
    some = (users != 0).any(1)
    return {
        "user_rank": vectors.effective_rank(shares),
        "user_cosine": vectors.mean_cosine(users[some]),
        "alignment": vectors.alignment(users[some], targets[some]),
    }


def _of_text(shared: _Shared) -> Diagnosis:
    """The frozen text vectors as a column: what the runs' item vectors may be compared with."""
    assert shared.text is not None
    whole, present = shared.text
    text = whole[present]
    shares = vectors.spectrum(text)
    return Diagnosis(
        name="frozen text vectors",
        kind="",
        width=text.shape[1],
        numbers=_of_items(text, shares, shared.categories[present]) | shared.about(whole),
        item_spectrum=shares,
    )


def _user_vectors(model: Any, store: Store, events: np.ndarray, max_len: int) -> np.ndarray:
    """h before each event; histories of like length are read together."""
    order = np.argsort(events - store.user_indptr[np.searchsorted(store.user_indptr, events, "right") - 1])
    out: np.ndarray | None = None
    with judging(model):
        for start in range(0, len(events), 256):
            rows = order[start : start + 256]
            requests = requests_before_events(store, events[rows], max_len)
            found = model.user_vectors(requests.to(model.made.device)).float().cpu().numpy()
            out = np.zeros((len(events), found.shape[1]), np.float32) if out is None else out
            out[rows] = found
    assert out is not None
    return out
