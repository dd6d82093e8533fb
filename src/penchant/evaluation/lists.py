"""Ranked lists in and out: TREC run files for other tools, and lists that other tools made, judged by our protocol.

A TREC line is `qid Q0 docid rank score tag`. Our qid is `user_id:row`, the user's own id and the row of the target
event in the Store, both ids percent-encoded where they hold blanks. A qid that is a user's id alone (and every list of
a Parquet file with columns user_id, item_id, rank or score) is that user's list for all of their targets.

Where a list has scores they decide, as trec_eval does; equal scores share their average place. An item the catalogue
does not know keeps its place in the list, since it was shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penchant.data.output import whole
from penchant.data.split import Split
from penchant.data.store import Store
from penchant.errors import DataError
from penchant.evaluation.metrics import tied_ranks
from penchant.evaluation.protocol import LIST_DEPTH, RetrievalResult, targets_of

_SAFE = "/!\"#$&'()*+,;<=>?@[]^`{|}~"  # everything printable but blanks, the per cent sign and the colon


def write_trec(result: RetrievalResult, store: Store, path: str | Path, tag: str = "penchant") -> None:
    """Write the lists of a result as a TREC run, best first; empty slots are left out.

    Raises:
        ValueError: a tag with blanks.
    """
    if tag.split() != [tag]:
        raise ValueError(f"tag {tag!r} must be one word")
    items = [quote(i, safe=_SAFE + ":") for i in store.item_ids]
    with whole(Path(path)) as temporary, temporary.open("w") as file:  # half a run would read as a whole one
        for event, user, listed, scores in zip(
            result.events, result.users, result.lists, result.list_scores, strict=True
        ):
            qid = f"{quote(store.user_ids[user], safe=_SAFE)}:{event}"
            file.writelines(
                f"{qid} Q0 {items[item]} {rank} {score!r} {tag}\n"
                for rank, (item, score) in enumerate(zip(listed.tolist(), scores.tolist(), strict=True), start=1)
                if item
            )


def evaluate_lists(
    path: str | Path,
    store: Store,
    split: Split,
    window: str = "test",
    *,
    ks: Sequence[int] = (5, 10, 20, 50, 100),
) -> RetrievalResult:
    """Judge lists made elsewhere by the same targets, ranks and metrics as a model of ours.

    A target that its list lacks, or that has no list, has rank inf. Unknown users and items are counted and named in
    the result's notes.

    Args:
        path: a Parquet file if it ends in .parquet, else a TREC run.

    Raises:
        DataError: a line that is no list entry, or an item twice in one list; the message names the line.
    """
    path = Path(path)
    rows = _read_parquet(path) if path.suffix == ".parquet" else _read_trec(path)
    lists = _Lists.of(rows, store, path)
    events = split.targets(window)
    base = targets_of(store, split, events)
    of_target = lists.of_targets(base["users"], events)
    ranks = lists.ranks(of_target, base["items"])
    ranks[of_target < 0] = np.inf
    depth = min(max((k for k in ks if k <= LIST_DEPTH), default=LIST_DEPTH), store.num_items)
    # One empty list more, at the end, is what -1 points to.
    items, scores = lists.padded(depth)
    missing = int((of_target < 0).sum())
    notes = [f"Lists from {path.name}.", *lists.notes]
    if missing:
        notes.append(f"{missing:,} of {len(events):,} targets have no list: rank infinite.")
    return RetrievalResult(
        ks=tuple(ks),
        num_items=store.num_items,
        events=events,
        **base,
        ranks=ranks,
        unseen_ranks=None,
        lists=items[of_target],
        list_scores=scores[of_target],
        unanswered=missing,
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class _Rows:
    """Entries as they came: the list each belongs to, its item, its value (higher is better), its line in the file."""

    lists: list[str]
    items: list[str]
    values: np.ndarray
    first_line: int
    word: str


@dataclass(frozen=True)
class _Lists:
    """N entries in G lists, sorted by (list, place)."""

    group: np.ndarray
    item: np.ndarray  # 0 = unknown
    rank: np.ndarray
    value: np.ndarray
    user: np.ndarray  # [G], 0 = unknown
    event: np.ndarray  # [G], -1 = all of the user's targets
    num_items: int
    notes: tuple[str, ...]

    @classmethod
    def of(cls, rows: _Rows, store: Store, path: Path) -> _Lists:
        names, group = np.unique(np.asarray(rows.lists, dtype=object), return_inverse=True)
        item_names, item_code = np.unique(np.asarray(rows.items, dtype=object), return_inverse=True)
        _no_item_twice(rows, names, group, item_names, item_code, path)
        known = {item_id: item for item, item_id in enumerate(store.item_ids) if item}
        of_name = np.array([known.get(n, known.get(unquote(n), 0)) for n in item_names], dtype=np.int64)
        users = {user_id: user for user, user_id in enumerate(store.user_ids) if user}
        user, event = (np.array(x, dtype=np.int64) for x in zip(*(_owner(n, users) for n in names), strict=True))
        rank = tied_ranks(-rows.values, group)
        order = np.lexsort((item_code, rank, group))
        notes = (
            *_unknown("user", [str(n) for n in names[user == 0]]),
            *_unknown("item", [str(n) for n in item_names[of_name == 0]]),
        )
        item = of_name[item_code]
        return cls(group[order], item[order], rank[order], rows.values[order], user, event, store.num_items, notes)

    def of_targets(self, users: np.ndarray, events: np.ndarray) -> np.ndarray:
        """The list of each target, its own before its user's; -1 where there is none."""
        own = {int(e): (g, int(u)) for g, (e, u) in enumerate(zip(self.event, self.user, strict=True)) if e >= 0}
        general = {int(u): g for g, (e, u) in enumerate(zip(self.event, self.user, strict=True)) if e < 0 and u}
        out = np.empty(len(events), dtype=np.int64)
        for place, (event, user) in enumerate(zip(events.tolist(), users.tolist(), strict=True)):
            found, owner = own.get(event, (-1, -1))
            out[place] = found if owner == user else general.get(user, -1)
        return out

    def ranks(self, lists: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Place of each item in its list; inf where it is not there."""
        key = self.group * (self.num_items + 1) + self.item
        order = np.argsort(key, kind="stable")
        wanted = lists * (self.num_items + 1) + items
        at = np.minimum(np.searchsorted(key[order], wanted), len(key) - 1)
        found = key[order][at] == wanted
        return np.where(found, self.rank[order][at], np.inf)

    def padded(self, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """Items and values [G+1, depth] of the lists, best first; the last list is empty."""
        size = np.bincount(self.group, minlength=len(self.user))
        place = np.arange(len(self.group)) - np.repeat(np.cumsum(size) - size, size)
        inside = place < depth
        items = np.zeros((len(self.user) + 1, depth), dtype=np.int32)
        values = np.full((len(self.user) + 1, depth), -np.inf, dtype=np.float32)
        items[self.group[inside], place[inside]] = self.item[inside]
        values[self.group[inside], place[inside]] = np.where(self.item > 0, self.value, -np.inf)[inside]
        return items, values


def _owner(name: str, users: dict[str, int]) -> tuple[int, int]:
    """(user, event row) that a list belongs to; row -1 = all of the user's targets, user 0 = unknown."""
    if user := users.get(name, users.get(unquote(name), 0)):
        return user, -1
    before, _, row = name.rpartition(":")
    if row.isdecimal() and (user := users.get(unquote(before), users.get(before, 0))):
        return user, int(row)
    return 0, -1


def _unknown(what: str, names: list[str]) -> tuple[str, ...]:
    if not names:
        return ()
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return (f"{len(names):,} unknown {what}{'s' * (len(names) > 1)}: {', '.join(names[:3])}{more}.",)


def _no_item_twice(
    rows: _Rows, names: np.ndarray, group: np.ndarray, item_names: np.ndarray, item: np.ndarray, path: Path
) -> None:
    order = np.lexsort((np.arange(len(item)), item, group))
    again = np.flatnonzero((np.diff(group[order]) == 0) & (np.diff(item[order]) == 0))
    if len(again):
        second = order[again + 1].min()
        raise DataError(
            f"item {item_names[item[second]]!r} is twice in the list of {names[group[second]]!r}",
            where=f"{path}, {rows.word} {second + rows.first_line}",
            fix="List each item once.",
        )


def _read_trec(path: Path) -> _Rows:
    lists, items, values = [], [], []
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read ({error})", where=path, fix="Give a TREC run or a .parquet file.") from error
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        try:
            lists.append(fields[0])
            items.append(fields[2])
            values.append(float(fields[4]))
            good = len(fields) == 6 and np.isfinite(values[-1])
        except (IndexError, ValueError):
            good = False
        if not good:
            raise DataError(
                f"not a TREC run line: {line!r}",
                where=f"{path}, line {number}",
                fix="A line is `qid Q0 docid rank score tag`.",
            )
    return _filled(_Rows(lists, items, np.array(values, dtype=np.float64), 1, "line"), path)


def _read_parquet(path: Path) -> _Rows:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot be read ({error})", where=path, fix="Give a TREC run or a .parquet file.") from error
    order = next((c for c in ("score", "rank") if c in table.column_names), None)
    missing = [c for c in ("user_id", "item_id") if c not in table.column_names]
    if missing or order is None:
        raise DataError(
            f"lacks {', '.join([*missing, *(['rank or score'] if order is None else [])])}, "
            f"it has {', '.join(table.column_names)}",
            where=path,
            fix="Name the columns user_id, item_id, and rank or score.",
        )
    for name in ("user_id", "item_id", order):
        if table[name].null_count:
            row = table[name].is_null().index(True).as_py()
            raise DataError(f"no {name}", where=f"{path}, row {row}", fix="Fill it, or leave the row out.")
    try:
        values = table[order].cast(pa.float64()).to_numpy()
    except pa.ArrowInvalid as error:
        raise DataError(f"{order} is not a number ({error})", where=path, fix="Make the column a number.") from error
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values)))
        fix = "Give it a finite one, or leave the row out."
        raise DataError(f"{order} is not a number", where=f"{path}, row {row}", fix=fix)
    ids = [table[name].cast(pa.string()).to_pylist() for name in ("user_id", "item_id")]
    return _filled(_Rows(ids[0], ids[1], -values if order == "rank" else values, 0, "row"), path)


def _filled(rows: _Rows, path: Path) -> _Rows:
    if not rows.lists:
        raise DataError("no lists in this file", where=path, fix="Give a TREC run or a .parquet file.")
    return rows
