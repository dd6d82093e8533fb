"""KuaiRand as its authors publish it: logs of videos shown in a feed, in the versions Pure, 1K and 27K.

Every row of a log is a video that was shown, clicked or not: an impression. Those that were clicked are the events.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa

from penchant.data.sources.formats import Opened, choices, open_file
from penchant.data.sources.raw import MEMORY, Check, Locate, Raw, Workspace, name
from penchant.data.sources.reading import forget
from penchant.data.sources.times import sift_log
from penchant.errors import DataError

LOG = ("user_id", "video_id", "time_ms", "is_click", "is_rand", "tab")
"""What is read of a log."""

LOG_NAME = re.compile(r"log_(standard|random)_\d_\d\d_to_\d_\d\d_(\w+?)(?:_part\d+)?\.csv")
"""Which log, and of which version."""

LATER = ("visible_status",)
"""Of a video, what was seen when the data was collected and not when it was shown."""


@dataclass(frozen=True)
class KuaiRand:
    """KuaiRand's logs of videos shown in a feed: Pure, 1K, 27K.

    Example: penchant prepare kuairand --path KuaiRand-Pure --tab 1 --out stores/kuairand-pure
    """

    path: Path
    """The unpacked release, or its folder data."""
    logs: Literal["standard", "random", "both"] = "standard"
    """standard: what the recommender showed. random: videos shown at random in its place."""
    tab: int | None = None
    """Only what was shown in this part of the app (0 to 14); papers often take 1, the main feed."""


def read(options: KuaiRand, memory: str = MEMORY) -> Raw:
    """The impressions, clicks, videos and users of a release.

    Raises:
        DataError: not a KuaiRand folder, a file without a column it needs, or no row of the tab.
    """
    folder = options.path.expanduser()
    files = {path.name: path for path in sorted(folder.rglob("*.csv"))} if folder.is_dir() else {}
    version, logs = _logs(folder, files, options.logs)
    work = Workspace(memory)
    locate, opened = _load(work, logs)
    tab = "" if options.tab is None else f"-tab{options.tab}"
    raw = Raw(
        name=f"kuairand-{version}-{options.logs}{tab}",
        source="kuairand",
        work=work,
        locate={"events": locate, "impressions": locate},
        view=options.logs,
        refused=[refused for log in opened for refused in log.refused],
        notes=[f"Read {', '.join(path.name for path in logs)}."],
    )
    yes_or_no = "{0} IS NULL OR {0} NOT IN ('0', '1')"
    checks = [
        Check(f"{column} is not 0 or 1", yes_or_no.format(column), column, "1 is yes, 0 is no.")
        for column in ("is_click", "is_rand")
    ]
    checks.append(Check("tab is not a number", "TRY_CAST(tab AS INTEGER) IS NULL", "tab", "Tabs run from 0 to 14."))
    sift_log(raw, "impressions", "log_rows", checks, "log_good")
    _apply_tab(raw, options.tab)
    _apply_view(raw)
    raw.items = _videos(raw, files.get(f"video_features_basic_{version}.csv"))
    raw.users = _users(raw, files.get(f"user_features_{version}.csv"))
    return raw


def _logs(folder: Path, files: dict[str, Path], which: str) -> tuple[str, list[Path]]:
    """The version, and the files of the logs in order of time."""
    named = {file: match for file in files if (match := LOG_NAME.fullmatch(file))}
    versions = sorted({match[2] for match in named.values()})
    kinds = ("standard", "random") if which == "both" else (which,)
    logs = [files[file] for kind in kinds for file, match in named.items() if match[1] == kind]
    if len(versions) > 1:
        raise DataError(f"logs of {' and '.join(versions)}", where=folder, fix="Give the folder of one version.")
    if len({match[1] for match in named.values() if match[1] in kinds}) < len(kinds):
        found = ", ".join(sorted(files)[:8]) or "nothing"
        fix = f"KuaiRand's folder data has {' and '.join(f'log_{kind}_*.csv' for kind in kinds)}, unpacked."
        raise DataError(f"not the logs of a KuaiRand release: found {found}", where=folder, fix=fix)
    return versions[0], logs


def _load(work: Workspace, logs: Sequence[Path]) -> tuple[Locate, list[Opened]]:
    """Make table `log_rows` of all files, its rows numbered through them; returns what names their places."""
    user, video, time, *others = LOG
    opened, starts = [], [0]
    for number, path in enumerate(logs):
        log = _open(work, path, f"log_{number}", LOG)
        opened.append(log)
        kept = ", ".join(f"{log.columns[column]} AS {column}" for column in others)
        work.db.execute(
            f"{'INSERT INTO log_rows' if number else 'CREATE TABLE log_rows AS'} SELECT row + {starts[-1]} AS row, "
            f"{log.columns[user]} AS user_id, {log.columns[video]} AS item_id, {log.columns[time]} AS time, {kept} "
            f"FROM {log.table}"
        )
        starts.append(starts[-1] + work.value(f"SELECT count(*) FROM {log.table}"))
        forget(work, log.table)  # A log of 27K has gigabytes of what is not read.

    def locate(rows: Sequence[int]) -> list[str]:
        places = []
        for row in rows:
            file = bisect_right(starts, row - 1) - 1
            places += opened[file].locate([row - starts[file]])
        return places

    return locate, opened


def _open(work: Workspace, path: Path, table: str, columns: Sequence[str]) -> Opened:
    opened = open_file(work, path, table)
    missing = [column for column in columns if column not in opened.columns]
    if missing:
        what = f"no column {', '.join(missing)}; the columns are: {choices([*opened.columns])}"
        raise DataError(what, where=path.name, fix="Unpack the release again.")
    return opened


def _apply_tab(raw: Raw, tab: int | None) -> None:
    work = raw.work
    where = "true" if tab is None else f"CAST(tab AS INTEGER) = {tab}"
    work.db.execute(f"CREATE VIEW shown AS SELECT * FROM log_good WHERE {where}")
    if tab is None:
        return
    rows, kept = work.rows(f"SELECT count(*), count(*) FILTER (WHERE {where}) FROM log_good")[0]
    if not kept:
        tabs = work.rows("SELECT DISTINCT CAST(tab AS INTEGER) FROM log_good ORDER BY 1")
        raise DataError(
            f"no row of tab {tab}", where=raw.name, fix=f"The tabs are: {', '.join(str(t) for (t,) in tabs)}."
        )
    raw.notes.append(f"{rows - kept:,} of {rows:,} rows are of other tabs and were left out.")


def _apply_view(raw: Raw) -> None:
    raw.work.db.execute(
        "CREATE VIEW raw_events AS SELECT user_id, item_id, time, row, 'click' AS action, time AS request_id "
        "FROM shown WHERE is_click = '1'"
    )
    raw.work.db.execute(
        "CREATE VIEW raw_shown AS SELECT user_id, item_id, time, row, time AS request_id, "
        "CAST(is_click AS TINYINT) AS label, CASE is_rand WHEN '1' THEN 'logged_random' ELSE 'logged' END AS source "
        "FROM shown"
    )
    raw.impressions = "raw_shown"
    raw.notes.append("The logs name no requests: rows of one user at one millisecond are taken for one.")


def _videos(raw: Raw, path: Path | None) -> pa.Table | None:
    """Columns item_id, category (the first tag), and what else the release says but `LATER`, as it came."""
    if path is None:
        raw.notes.append("The release's video_features_basic is not there: videos have no category.")
        return None
    videos = _open(raw.work, path, "videos", ("video_id", "tag"))
    tag = videos.columns["tag"]
    first = f"nullif(trim(split_part({tag}, ',', 1)), '') AS category"
    return _kept(raw, "items", videos, [f"{videos.columns['video_id']} AS item_id", first], ("video_id", *LATER))


def _users(raw: Raw, path: Path | None) -> pa.Table | None:
    if path is None:
        raw.notes.append("The release's user_features is not there: users have no profile.")
        return None
    users = _open(raw.work, path, "users", ("user_id",))
    return _kept(raw, "users", users, [f"{users.columns['user_id']} AS user_id"], ("user_id",))


def _kept(raw: Raw, kind: str, table: Opened, first: Sequence[str], without: Sequence[str]) -> pa.Table:
    """The columns `first`, then the others of the file but those `without`."""
    raw.refused += table.refused
    raw.locate[kind] = table.locate
    others = [f"{field} AS {name(column)}" for column, field in table.columns.items() if column not in ("", *without)]
    return raw.work.arrow(f"SELECT {', '.join([*first, *others])} FROM {table.table} ORDER BY row")
