"""Splits: which events train, which choose, which judge. One object a run; no stage builds its own.

Every user's events, in order, fall into consecutive windows (`train`, then `rank` in the funnel's split, `valid`,
`test`), so a split is where each window ends for each user. A target's history is everything that user did before it.

| name                | windows               | rule                                                                |
|---------------------|-----------------------|---------------------------------------------------------------------|
| temporal-successive | train valid test      | global cuts at the 0.8 and 0.9 quantile of time; every event judged |
| temporal-last       | train valid test      | the same cuts, each user's last event of a window judged            |
| loo                 | train valid test      | each user's last event is test, the one before it valid             |
| funnel              | train rank valid test | cuts at 0.7, 0.8, 0.9: channels before, rankers on the second       |
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from penchant.data.output import whole
from penchant.data.store import Store, fingerprint, read_json, write_json
from penchant.errors import ConfigError, StoreError

RULES: dict[str, dict[str, Any]] = {
    "temporal-successive": {
        "windows": ("train", "valid", "test"),
        "quantiles": (0.8, 0.9),
        "target": "successive",
    },
    "temporal-last": {"windows": ("train", "valid", "test"), "quantiles": (0.8, 0.9), "target": "last"},
    "loo": {"windows": ("train", "valid", "test"), "quantiles": None, "target": "last"},
    "funnel": {
        "windows": ("train", "rank", "valid", "test"),
        "quantiles": (0.7, 0.8, 0.9),
        "target": "successive",
    },
}

RANGES = 1 << 20
"""Ranges of time that `nearest_quantiles` counts in."""


@dataclass(frozen=True)
class Split:
    """Where each user's windows end.

    Attributes:
        windows: names, in order of time.
        target: "successive" (every event of a judged window) or "last" (each user's last one in it).
        cuts_ms: start of each window after the first, for all users; None where it is by order (loo, a user's own).
        ends: int64 [U+1, W]; rows ends[u, w-1]:ends[u, w] of the Store's events are user u's events of window w.
        fingerprint: of the Store, the rule and the cuts.
    """

    name: str
    windows: tuple[str, ...]
    target: str
    cuts_ms: tuple[int, ...] | None
    ends: np.ndarray = field(repr=False)
    user_indptr: np.ndarray = field(repr=False)
    fingerprint: str

    def starts(self, window: str) -> np.ndarray:
        """int64 [U+1]: where each user's events of `window` start."""
        w = self._window(window)
        return self.user_indptr[:-1] if w == 0 else self.ends[:, w - 1]

    def stops(self, window: str) -> np.ndarray:
        """int64 [U+1]: where each user's events of `window` stop."""
        return self.ends[:, self._window(window)]

    def events(self, window: str) -> np.ndarray:
        """Every event row of `window`, in the Store's order."""
        return _ranges(self.starts(window), self.stops(window))

    def targets(self, window: str) -> np.ndarray:
        """Event rows to judge in `window`: of users with at least one event before it; all of theirs, or the last."""
        starts, stops = self.starts(window), self.stops(window)
        known = (starts > self.user_indptr[:-1]) & (stops > starts)
        if self.target == "last":
            return stops[known] - 1
        return _ranges(starts[known], stops[known])

    def cold_users(self, window: str) -> int:
        """Users whose first event falls into `window`; they are no targets, only counted."""
        starts, stops = self.starts(window), self.stops(window)
        return int(((starts == self.user_indptr[:-1]) & (stops > starts)).sum())

    def cut_ms(self, window: str) -> int:
        """The time at which `window` starts.

        Raises:
            StoreError: this split has no global cuts.
        """
        if self.cuts_ms is None:
            raise StoreError(
                f"split {self.name!r} cuts by order, not by time, and impressions need a time",
                fix="Use --split temporal-successive or funnel.",
            )
        return self.cuts_ms[self._window(window) - 1] if self._window(window) else -(2**62)

    def requests(self, store: Store, window: str) -> np.ndarray:
        """Requests (rows 1..R of the Store's impressions) shown inside `window`'s time."""
        w = self._window(window)
        low = self.cut_ms(window)
        high = self.cuts_ms[w] if self.cuts_ms and w < len(self.cuts_ms) else 2**62
        times = store.request_ts_ms
        return 1 + np.flatnonzero((times[1:] >= low) & (times[1:] < high))

    def with_valid_in_train(self) -> Split:
        """The same split once nothing is left to be chosen: the valid window's events are train's, and it is empty.

        Raises:
            ConfigError: other stages learn from windows of this split, and would be fed by what has seen them.
        """
        if self.windows != ("train", "valid", "test"):
            what = f"split {self.name!r} has windows {', '.join(self.windows)}: models that feed others stay with train"
            raise ConfigError(what, fix="Set refit to False, or choose a split of train, valid and test.")
        ends = self.ends.copy()
        ends[:, 0] = ends[:, 1]
        cuts = None if self.cuts_ms is None else (self.cuts_ms[1], self.cuts_ms[1])
        return replace(self, ends=ends, cuts_ms=cuts)

    def item_counts(self, store: Store, window: str = "train") -> np.ndarray:
        """int64 [I+1]: how often each item occurs in `window`: the only statistic a model of that window may see."""
        return np.bincount(store.event_item[self.events(window)], minlength=store.num_items + 1)

    def _window(self, window: str) -> int:
        if window not in self.windows:
            what = f"split {self.name!r} has no window {window!r}, it has {', '.join(self.windows)}"
            raise StoreError(what, fix="Choose one of these, or a split that has it.")
        return self.windows.index(window)


def _ranges(starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """Concatenation of arange(start, stop) for each pair."""
    lengths = stops - starts
    offsets = np.repeat(starts - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
    return np.arange(lengths.sum(), dtype=np.int64) + offsets


def define_splits(store: Store) -> None:
    """Write the definitions that this Store's data allow to `splits/`."""
    (store.path / "splits").mkdir(exist_ok=True)
    wanted = sorted({q for rule in RULES.values() for q in rule["quantiles"] or ()})
    since = store.manifest.get("dated_from_ms")
    # The nearest event's own time, so that a cut is one of the log's and not between two.
    cuts_at = nearest_quantiles(store.event_ts_ms, wanted, since) if store.has_time else []
    cut_at = dict(zip(wanted, cuts_at, strict=False))
    for name, rule in RULES.items():
        if rule["quantiles"] is not None and not cut_at:
            continue
        cuts = None if rule["quantiles"] is None else [cut_at[q] for q in rule["quantiles"]]
        _write_definition(store, name, {"windows": list(rule["windows"]), "target": rule["target"], "cuts_ms": cuts})


def nearest_quantiles(
    values: np.ndarray, quantiles: Sequence[float], since: int | None = None, block: int = 1 << 22
) -> list[int]:
    """`np.quantile(values, quantiles, method="nearest")` of int64 [N] that may be mapped: a block at a time.

    One pass counts the values in a million ranges, a second one gathers the few ranges that hold a quantile.

    Args:
        since: smaller values are left out.
    Returns: as many as quantiles; none if there are no values.
    """

    def blocks() -> Iterator[np.ndarray]:
        for i in range(0, len(values), block):
            part = values[i : i + block]
            part = part if since is None else part[part >= since]
            if len(part):
                yield part

    ends = [(int(b.min()), int(b.max()), len(b)) for b in blocks()]
    if not ends:
        return []
    low, high = min(e[0] for e in ends), max(e[1] for e in ends)
    size = (high - low) // RANGES + 1
    counts = np.zeros(RANGES, dtype=np.int64)
    for b in blocks():
        counts += np.bincount((b - low) // size, minlength=RANGES)
    upto = np.cumsum(counts)
    ranks = [round(q * (sum(e[2] for e in ends) - 1)) for q in quantiles]
    holding = [int(np.searchsorted(upto, rank, side="right")) for rank in ranks]
    inside: dict[int, list[np.ndarray]] = {r: [] for r in holding}
    for b in blocks():
        of = (b - low) // size
        for r, parts in inside.items():
            parts.append(b[of == r])
    return [
        int(np.sort(np.concatenate(inside[r]))[rank - upto[r] + counts[r]])
        for rank, r in zip(ranks, holding, strict=True)
    ]


def _write_definition(store: Store, name: str, definition: dict[str, Any]) -> None:
    stated = {"name": name, **definition, "fingerprint": _mark(store, definition)}
    write_json(store.path / "splits" / f"{name}.json", stated)


def _mark(store: Store, definition: dict[str, Any]) -> str:
    return fingerprint({"store": store.fingerprint, **definition})


def add_split(store: Store, name: str, windows: tuple[str, ...], ends: np.ndarray, target: str = "successive") -> Split:
    """Add a split of one's own, given where each user's windows end (see `Split.ends`).

    One that is there already, equal in all, is left as it is; another of that name is replaced.

    Raises:
        StoreError: the name is that of a split by rule, or a window ends before it starts.
    """
    if name in RULES:
        raise StoreError(
            f"{name!r} is the name of a split that every Store has by rule",
            where=store.path,
            fix=f"Rename the split's file, for example my-{name}; its name is the split's.",
        )
    ends = np.ascontiguousarray(ends, dtype=np.int64)
    steps = np.diff(np.concatenate([store.user_indptr[:-1, None], ends], axis=1), axis=1)
    if (
        ends.shape != (store.num_users + 1, len(windows))
        or (steps < 0).any()
        or (ends[:, -1] > store.user_indptr[1:]).any()
    ):
        what = "a window ends before it starts, or outside its user's events"
        fix = "Give each window's end in each user's events, none before the window's before it."
        raise StoreError(what, where=f"split {name!r}", fix=fix)
    digest = hashlib.sha256(ends.tobytes()).hexdigest()
    definition = {"windows": list(windows), "target": target, "cuts_ms": None, "ends_sha256": digest}
    with suppress(StoreError, ValueError, KeyError):  # there is none yet, or a damaged one: it is written anew
        there = load_split(store, name)
        if there.fingerprint == _mark(store, definition):
            return there
    with whole(store.path / "splits" / f"{name}.npy") as temporary, temporary.open("wb") as file:
        np.save(file, ends)
    _write_definition(store, name, definition)
    return load_split(store, name)


def load_split(store: Store, name: str) -> Split:
    """The split of that name.

    Raises:
        StoreError: there is none, it was made for another Store, or is damaged.
    """
    path = store.path / "splits" / f"{name}.json"
    if not path.is_file():
        have = ", ".join(sorted(p.stem for p in path.parent.glob("*.json"))) or "none"
        why = "" if store.has_time or name not in RULES else " (this data has an order but no times)"
        raise StoreError(f"no split {name!r}{why}; there are: {have}", where=store.path, fix="Choose one with --split.")
    definition = read_json(path, "Prepare the Store again.")
    stated = {k: v for k, v in definition.items() if k not in ("name", "fingerprint")}
    if _mark(store, stated) != definition["fingerprint"]:
        raise StoreError("was made for another Store or was edited", where=path, fix="Prepare the Store again.")
    if definition.get("ends_sha256"):
        ends = _load_ends(path.with_suffix(".npy"), definition["ends_sha256"])
    elif definition["cuts_ms"] is None:
        ends = _loo_ends(store)
    else:
        ends = _temporal_ends(store, definition["cuts_ms"])
    return Split(
        name=name,
        windows=tuple(definition["windows"]),
        target=definition["target"],
        cuts_ms=None if definition["cuts_ms"] is None else tuple(definition["cuts_ms"]),
        ends=ends,
        user_indptr=store.user_indptr,
        fingerprint=definition["fingerprint"],
    )


def _load_ends(path: Path, digest: str) -> np.ndarray:
    fix = f"Give --split the file that {path.stem!r} was made from: the split is then written anew."
    try:
        ends = np.load(path)
    except (OSError, ValueError, EOFError) as error:  # gone, cut short, or no array
        raise StoreError(f"missing or damaged ({error})", where=path, fix=fix) from error
    if hashlib.sha256(ends.tobytes()).hexdigest() != digest:
        raise StoreError("its bytes are not those that were written", where=path, fix=fix)
    return ends


def _loo_ends(store: Store) -> np.ndarray:
    stop, length = store.user_indptr[1:], np.diff(store.user_indptr)
    held = np.where(length >= 3, 1, 0)  # a user with fewer than three events trains only
    return np.stack([stop - 2 * held, stop - held, stop], axis=1)


def _temporal_ends(store: Store, cuts_ms: list[int]) -> np.ndarray:
    def end(cut: int) -> np.ndarray:
        before = np.concatenate([[0], np.cumsum(store.event_ts_ms < cut)])
        return store.user_indptr[:-1] + before[store.user_indptr[1:]] - before[store.user_indptr[:-1]]

    return np.stack([*map(end, cuts_ms), store.user_indptr[1:]], axis=1)
