"""The five tables of a Store, and the names of their columns: the one place that spells them.

Two kinds of identifier: `item_id`, `user_id` are the shop's own, as text; `item`, `user`, `category`, `query`,
`request` are dense integers from 1, 0 meaning none (padding, anonymous, no category, no query).

Times are `ts_ms`: integer milliseconds since 1970-01-01 UTC. Where a Store has no time (`has_time` in its manifest),
they are milliseconds since the user's first event, if the source knows these, or the row's number.
"""

from __future__ import annotations

import pyarrow as pa

FORMAT = 1
"""Version of the Store's layout; a Store of another version is refused."""

FIRST_MS, LAST_MS = 631_152_000_000, 4_102_444_800_000
"""1990 and 2100: a time outside is a broken clock or a misread unit."""

SOURCES = ("logged", "logged_random", "rated_low", "synthetic", "random")
"""Where a non-click comes from: shown and not clicked; the same, of items that were shown at random; rated low (a
proxy); generated; drawn at random, and perhaps never shown."""

ITEMS = pa.schema(
    [
        pa.field("item", pa.int32(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("title", pa.string()),
        pa.field("text", pa.string()),  # further text: description, genres, abstract
        pa.field("category", pa.int32(), nullable=False),
        pa.field("category_path", pa.string()),  # levels joined by " > "
        pa.field("image", pa.binary()),  # the encoded picture (JPEG, PNG, ...) as it came
    ]
)
"""Sorted by `item`, which runs 1..num_items. Columns after these are the source's own and are kept as they came."""

USERS = pa.schema(
    [
        pa.field("user", pa.int32(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
    ]
)
"""Sorted by `user`, 1..num_users. Columns after these are the user's profile."""

EVENTS = pa.schema(
    [
        pa.field("user", pa.int32(), nullable=False),
        pa.field("item", pa.int32(), nullable=False),
        pa.field("query", pa.int32(), nullable=False),
        pa.field("action", pa.string(), nullable=False),
        pa.field("ts_ms", pa.int64(), nullable=False),
        pa.field("request", pa.int64(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),  # the row of the source, so that equal times keep its order
    ]
)
"""What users did. Sorted by (user, ts_ms, row)."""

IMPRESSIONS = pa.schema(
    [
        pa.field("request", pa.int64(), nullable=False),  # 1..num_requests, in order of time
        pa.field("user", pa.int32(), nullable=False),
        pa.field("ts_ms", pa.int64(), nullable=False),
        pa.field("query", pa.int32(), nullable=False),
        pa.field("position", pa.int16(), nullable=False),  # from 1; 0 = unknown
        pa.field("item", pa.int32(), nullable=False),
        pa.field("label", pa.int8(), nullable=False),  # 1 clicked, 0 shown and not clicked
        pa.field("source", pa.string(), nullable=False),  # one of SOURCES
    ]
)
"""What users were shown, clicked or not. Sorted by (request, position, source row). A further column `propensity`, the
chance that the place was looked at, where the source knows it."""

QUERIES = pa.schema(
    [
        pa.field("query", pa.int32(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
    ]
)
"""Each distinct query text once. Sorted by `query`, 1..num_queries."""

TABLES = {"items": ITEMS, "users": USERS, "events": EVENTS, "impressions": IMPRESSIONS, "queries": QUERIES}
