"""What a Store's events are like, and what each split does with them: one pass, some users at a time.

A pass holds a million events (more only where one user has more), so memory grows with users, items and targets, and
not with what is computed of the events.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from penchant.data.split import Split
from penchant.data.store import Store

ROWS = 1_000_000

SECOND, MINUTE, HOUR, DAY = 1000, 60_000, 3_600_000, 86_400_000

GAPS = (
    ("the same", 0),
    ("under 1 s", 1),
    ("1 s", SECOND),
    ("10 s", 10 * SECOND),
    ("1 min", MINUTE),
    ("10 min", 10 * MINUTE),
    ("1 h", HOUR),
    ("6 h", 6 * HOUR),
    ("1 day", DAY),
    ("1 week", 7 * DAY),
    ("1 month", 30 * DAY),
    ("6 months", 182 * DAY),
)
"""Bins of the time from a user's event to the next: name, from how many milliseconds on."""

RESOLUTIONS = (("day", DAY), ("hour", HOUR), ("minute", MINUTE), ("second", SECOND))

PERIODS = ("h", "D", "W", "M", "Y")
MAX_PERIODS = 120

EVEN_GAP, EVEN_WITHIN = MINUTE, SECOND
"""Three events are evenly spaced if both gaps are longer than the first and differ by no more than the second."""


@dataclass(frozen=True)
class Periods:
    """Events by period of time.

    Attributes:
        unit: a NumPy unit of time, one of PERIODS.
        starts_ms: int64 [P+1], where each starts; the last is the end.
        counts: int64 [P].
        first_ms, last_ms: the first and the last event.
    """

    unit: str
    starts_ms: np.ndarray
    counts: np.ndarray
    first_ms: int
    last_ms: int


@dataclass(frozen=True, kw_only=True)
class WindowNumbers:
    """One window of a split.

    Attributes:
        targets: events judged in it; 0 in the first window.
        cold_users: with no event before it; no targets.
        first_ms, last_ms: of its events; None where it has none, or the Store no times.
        late: targets whose history holds an event that is dated after them.
        tied: targets whose history holds an event of the very same time.
        requests: shown in its time; None where the split has no cuts or the Store no requests.
    """

    name: str
    events: int
    users: int
    items: int
    targets: int
    cold_users: int
    first_ms: int | None
    last_ms: int | None
    late: int
    tied: int
    requests: int | None


@dataclass(frozen=True, kw_only=True)
class SplitNumbers:
    """One split. "test" is its last window, "train" its first.

    Attributes:
        train_late: train events at or after the first test event.
        overtaken: test targets at or before the last train event.
        crossings: neighbouring events of a user that lie in different windows.
        tied_crossings: those of them with the very same time.
        cold_items: items of the test window without a train event.
        cold_targets: test targets that are such items.
        only_test_items: items whose every event is in the test window.
        repeats: test targets that their user's history holds already.
        late_requests: requests of the windows before test that are dated at or after the test cut; None as there.
    """

    name: str
    fingerprint: str
    target: str
    cuts_ms: tuple[int, ...] | None
    windows: tuple[WindowNumbers, ...]
    train_late: int
    overtaken: int
    crossings: int
    tied_crossings: int
    cold_items: int
    cold_targets: int
    only_test_items: int
    repeats: int
    late_requests: int | None


@dataclass(frozen=True, kw_only=True)
class EventNumbers:
    """All events.

    Attributes:
        lengths: int64 [U], events of each user.
        item_counts: int64 [I+1].
        query_counts: int64 [Q+1]; entry 0 are events without a query.
        periods: None where the Store has no times; so are `gaps`, and all counts about times are then 0.
        gaps: int64, by GAPS.
        steps: events that are not their user's first.
        repeats: steps to an item that the user's history holds already.
        duplicates: steps that repeat user, item and time of an earlier event.
        category_steps: steps to an item with a category.
        category_repeats: those whose category the history holds already.
        triples: events between two others of their user.
        even: triples that are evenly spaced, a sign of interpolated times.
        one_time_users: of the users with two events or more (`longer_users`), those whose events all bear one time.
        future: events after the moment the sheet is made.
        resolution: share of the times that are whole days, hours, minutes, seconds.
    """

    lengths: np.ndarray
    item_counts: np.ndarray
    query_counts: np.ndarray
    periods: Periods | None
    gaps: np.ndarray | None
    steps: int
    repeats: int
    duplicates: int
    category_steps: int
    category_repeats: int
    triples: int
    even: int
    one_time_users: int
    longer_users: int
    future: int
    resolution: Mapping[str, float]
    splits: tuple[SplitNumbers, ...]


@dataclass(frozen=True)
class Part:
    """The events of consecutive users: rows start:start+n of the Store.

    Attributes:
        user, item, ts: int64 [n].
        first: bool [n], True at each user's first event.
    """

    start: int
    user: np.ndarray
    item: np.ndarray
    ts: np.ndarray
    first: np.ndarray


def parts(store: Store, rows: int = ROWS) -> Iterator[Part]:
    """All events in order, whole users, about `rows` at a time."""
    indptr, user = store.user_indptr, 0
    while user <= store.num_users:
        stop = max(int(np.searchsorted(indptr, indptr[user] + rows, side="right")) - 1, user + 1)
        low, high = int(indptr[user]), int(indptr[stop])
        if high > low:
            users = np.repeat(np.arange(user, stop), np.diff(indptr[user : stop + 1]))
            first = np.diff(users, prepend=-1) > 0
            items, times = (np.asarray(a[low:high], dtype=np.int64) for a in (store.event_item, store.event_ts_ms))
            yield Part(low, users, items, times, first)
        user = stop


def seen_before(part: Part, values: np.ndarray) -> np.ndarray:
    """int64 [n]: the place in the part of the same user's last event of the same value before this one; -1 = none."""
    key = (part.user - part.user[0]) * (int(values.max()) + 1) + values
    order = np.argsort(key, kind="stable")
    again = np.diff(key[order], prepend=-1) == 0
    out = np.full(len(key), -1)
    out[order[again]] = order[np.flatnonzero(again) - 1]
    return out


def latest_before(part: Part) -> np.ndarray:
    """int64 [n]: the latest time among the user's events before each, by the Store's order; meaningless at `first`.

    The Store promises that this is the event before; here it is computed, since a leak check may not assume it.
    """
    times, rank = np.unique(part.ts, return_inverse=True)
    block = np.cumsum(part.first) * len(times)
    highest = np.maximum.accumulate(block + rank) - block
    return times[np.concatenate([[0], highest[:-1]])]


def count_events(store: Store, splits: Sequence[Split], now_ms: int, rows: int = ROWS) -> EventNumbers:
    """Everything that needs to look at the events."""
    total: Counter[str] = Counter()
    item_counts = np.zeros(store.num_items + 1, dtype=np.int64)
    query_counts = np.zeros(store.num_queries + 1, dtype=np.int64)
    gaps = np.zeros(len(GAPS), dtype=np.int64)
    periods = _periods(store) if store.has_time and store.num_events else None
    counting = [_SplitCount(store, split) for split in splits]
    for part in parts(store, rows):
        n = len(part.item)
        item_counts += np.bincount(part.item, minlength=len(item_counts))
        query_counts += np.bincount(store.event_query[part.start : part.start + n], minlength=len(query_counts))
        before = seen_before(part, part.item)
        category = store.item_category[part.item]
        known = ~part.first & (category > 0)
        total["steps"] += int((~part.first).sum())
        total["repeats"] += int((before >= 0).sum())
        total["category_steps"] += int(known.sum())
        total["category_repeats"] += int((seen_before(part, category)[known] >= 0).sum())
        latest = latest_before(part)
        if periods is not None:
            total["duplicates"] += int((part.ts[before[before >= 0]] == part.ts[before >= 0]).sum())
            total["future"] += int((part.ts > now_ms).sum())
            _count_times(part, total, gaps)
            period = np.searchsorted(periods.starts_ms, part.ts, side="right") - 1
            periods.counts[:] += np.bincount(period, minlength=len(periods.counts))
        for counted in counting:
            counted.add(part, latest, before)
    names = ("steps", "repeats", "duplicates", "category_steps", "category_repeats", "triples", "even")
    return EventNumbers(
        lengths=np.diff(store.user_indptr)[1:],
        item_counts=item_counts,
        query_counts=query_counts,
        periods=periods,
        gaps=None if periods is None else gaps,
        **{name: total[name] for name in (*names, "one_time_users", "longer_users", "future")},
        resolution={name: total[name] / max(store.num_events, 1) for name, _ in RESOLUTIONS},
        splits=tuple(counted.numbers() for counted in counting),
    )


def _count_times(part: Part, total: Counter[str], gaps: np.ndarray) -> None:
    gap = np.diff(part.ts, prepend=0)
    step = ~part.first
    bins = np.searchsorted([low for _, low in GAPS], gap[step], side="right") - 1
    gaps += np.bincount(np.maximum(bins, 0), minlength=len(GAPS))
    between = step[:-1] & step[1:]
    even = (np.minimum(gap[:-1], gap[1:]) > EVEN_GAP) & (np.abs(np.diff(gap)) <= EVEN_WITHIN)
    total["triples"] += int(between.sum())
    total["even"] += int((between & even).sum())
    starts = np.flatnonzero(part.first)
    ends = np.append(starts[1:], len(part.ts)) - 1
    total["longer_users"] += int((ends > starts).sum())
    total["one_time_users"] += int(((ends > starts) & (part.ts[ends] == part.ts[starts])).sum())
    for name, unit in RESOLUTIONS:
        total[name] += int((part.ts % unit == 0).sum())


def _periods(store: Store) -> Periods:
    """The finest periods of which there are no more than MAX_PERIODS (or years), still without counts."""
    ends = np.array([store.event_ts_ms.min(), store.event_ts_ms.max()])

    def numbers(unit: str) -> list[int]:
        return ends.astype("datetime64[ms]").astype(f"datetime64[{unit}]").astype(np.int64).tolist()

    few = (unit for unit in PERIODS if numbers(unit)[1] - numbers(unit)[0] < MAX_PERIODS)
    unit = next(few, PERIODS[-1])
    first, last = numbers(unit)
    starts = np.arange(first, last + 2).astype(f"datetime64[{unit}]").astype("datetime64[ms]").astype(np.int64)
    return Periods(unit, starts, np.zeros(len(starts) - 1, dtype=np.int64), *ends.tolist())


class _SplitCount:
    """Counts of one split, a part at a time."""

    def __init__(self, store: Store, split: Split) -> None:
        self.store, self.split = store, split
        self.targets = {window: split.targets(window) for window in split.windows[1:]}
        self.seen = np.zeros((len(split.windows), store.num_items + 1), dtype=bool)
        self.test_items = np.zeros(store.num_items + 1, dtype=np.int64)
        self.total: Counter[str] = Counter()
        self.spans = [self._span(window) for window in split.windows]
        dated = split.cuts_ms is not None and store.num_requests > 0
        self.requests = [split.requests(store, window) for window in split.windows] if dated else None

    def _span(self, window: str) -> tuple[int, int] | None:
        """First and last time in a window, of the users' first and last events in it."""
        starts, stops = self.split.starts(window), self.split.stops(window)
        some = stops > starts
        if not self.store.has_time or not some.any():
            return None
        times = self.store.event_ts_ms
        return int(times[starts[some]].min()), int(times[stops[some] - 1].max())

    def add(self, part: Part, latest: np.ndarray, before: np.ndarray) -> None:
        rows = part.start + np.arange(len(part.ts))
        window = sum((rows >= self.split.ends[part.user, w] for w in range(len(self.seen))), np.zeros_like(rows))
        for w, seen in enumerate(self.seen):
            seen[part.item[window == w]] = True
        for name in self.targets:
            chosen = self._targets(part, name)
            self.total[f"late {name}"] += int((latest[chosen] > part.ts[chosen]).sum())
            self.total[f"tied {name}"] += int((latest[chosen] == part.ts[chosen]).sum())
        crossing = ~part.first[1:] & (window[1:] != window[:-1])
        self.total["crossings"] += int(crossing.sum())
        self.total["tied_crossings"] += int((crossing & (part.ts[1:] == part.ts[:-1])).sum())
        chosen = self._targets(part, self.split.windows[-1])
        self.total["repeats"] += int((before[chosen] >= 0).sum())
        self.test_items += np.bincount(part.item[chosen], minlength=len(self.test_items))
        train, test = self.spans[0], self.spans[-1]
        if train and test:
            self.total["train_late"] += int(((window == 0) & (part.ts >= test[0])).sum())
            self.total["overtaken"] += int((part.ts[chosen] <= train[1]).sum())

    def _targets(self, part: Part, window: str) -> np.ndarray:
        """Places in the part of the window's targets."""
        targets = self.targets[window]
        low, high = np.searchsorted(targets, [part.start, part.start + len(part.ts)])
        return targets[low:high] - part.start

    def numbers(self) -> SplitNumbers:
        split, total = self.split, self.total
        cold = self.seen[-1] & ~self.seen[0]
        names = ("train_late", "overtaken", "crossings", "tied_crossings", "repeats")
        return SplitNumbers(
            name=split.name,
            fingerprint=split.fingerprint,
            target=split.target,
            cuts_ms=split.cuts_ms,
            windows=tuple(self._window(w, name) for w, name in enumerate(split.windows)),
            cold_items=int(cold.sum()),
            cold_targets=int(self.test_items[~self.seen[0]].sum()),
            only_test_items=int((self.seen[-1] & ~self.seen[:-1].any(0)).sum()),
            late_requests=self._late_requests(),
            **{name: total[name] for name in names},
        )

    def _window(self, w: int, name: str) -> WindowNumbers:
        starts, stops = self.split.starts(name), self.split.stops(name)
        first, last = self.spans[w] or (None, None)
        return WindowNumbers(
            name=name,
            events=int((stops - starts).sum()),
            users=int((stops > starts).sum()),
            items=int(self.seen[w].sum()),
            targets=len(self.targets[name]) if w else 0,
            cold_users=self.split.cold_users(name) if w else 0,
            first_ms=first,
            last_ms=last,
            late=self.total[f"late {name}"],
            tied=self.total[f"tied {name}"],
            requests=None if self.requests is None else len(self.requests[w]),
        )

    def _late_requests(self) -> int | None:
        if self.requests is None:
            return None
        cut = self.split.cut_ms(self.split.windows[-1])
        return sum(int((self.store.request_ts_ms[rows] >= cut).sum()) for rows in self.requests[:-1])
