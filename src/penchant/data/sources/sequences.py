"""A line of items for each user, oldest first, as papers publish Beauty and Yelp, and what is known of the items."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from penchant.data.schema import LAST_MS
from penchant.data.sources.formats import plain_file, read_json
from penchant.data.sources.raw import MEMORY, Check, Raw, Workspace, category_queries, sift
from penchant.data.sources.reading import Dialect, read_delimited, spread_words
from penchant.errors import DataError

SMALLEST_CATEGORY = 20
"""Tags that fewer items share in full are cut to the first ones that so many share."""


@dataclass(frozen=True)
class Sequences:
    """A line a user: the user's id, then item ids, oldest first. Order without times: only the split loo is possible.

    Example: penchant prepare sequences --path sequences.txt --ids datamaps.json --items categories.json --brand-first
    --out stores/beauty
    """

    path: Path
    """The sequences, plain or compressed; ids stand between spaces."""
    gaps: Path | None = None
    """The same lines, each followed by a tab and the seconds since the event before, one for each item."""
    ids: Path | None = None
    """JSON with the shop's own ids: {"1": "B004..."}, or {"id2item": {...}, "id2user": {...}}."""
    items: Path | None = None
    """JSON, item id -> its category's words from the top down, or an object with title, description, categories."""
    first_key: int = 1
    """The key in --items of the sequences' item 1: 0 where keys count from 0."""
    brand_first: bool = False
    """A list of category words may begin with the brand: a word before one that begins other items' lists."""
    tags: str = ""
    """Field of --items with tags in no order, "Food, Bakeries": they become the category path, most common first."""
    category_queries: bool = False
    """Give events pseudo-queries: the words of their item's category path."""
    name: str = ""
    """The data's name in results; the sequences' folder if not given."""


def read(options: Sequences, memory: str = MEMORY) -> Raw:
    """Each item of each line as an event.

    Raises:
        DataError: a file is missing or is not what its option says, or two options contradict each other.
    """
    if options.ids is not None and options.first_key != 1:
        what = "--ids says what each item is called, --first-key counts the sequences' own ids"
        raise DataError(what, where="--first-key", fix="Give the one or the other.")
    work = Workspace(memory)
    path = options.path.expanduser()
    raw = Raw(name=options.name or path.absolute().parent.name, source="sequences", work=work, has_time=False)
    _users(raw, path, options.gaps)
    _events(raw, options)
    if options.items is not None:
        raw.items = _catalogue(read_json(work, options.items, "items_file"), options, raw.notes)
    if options.category_queries:
        category_queries(raw)
    return raw


_WORDS = "regexp_extract_all({}, '\\S+')"
"""SQL of a text's words."""


def _lines(raw: Raw, path: Path, kind: str) -> None:
    """Table `<kind>_text`: the file's lines as `line`, numbered by `row`."""
    plain, _ = plain_file(raw.work, path, kind)
    # A delimiter that no text holds, so that each line is one value.
    dialect = Dialect("\x01", "", header=False)
    refused, raw.locate[kind] = read_delimited(raw.work, plain, f"{kind}_text", ["line"], dialect, path.name)
    raw.refused += refused


def _users(raw: Raw, path: Path, gaps: Path | None) -> None:
    """Table `users_ok`: user_id, items and, where given, gaps: each user once."""
    work = raw.work
    _lines(raw, path, "users")
    checks = [
        Check("a user without items", "len(items) = 0", "user_id", "A line is a user and at least one item."),
        Check("a user is listed twice", "nth > 1", "user_id", "The first line is taken."),
    ]
    gapped, join = "", ""
    if gaps is not None:
        _lines(raw, gaps, "gaps")
        before, after = (_WORDS.format(f"split_part(line, chr(9), {part})") for part in (1, 2))
        # A table: joined as a subquery, its window is computed anew for every user.
        work.db.execute(
            f"CREATE TABLE user_gaps AS SELECT {before} AS words, "
            f"list_transform({after}, lambda gap: TRY_CAST(gap AS BIGINT)) AS gaps "
            "FROM gaps_text QUALIFY row_number() OVER (PARTITION BY words ORDER BY row) = 1"
        )
        gapped, join = ", gaps", "LEFT JOIN user_gaps USING (words)"
        uneven = "len(gaps) <> len(items) OR list_count(gaps) < len(items)"
        beyond = f"list_min(gaps) < 0 OR list_max(gaps) > {LAST_MS // 1000}"
        fix = f"{gaps.name} repeats each line, then a tab, then an item's seconds since the event before, 0 or more."
        checks += [
            Check("a user without gaps for these items", "gaps IS NULL", "user_id", fix),
            Check("gaps are not one number of seconds an item", f"{uneven} OR {beyond}", "gaps", fix),
        ]
    work.db.execute(
        f"CREATE TABLE users_read AS SELECT row, words[1] AS user_id, words[2:] AS items{gapped}, "
        "row_number() OVER (PARTITION BY words[1] ORDER BY row) AS nth FROM "
        f"(SELECT row, {_WORDS.format('line')} AS words FROM users_text) {join} WHERE len(words) > 0"
    )
    sift(raw, "users", "users_read", checks, "users_ok")
    raw.notes.append(
        "There are no times: a line's order is the order of its events."
        if gaps is None
        else "Times are each user's own, what elapsed since their first event; no two users' can be compared."
    )


def _events(raw: Raw, options: Sequences) -> None:
    """View `raw_events`: one row for each item of each user, by the shop's own ids where these are given."""
    work = raw.work
    raw.locate["events"] = spread_words(work, "users_ok", "items", "spread", raw.locate["users"])
    elapsed = ""
    if options.gaps is not None:
        gap = "CASE WHEN place > 1 THEN gaps[place] ELSE 0 END"
        elapsed = f", CAST(1000 * sum({gap}) OVER (PARTITION BY line ORDER BY place) AS BIGINT) AS elapsed_ms"
    events = f"SELECT s.row, u.user_id, word AS item_id{elapsed} FROM spread s JOIN users_ok u ON u.row = line"
    if options.ids is None:
        work.db.execute(f"CREATE VIEW raw_events AS {events}")
        return
    named, given, joins, checks = [], "", "", []
    for kind, ids in _ids(work, options.ids).items():
        work.load(f"{kind}_ids", ids)
        named.append(f"{kind}_ids.name AS {kind}_id")
        given += f", e.{kind}_id AS {kind}"
        joins += f" LEFT JOIN {kind}_ids ON {kind}_ids.id = e.{kind}_id"
        fix = "It has no id of the shop's, so its events are left out."
        checks.append(Check(f"{kind} is not in {options.ids.name}", f"{kind}_id IS NULL", kind, fix))
    work.db.execute(
        f"CREATE VIEW events_named AS SELECT e.* REPLACE ({', '.join(named)}){given} FROM ({events}) e{joins}"
    )
    sift(raw, "events", "events_named", checks, "raw_events")


def _ids(work: Workspace, path: Path) -> dict[str, pa.Table]:
    """ "item", and "user" where the file has them -> table of id and name."""
    told = read_json(work, path, "ids_file")
    maps = {"item": told.get("id2item", told), "user": told.get("id2user")}
    tables = {}
    for kind, ids in maps.items():
        if ids is None:
            continue
        if not isinstance(ids, dict) or not all(isinstance(name, str) for name in ids.values()):
            fix = 'Write {"1": "B004..."} or {"id2item": {"1": "B004..."}}.'
            raise DataError(f"does not give every {kind} an id as text", where=path, fix=fix)
        tables[kind] = pa.table({"id": pa.array(ids, pa.string()), "name": pa.array(ids.values(), pa.string())})
    return tables


def _catalogue(told: Mapping[str, object], options: Sequences, notes: list[str]) -> pa.Table:
    where = options.items
    known: list[Mapping[str, object]] = []
    for key, value in told.items():
        if isinstance(value, list):
            value = {"description": ", ".join(map(str, value)), "categories": value}
        if not isinstance(value, dict):
            fix = "An item is a list of category words, or an object with title, description, categories."
            raise DataError(f"item {key!r} is {value!r:.60}", where=where, fix=fix)
        known.append(value)
    columns = {
        "item_id": [_item_id(key, options) for key in told],
        "title": [_text(k.get("title")) for k in known],
        "text": [_text(k.get("description")) for k in known],
    }
    paths = [_levels(k.get("categories")) for k in known]
    if options.brand_first:
        first = {path[0] for path in paths if path}
        # A word that is repeated is no brand.
        columns["brand"] = [path[0] if path[1:] and path[0] != path[1] in first else None for path in paths]
        paths = [path[1:] if brand else path for path, brand in zip(paths, columns["brand"], strict=True)]
        named = len(paths) - columns["brand"].count(None)
        notes.append(f"{named:,} of {len(paths):,} items' category words begin with a brand.")
    if options.tags:
        tags = [_tags(k.get(options.tags)) for k in known]
        if not any(tags):
            have = ", ".join(sorted({field for k in known for field in k}))
            raise DataError(f"no item has {options.tags!r}", where="--tags", fix=f"{where} has: {have}.")
        paths = _ordered(tags)
        columns["category"] = [" > ".join(path) or None for path in _folded(paths)]
    columns["category_path"] = [" > ".join(path) or None for path in paths]
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def _item_id(key: str, options: Sequences) -> str:
    """The sequences' (or the shop's) id of an item of --items."""
    if options.first_key == 1:
        return key
    if not key.isdecimal():
        fix = "--first-key wants keys that count; leave it out if they are the sequences' ids."
        raise DataError(f"key {key!r} is no whole number", where=options.items, fix=fix)
    return str(int(key) - options.first_key + 1)


def _text(value: object) -> str | None:
    """Text as it is read: shops' dumps often hold it as HTML writes it, L&#39;Oreal."""
    return None if value is None else html.unescape(str(value)).strip() or None


def _levels(value: object) -> list[str]:
    return [text for v in (value if isinstance(value, list) else [value]) if (text := _text(v))]


def _tags(value: object) -> list[str]:
    return [tag for part in str(value or "").split(",") if (tag := _text(part))]


def _ordered(tags: Sequence[list[str]]) -> list[list[str]]:
    """Each item's tags, those of the most items first, so that sets that are equal are one path."""
    size = Counter(tag for item in tags for tag in set(item))
    return [sorted(set(item), key=lambda tag: (-size[tag], tag)) for item in tags]


def _folded(paths: Sequence[list[str]]) -> list[list[str]]:
    """Each path's longest beginning that at least `SMALLEST_CATEGORY` items share, or else its first level."""
    size = Counter(tuple(path[:n]) for path in paths for n in range(1, len(path) + 1))
    return [
        path[: next((n for n in range(len(path), 1, -1) if size[tuple(path[:n])] >= SMALLEST_CATEGORY), 1)]
        for path in paths
    ]
