"""Findings told in words: pages whose every number is filled in from result files.

A page is `results/findings/<name>.md`, written by hand, in which `{{paper/table[@data] row[ - control]: metric}}`
stands for a number:

    {{karma/table1 task-1-2: HR@50}}             the mean over seeds
    {{karma/table1 task-1-2 - action: HR@50}}    the difference in pairs, with its interval

@data, or @data/split, is needed where a table has several data sets or splits.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from statistics import mean

from penchant.data.store import write_text
from penchant.errors import RunError
from penchant.evaluation.report.compare import ResultRow, difference, group_of, rows_of
from penchant.evaluation.results import find_results

FINDINGS = "findings"
"""Folder of the pages, in the results and in the docs."""
MARK = "<!-- Generated from"
NUMBER = re.compile(r"\{\{(\w+)/([\w-]+)(?:@([\w-]+)(?:/([\w-]+))?)? (\S+)(?: - (\S+))?: ([^{}]+)\}\}")


def write_findings(results: str | Path, docs: str | Path) -> list[Path]:
    """Write the pages into `docs/findings`; what is there without a source is removed.

    Raises:
        RunError: a number that no result file has; the message names the page and the number.
    """
    folder = Path(docs) / FINDINGS
    pages = _filled(Path(results))
    if pages:
        folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        write_text(folder / name, text)
    for old in _generated(folder):
        if old.name not in pages:
            old.unlink()
    return [folder / name for name in pages]


def findings_are_current(results: str | Path, docs: str | Path) -> bool:
    """Whether each page says what the result files say."""
    there = {path.name: path.read_text(encoding="utf-8") for path in _generated(Path(docs) / FINDINGS)}
    return there == _filled(Path(results))


def _generated(folder: Path) -> list[Path]:
    """The pages that were made here; others in the folder are somebody's own."""
    return [path for path in folder.glob("*.md") if path.read_text(encoding="utf-8").startswith(MARK)]


def _filled(results: Path) -> dict[str, str]:
    """The pages by name."""

    @cache
    def rows(paper: str, table: str) -> dict[tuple[str, ...], dict[str, ResultRow]]:
        """By data, split, window and fingerprints, and by name."""
        found = sorted(find_results(results, paper, table), key=group_of)
        return {
            key: {row.name: row for row in rows_of(results, list(members))}
            for key, members in groupby(found, key=group_of)
        }

    pages = {}
    for source in sorted((results / FINDINGS).glob("*.md")):
        text = NUMBER.sub(partial(_number, rows=rows, source=source), source.read_text(encoding="utf-8"))
        if "{{" in text:
            where = text[text.index("{{") :].split("\n")[0][:80]
            raise RunError(f"{where!r} is no number", where=source, fix="See the top of evaluation/report/findings.py.")
        made = f"{MARK} {results.name}/{FINDINGS}/{source.name} by `penchant report results`. -->\n\n"
        pages[source.name] = made + text
    return pages


def _number(
    match: re.Match[str], rows: Callable[[str, str], dict[tuple[str, ...], dict[str, ResultRow]]], source: Path
) -> str:
    paper, table, data, split, name, control, metric = match.groups()
    groups = {key: of for key, of in rows(paper, table).items() if data in (None, key[0]) and split in (None, key[1])}

    def refused(why: str) -> RunError:
        return RunError(f"{match[0]}: {why}", where=source, fix="Name a row and a metric that a result file has.")

    if len(groups) != 1:
        raise refused(f"{len(groups)} data sets, splits or versions" if groups else "no such table")
    (of,) = groups.values()
    if lacking := [row for row in (name, control) if row and row not in of]:
        raise refused(f"no row {lacking[0]!r}, there are {sorted(of)}")
    if not (values := of[name].values(metric)):
        raise refused(f"no {metric!r} of {name!r}")
    if control is None:
        return _told(mean(values))
    told = difference(of[name], of[control], metric)
    if isinstance(told, str):
        raise refused(told)
    return f"{told.value:+.4f} [{told.low:+.4f}, {told.high:+.4f}]"


def _told(value: float) -> str:
    """By four digits; from 100 on (counts, long times) whole."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4f}"
