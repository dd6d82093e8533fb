"""The shop's ids become dense integers from 1: items, users, queries, categories and requests.

Works on the checked tables `events_ok` and `shown_ok` of a source's workspace, and leaves the maps `item_map`,
`user_map`, `query_map` and `request_map` in it, and `events_numbered`.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pyarrow as pa

from penchant.data.sources.raw import Check, Raw, Refused, sift, text
from penchant.data.writer import Rows


def _logged_ids(raw: Raw, column: str) -> str:
    """Query: each id of the logs with its first place, events before impressions."""
    parts = [f"SELECT {column} AS id, row FROM events_ok"]
    if raw.impressions is not None and (column == "item_id" or column in raw.work.types("shown_ok")):
        parts.append(f"SELECT {column} AS id, row + {2**62} AS row FROM shown_ok WHERE {column} IS NOT NULL")
    both = " UNION ALL ".join(parts)
    return f"SELECT id, min(row) AS first FROM ({both}) GROUP BY id"


def _listed(raw: Raw, kind: str, column: str, table: pa.Table) -> pa.Table:
    """A catalogue or users table without rows that have no id or repeat one."""
    work = raw.work
    ids = pa.table({"row": np.arange(1, table.num_rows + 1), column: table[column]})
    work.load("listed_ids", ids)
    work.db.execute(
        f"CREATE TABLE {kind}_listed AS SELECT row, nullif({column}, '') AS {column}, "
        f"row_number() OVER (PARTITION BY {column} ORDER BY row) AS nth FROM listed_ids"
    )
    checks = [
        Check(f"{column} is missing", f"{column} IS NULL", column, f"Every row of {kind} needs an {column}."),
        Check(f"{column} is listed twice", "nth > 1", column, "The first is taken."),
    ]
    sift(raw, kind, f"{kind}_listed", checks, f"{kind}_known")
    kept = work.arrow(f"SELECT row - 1 AS row, {column} FROM {kind}_known ORDER BY row")
    taken = table if kept.num_rows == table.num_rows else table.take(kept["row"])
    return taken.set_column(taken.column_names.index(column), column, kept[column])


def number_items(raw: Raw) -> pa.Table:
    """The items table; `item_map` gives each item_id its number."""
    work = raw.work
    listed = raw.items if raw.items is not None else pa.table({"item_id": pa.array([], pa.string())})
    listed = _listed(raw, "items", "item_id", listed)
    known = pa.table({"item_id": listed["item_id"], "item": pa.array(np.arange(1, listed.num_rows + 1), pa.int32())})
    work.load("known_items", known)
    logged = _logged_ids(raw, "item_id")
    new = work.arrow(f"SELECT id AS item_id FROM ({logged}) ANTI JOIN known_items ON id = item_id ORDER BY first")
    if new.num_rows and raw.items is not None:
        raw.notes.append(
            f"{new.num_rows:,} items of the logs are not in the catalogue (the first: {new['item_id'][0].as_py()!r}); "
            "they were added without text."
        )
    count = listed.num_rows + new.num_rows
    ids = pa.chunked_array([*listed["item_id"].chunks, *new["item_id"].chunks], pa.string())
    numbers = pa.array(np.arange(1, count + 1), pa.int32())
    work.load("numbered_items", pa.table({"item_id": ids, "item": numbers}))
    work.db.execute("CREATE TABLE item_map AS SELECT * FROM numbered_items")
    padded = pa.concat_tables([listed, new], promote_options="default")
    columns = {"item": numbers, "item_id": ids}
    for key in ("title", "text", "category_path", "category"):
        columns[key] = padded[key] if key in padded.column_names else pa.nulls(count, pa.string())
    if columns["category"].null_count == count:
        columns["category"] = columns["category_path"]
    elif columns["category_path"].null_count == count:
        columns["category_path"] = columns["category"]
    columns["category"] = _number_categories(raw, columns["category"])
    own = {c: padded[c] for c in padded.column_names if c not in columns}
    return pa.table({**columns, **own})


def _number_categories(raw: Raw, names: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
    """Dense numbers from 1 in order of name; 0 = none."""
    raw.work.load("category_names", pa.table({"place": np.arange(len(names)), "name": names}))
    return raw.work.arrow(
        "SELECT CAST(CASE WHEN name IS NULL THEN 0 ELSE dense_rank() OVER (ORDER BY name NULLS LAST) END AS INTEGER) "
        "AS number FROM category_names ORDER BY place"
    )["number"]


def number_users(raw: Raw) -> pa.Table:
    """The users table: those with an event or an impression; `user_map` gives each user_id its number."""
    work = raw.work
    listed = raw.users if raw.users is not None else pa.table({"user_id": pa.array([], pa.string())})
    listed = _listed(raw, "users", "user_id", listed)
    known = pa.table({"user_id": listed["user_id"], "place": np.arange(listed.num_rows)})
    work.load("known_users", known)
    logged = work.arrow(
        f"SELECT id AS user_id, place FROM ({_logged_ids(raw, 'user_id')}) LEFT JOIN known_users ON id = user_id "
        "ORDER BY place NULLS LAST, first"
    )
    numbers = pa.array(np.arange(1, logged.num_rows + 1), pa.int32())
    work.load("numbered_users", pa.table({"user_id": logged["user_id"], "user": numbers}))
    work.db.execute("CREATE TABLE user_map AS SELECT * FROM numbered_users")
    if raw.users is not None:
        without = logged["place"].null_count
        idle = listed.num_rows - (logged.num_rows - without)
        if without:
            raw.notes.append(f"{without:,} users of the logs are not in the users table; they have no profile.")
        if idle:
            raw.notes.append(f"{idle:,} users of the users table did nothing and were left out.")
    profile = {c: listed[c].take(logged["place"]) for c in listed.column_names if c != "user_id"}
    return pa.table({"user": numbers, "user_id": logged["user_id"], **profile})


def number_queries(raw: Raw) -> pa.Table | None:
    """The queries table; `query_map` gives each text its number."""
    work = raw.work
    logs = ["events_ok", "shown_ok"] if raw.impressions is not None else ["events_ok"]
    tables = [t for t in logs if "query" in work.types(t)]
    if not tables:
        return None
    texts = " UNION ALL ".join(f"SELECT query FROM {t}" for t in tables)
    work.db.execute(
        "CREATE TABLE query_map AS SELECT query, CAST(row_number() OVER (ORDER BY query) AS INTEGER) AS number "
        f"FROM (SELECT DISTINCT query FROM ({texts}) WHERE query IS NOT NULL)"
    )
    return work.arrow("SELECT number AS query, query AS text FROM query_map ORDER BY number")


def number_events(raw: Raw) -> None:
    """Leave `events_numbered`: the good events by numbers instead of texts; `query` is NULL where there is none.

    A table where requests are still to be joined to it, since every join of one query holds its memory to the end.
    """
    work = raw.work
    has = work.types("events_ok")
    columns, joins = ["u.user", "i.item", "e.ms", "e.row"], ""
    if "query" in has:
        columns.append("q.number AS query")
        joins = "LEFT JOIN query_map q ON q.query = e.query"
    if "action" in has:
        columns.append("coalesce(e.action, 'click') AS action")
    if raw.impressions is not None and "request_id" in has:
        columns.append("e.request_id")
    work.db.execute(
        f"CREATE {'VIEW' if raw.impressions is None else 'TABLE'} events_numbered AS SELECT {', '.join(columns)} "
        f"FROM events_ok e JOIN user_map u USING (user_id) JOIN item_map i USING (item_id) {joins}"
    )
    if raw.impressions is not None:
        _forget(raw, "events")


def number_requests(raw: Raw) -> Rows | None:
    """The impressions table; `request_map` gives each (request_id, user) its number, in order of time.

    What an impression does not say of its request (user, time, query), the event that followed from it may: the user's
    own, or for an impression without a user, of a request_id that one user alone has.
    """
    if raw.impressions is None:
        return None
    work = raw.work
    own = _number_shown(raw)
    linked = work.types("events_numbered")
    if "request_id" in linked:
        query = "min(query)" if "query" in linked else "NULL"
        work.db.execute(
            "CREATE TABLE shown_full AS SELECT s.* REPLACE (coalesce(s.user, t.user, 0) AS user, "
            "coalesce(s.ms, t.ms) AS ms, coalesce(s.query, t.query) AS query) FROM shown_numbered s LEFT JOIN ("
            "SELECT request_id, coalesce(user, 0) AS whose, min(user) AS user, min(ms) AS ms, "
            f"{query}::INTEGER AS query FROM events_numbered WHERE request_id IS NOT NULL "
            "GROUP BY GROUPING SETS ((request_id, user), (request_id)) HAVING min(user) = max(user)) t "
            "ON t.request_id = s.request_id AND t.whose = coalesce(s.user, 0)"
        )
        work.db.execute("DROP TABLE shown_numbered")
    else:
        work.db.execute("UPDATE shown_numbered SET user = 0 WHERE user IS NULL")
        work.db.execute("ALTER TABLE shown_numbered RENAME TO shown_full")
    undated, first = work.rows("SELECT count(*), min(row) FROM shown_full WHERE ms IS NULL")[0]
    if undated:
        fix = "Give impressions a time, or an event with their request_id."
        raw.refused.append(Refused("impression has no time", undated, tuple(raw.places("impressions", [first])), fix))
    work.db.execute(
        "CREATE TABLE request_map AS SELECT *, row_number() OVER (ORDER BY ms, first) AS request FROM ("
        "SELECT request_id, user, min(ms) AS ms, min(query) AS query, min(row) AS first FROM shown_full "
        "WHERE ms IS NOT NULL GROUP BY request_id, user)"
    )
    # Joined and then sorted: both at once would need the memory of both.
    work.db.execute(
        "CREATE TABLE shown_placed AS SELECT r.request, r.user, r.ms AS ts_ms, coalesce(r.query, 0) AS query, "
        f"s.position, s.item, s.clicked AS label, s.source{own}, s.row FROM shown_full s "
        "JOIN request_map r USING (request_id, user) WHERE s.ms IS NOT NULL"
    )
    work.db.execute("DROP TABLE shown_full")
    return partial(work.reader, "SELECT * EXCLUDE (row) FROM shown_placed ORDER BY request, position, row")


def _number_shown(raw: Raw) -> str:
    """Leave `shown_numbered`, the good impressions by numbers; returns SQL of the columns of their own."""
    work = raw.work
    has = work.types("shown_ok")
    user, query, joins = "NULL", "NULL", ""
    if "user_id" in has:
        user, joins = "u.user", "LEFT JOIN user_map u ON u.user_id = s.user_id"
    if "query" in has:
        query, joins = "q.number", f"{joins} LEFT JOIN query_map q ON q.query = s.query"
    own = "chance" in has
    timed = "time" in work.types(raw.impressions or "") or not raw.has_time
    work.db.execute(
        f"CREATE TABLE shown_numbered AS SELECT s.request_id, {user}::INTEGER AS user, {'s.ms' if timed else 'NULL'}"
        f"::BIGINT AS ms, {query}::INTEGER AS query, i.item, s.clicked, s.row, "
        f"CAST({'coalesce(s.place, 0)' if 'position' in has else '0'} AS SMALLINT) AS position, "
        f"{'s.source' if 'source' in has else text('logged')} AS source{', s.chance AS propensity' if own else ''} "
        f"FROM shown_ok s JOIN item_map i USING (item_id) {joins}"
    )
    _forget(raw, "shown")
    return ", s.propensity" if own else ""


def _forget(raw: Raw, log: str) -> None:
    """Drop a log with its texts, once it is there by numbers: a part of every table stays in memory."""
    raw.work.db.execute(f"DROP VIEW {log}_ok; DROP TABLE {log}_ms")
