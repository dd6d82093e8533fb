"""Which of the user's columns is which: as mapped on the command line, or by the names such columns usually have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from penchant.data.sources.formats import Opened, choices
from penchant.data.sources.raw import Workspace, text
from penchant.errors import DataError

ALIASES: dict[str, tuple[str, ...]] = {
    "user_id": ("user", "uid", "customer_id", "customer", "client_id", "visitor_id", "member_id", "account_id"),
    "item_id": (
        "item",
        "iid",
        "product_id",
        "product",
        "sku",
        "asin",
        "movie_id",
        "article_id",
        "news_id",
        "content_id",
    ),
    "timestamp": ("ts", "time", "event_time", "datetime", "date", "created_at", "unix_time", "ts_ms", "timestamp_ms"),
    "action": ("event_type", "event", "behavior", "behaviour", "behavior_type", "action_type"),
    "query": ("search_term", "search_query", "search", "keywords", "q"),
    "request_id": ("request", "impression_id", "search_id"),
    "title": ("name", "product_name", "item_name", "product_title"),
    "text": ("description", "desc", "body", "abstract", "summary", "product_description"),
    "category": ("category_id", "cat", "genre", "genres", "department", "product_type"),
    "category_path": ("categories", "taxonomy"),
    "image": ("image_path", "image_file", "image_bytes", "picture", "photo", "poster", "thumbnail"),
    "position": ("rank", "slot", "pos"),
    "propensity": ("examination",),
    "label": ("clicked", "click", "is_click", "is_clicked"),
    "window": ("split", "set"),
}
"""Further names a column is known by; capitals, spaces and punctuation do not count."""

BLANKS = ("' '", "chr(9)", "chr(10)", "chr(13)", "chr(160)")
"""SQL of the blanks around an id: no part of it."""

NO_ID = ("", "null", "none", "nan", "\\n", "<na>")
"""What programs write where there is no id, in small letters: taken as an id it would be one enormous user."""

FIELDS: dict[str, tuple[str, ...]] = {
    "events": ("user_id", "item_id", "timestamp", "action", "query", "request_id"),
    "items": ("item_id", "title", "text", "category", "category_path", "image"),
    "impressions": ("request_id", "item_id", "label", "user_id", "timestamp", "query", "position", "propensity"),
    "users": ("user_id",),
    "split": ("user_id", "item_id", "timestamp", "window"),
}
"""What each table may hold; items and users keep their further columns as they came."""

REQUIRED = {
    "events": ("user_id", "item_id"),
    "items": ("item_id",),
    "impressions": ("request_id", "item_id", "label"),
    "users": ("user_id",),
    "split": ("user_id", "item_id", "window"),
}


def _plain(column: str) -> str:
    return re.sub(r"[^a-z0-9]", "", column.lower())


def find_columns(kind: str, table: Opened, mapping: Mapping[str, str], notes: list[str]) -> dict[str, str]:
    """Field -> the user's column, as mapped or guessed; guesses are noted."""
    by_plain = {_plain(c): c for c in reversed(table.columns)}
    taken = {c for f, c in mapping.items() if f in FIELDS[kind] and c in table.columns}
    found, guessed = {}, []
    for key in FIELDS[kind]:
        if mapping.get(key) in table.columns:
            found[key] = mapping[key]
            continue
        for alias in (key, *ALIASES[key]):
            column = by_plain.get(_plain(alias))
            if column is not None and column not in taken:
                found[key] = column
                taken.add(column)
                if column != key:
                    guessed.append(f"{column} as {key}")
                break
    for key in REQUIRED[kind]:
        if key not in found:
            wanted = f" (--columns says {mapping[key]!r})" if key in mapping else ""
            fix = f"Say which it is: --columns {key}=COLUMN."
            raise DataError(
                f"no column {key}{wanted}; the columns are: {choices([*table.columns])}", where=table.label, fix=fix
            )
    if guessed:
        notes.append(f"{table.label}: took {', '.join(guessed)}.")
    return found


def check_mapping(mapping: Mapping[str, str], opened: Mapping[str, Opened], found: Mapping[str, Mapping]) -> None:
    """Every mapping must be of a known field and name a column of at least one table."""
    for key, column in mapping.items():
        if key not in ALIASES:
            raise DataError(f"no field {key!r}", where="--columns", fix=f"Fields are: {', '.join(ALIASES)}.")
        if not any(fields.get(key) == column for fields in found.values()):
            have = "; ".join(f"{o.label}: {choices([*o.columns])}" for o in opened.values())
            raise DataError(f"no column {column!r} for {key}", where="--columns", fix=f"The columns are: {have}.")


def decode_bytes(work: Workspace, table: Opened, found: Mapping[str, str], notes: list[str]) -> Opened:
    """The table with bytes read as UTF-8, since some programs write text to Parquet without saying that it is text.

    What is not UTF-8 in a field is escaped and noted. Pictures stay bytes, and so do further columns that are not
    UTF-8 throughout.
    """
    kinds = {} if table.textual else work.types(table.table)
    columns = dict(table.columns)
    for column, value in table.columns.items():
        kind = kinds.get(value, "")
        if kind not in ("BLOB", "BLOB[]") or column == found.get("image"):
            continue
        decoded = f"TRY({f'decode({value})' if kind == 'BLOB' else f'list_transform({value}, lambda x: decode(x))'})"
        wrong, first = work.rows(
            f"SELECT count(*), min(row) FROM {table.table} WHERE {value} IS NOT NULL AND {decoded} IS NULL"
        )[0]
        if not wrong or column in found.values():
            columns[column] = f"coalesce({decoded}, CAST({value} AS {kind.replace('BLOB', 'VARCHAR')}))"
        if wrong and column in found.values():
            place = table.locate([first])[0]
            notes.append(f"{wrong:,} values of {column} are not UTF-8 (the first: {place}); they were escaped: \\xFF.")
    return replace(table, columns=columns)


def id_sql(work: Workspace, table: Opened, column: str) -> str:
    """SQL of an id as text: trimmed, NULL where programs write that there is none, 7 and not 7.0."""
    value = table.columns[column]
    if not table.textual:
        kind = work.types(table.table).get(value)  # none of what `decode_bytes` made
        if kind in ("DOUBLE", "FLOAT"):
            # pandas turns a column of integers with gaps into floats.
            whole = f"{value} = floor({value}) AND abs({value}) < 1e15"
            value = f"CASE WHEN {whole} THEN CAST(CAST({value} AS BIGINT) AS VARCHAR) ELSE CAST({value} AS VARCHAR) END"
    value = f"CAST({value} AS VARCHAR)"
    # Not `NOT IN`: DuckDB makes a join of it, which is done even where nobody reads the column.
    none = " ".join(f"WHEN {text(n)} THEN NULL" for n in NO_ID)
    # To trim costs ten times what it costs to see that there is nothing to trim.
    blank = " OR ".join(f"{ends}({value}, {b})" for ends in ("starts_with", "ends_with") for b in BLANKS)
    cleaned = f"CASE WHEN {blank} THEN trim({value}, {' || '.join(BLANKS)}) ELSE {value} END"
    return f"CASE lower({cleaned}) {none} ELSE {cleaned} END"
