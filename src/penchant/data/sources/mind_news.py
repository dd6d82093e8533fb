"""MIND, Microsoft's news: what each user was shown and clicked (behaviors.tsv), and the articles (news.tsv)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from penchant.data.schema import FIRST_MS
from penchant.data.sources.formats import plain_file
from penchant.data.sources.raw import MEMORY, Check, Raw, Workspace, sift
from penchant.data.sources.reading import Dialect, by_line, read_delimited, spread_words

BEHAVIORS = ["request_id", "user_id", "time", "history", "impressions"]
NEWS = ["item_id", "category", "subcategory", "title", "abstract", "url", "title_entities", "abstract_entities"]
TABS = Dialect("\t", "", header=False)


@dataclass(frozen=True)
class MindNews:
    """Microsoft's news (MIND): impressions with their real non-clicks, and articles with titles and abstracts.

    Example: penchant prepare mind-news --behaviors behaviors.tsv --news news.tsv --out stores/mind
    """

    behaviors: Path
    """behaviors.tsv, plain or compressed: impression, user, time, earlier clicks, what was shown (N1-1 N2-0)."""
    news: Path | None = None
    """news.tsv, plain or compressed: the articles' categories, titles and abstracts."""


def read(options: MindNews, memory: str = MEMORY) -> Raw:
    """Clicks as events, everything shown as impressions, and each user's clicks from before the log.

    Raises:
        DataError: no such file, or most of its lines do not hold MIND's columns.
    """
    work = Workspace(memory)
    plain, _ = plain_file(work, options.behaviors, "behaviors_file")
    refused, locate = read_delimited(work, plain, "behaviors_text", BEHAVIORS, TABS, options.behaviors.name)
    raw = Raw(name="mind", source="mind-news", work=work, impressions="raw_shown", refused=refused)
    work.db.execute(
        "CREATE VIEW behaviors_timed AS SELECT *, try_strptime(time, '%m/%d/%Y %I:%M:%S %p') AS shown_at "
        "FROM behaviors_text"
    )
    raw.locate = {"behaviors": locate}
    check = Check("time is not understood", "shown_at IS NULL", "time", "MIND writes 11/15/2019 8:55:22 AM.")
    sift(raw, "behaviors", "behaviors_timed", [check], "behaviors")
    _shown(raw)
    _events(raw)
    if options.news is not None:
        _catalogue(raw, options.news)
    return raw


def _shown(raw: Raw) -> None:
    """The impressions. MIND shuffled each one's articles, so their positions are unknown."""
    words = "regexp_extract_all(impressions, '\\S+')"
    raw.locate["impressions"] = spread_words(raw.work, "behaviors", words, "shown", raw.locate["behaviors"])
    raw.work.db.execute(
        "CREATE VIEW raw_shown AS SELECT s.row, s.line, b.user_id, b.request_id, b.shown_at AS time, "
        "regexp_replace(word, '-[^-]*$', '') AS item_id, regexp_extract(word, '-([^-]*)$', 1) AS label, "
        "'logged' AS source FROM shown s JOIN behaviors b ON b.row = s.line"
    )


def _events(raw: Raw) -> None:
    """Clicks from before the log, in their order, then those of the log.

    MIND collected the former in the weeks before the log and gives no times. Placed before its first moment, they are
    where they belong in each user's order and in the train window; no cut falls among them.
    """
    work = raw.work
    # Users' histories come with every row of theirs, and do not grow with the clicks of the log.
    work.db.execute(
        "CREATE TABLE first_rows AS SELECT user_id, min(row) AS row, count(DISTINCT history) AS histories "
        "FROM behaviors WHERE user_id IS NOT NULL AND history IS NOT NULL GROUP BY user_id"
    )
    work.db.execute("CREATE VIEW histories AS SELECT b.* FROM behaviors b SEMI JOIN first_rows USING (row)")
    spread_words(work, "histories", "regexp_extract_all(history, '\\S+')", "earlier", raw.locate["behaviors"])
    begin = f"(SELECT min(shown_at) FROM behaviors WHERE epoch_ms(shown_at) >= {FIRST_MS})"
    back = "max(place) OVER (PARTITION BY e.line) - place + 1"
    work.db.execute(
        "CREATE TABLE raw_events AS SELECT row_number() OVER (ORDER BY logged, row) AS row, * EXCLUDE (row, logged) "
        f"FROM (SELECT 0 AS logged, e.row, e.line, h.user_id, word AS item_id, NULL AS request_id, "
        f"{begin} - to_milliseconds({back}) AS time FROM earlier e JOIN histories h ON h.row = e.line "
        "UNION ALL SELECT 1, row, line, user_id, item_id, request_id, time FROM raw_shown WHERE label = '1')"
    )
    raw.locate["events"] = by_line(work, "raw_events", raw.locate["behaviors"])
    (raw.dated_from_ms,) = work.rows(f"SELECT epoch_ms({begin})")[0]
    earlier, users = work.rows("SELECT count(*), count(DISTINCT line) FROM earlier")[0]
    if earlier:
        raw.notes.append(
            f"{earlier:,} clicks of {users:,} users are from before the log: their order is MIND's, their times are "
            "not known. They are events 1 ms apart just before the log begins; no split's cut is told from them."
        )
    several = work.value("SELECT count(*) FROM first_rows WHERE histories > 1")
    if several:
        raw.notes.append(f"{several:,} users have rows with different earlier clicks; those of the first are taken.")
    raw.notes.append("Positions are unknown: MIND shuffled what each impression shows.")


def _catalogue(raw: Raw, path: Path) -> None:
    plain, _ = plain_file(raw.work, path, "news_file")
    refused, raw.locate["items"] = read_delimited(raw.work, plain, "news", NEWS, TABS, path.name)
    raw.refused += refused
    # concat_ws leaves out what is NULL.
    raw.items = raw.work.arrow(
        "SELECT item_id, title, abstract AS text, nullif(concat_ws(' > ', category, subcategory), '') AS category_path "
        "FROM news ORDER BY row"
    )
