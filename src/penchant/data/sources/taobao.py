"""Taobao's UserBehavior.csv (Tianchi 649): what a million users did in nine days, with each item's category."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from penchant.data.schema import FIRST_MS
from penchant.data.sources.formats import plain_file
from penchant.data.sources.raw import MEMORY, Check, Raw, Workspace, sift
from penchant.data.sources.reading import Dialect, read_delimited

ACTIONS = {"pv": "click", "fav": "fav", "cart": "cart", "buy": "buy"}
"""Behaviour, as the file names it -> action of the Store."""

START_S, END_S = 1_511_539_200, 1_512_316_800
"""The collection ran from 25 November to 3 December 2017, days of Beijing: unix seconds of its start and end."""


@dataclass(frozen=True)
class Taobao:
    """Taobao's user behaviour (Tianchi 649): clicks, favourites, carts, purchases, with categories.

    Example: penchant prepare taobao --path UserBehavior.csv.zip --out stores/taobao
    """

    path: Path
    """UserBehavior.csv, plain or compressed: user, item, category, pv/fav/cart/buy, unix seconds; no header."""


def read(options: Taobao, memory: str = MEMORY) -> Raw:
    """Every behaviour as an event; the catalogue is the items that occur, with their categories.

    Raises:
        DataError: no such file, or most of its lines do not hold five values.
    """
    work = Workspace(memory)
    plain, _ = plain_file(work, options.path, "behaviours")
    columns = ["user_id", "item_id", "category", "behaviour", "time"]
    label = options.path.name
    refused, locate = read_delimited(work, plain, "behaviours_text", columns, Dialect(",", "", header=False), label)
    raw = Raw(name="taobao", source="taobao", work=work, locate={"events": locate}, refused=refused)
    known = ", ".join(f"'{b}'" for b in ACTIONS)
    checks = [
        Check(
            f"behaviour is none of {', '.join(ACTIONS)}",
            f"behaviour IS NULL OR behaviour NOT IN ({known})",
            "behaviour",
            "Is it another file?",
        ),
        Check(
            "time is after the collection",
            f"TRY_CAST(time AS DOUBLE) >= {END_S}",
            "time",
            "The collection ended on 3 December 2017.",
        ),
    ]
    sift(raw, "events", "behaviours_text", checks, "behaviours")
    action = " ".join(f"WHEN '{b}' THEN '{a}'" for b, a in ACTIONS.items())
    work.db.execute(
        f"CREATE VIEW raw_events AS SELECT row, user_id, item_id, time, CASE behaviour {action} END AS action "
        "FROM behaviours"
    )
    work.db.execute(
        "CREATE TABLE catalogue AS SELECT item_id, min(row) AS first, arg_min(category, row) AS category, "
        "count(DISTINCT category) AS categories FROM behaviours WHERE item_id IS NOT NULL GROUP BY item_id"
    )
    raw.items = items = work.arrow("SELECT item_id, category FROM catalogue ORDER BY first")
    several = work.value("SELECT count(*) FROM catalogue WHERE categories > 1")
    if several:
        raw.notes.append(
            f"Rows disagree on the category of {several:,} of {items.num_rows:,} items; the first row's is taken."
        )
    before = f"TRY_CAST(time AS DOUBLE) >= {FIRST_MS // 1000} AND TRY_CAST(time AS DOUBLE) < {START_S}"
    early = work.value(f"SELECT count(*) FROM behaviours WHERE {before}")
    if early:
        raw.notes.append(f"{early:,} rows are dated before the collection began on 25 November 2017.")
    return raw
