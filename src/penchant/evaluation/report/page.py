"""From result files to `docs/results.md` and its figures: the same files give the same bytes, nothing is typed by hand.

How a table is shown comes from an optional `table.json` beside its rows:

    title            heading; else the folders' names
    note             a paragraph below it
    control          the row the others are compared with, in pairs, user by user
    pairs            {row: its control}: these rows are compared with others than `control`; with none if null
    claim            "better" (default) or "worse": what is claimed of each row beside the control (ablations: "worse")
    metrics          columns, the first one drawn; else the usual ones that every row has. "HR@10, item=cold" is of a
                     slice, of which no difference is told
    compared         those of the columns of which differences are told; else all
    against          a metric (a cost, say) that the first one is drawn against, instead of beside the control
    curve            a metric (a size, say) by which rows of growing data are one table, and the metrics curves over it
    lower_is_better  metrics of which less is better; else LogLoss and ECE

A row whose slices have `curves` ({"over": what, "panels": {panel: {line: points}}}) gets a figure of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

from penchant.data.store import read_json, write_text
from penchant.errors import RunError
from penchant.evaluation.figures import Bar, draw_against, draw_curves, draw_lines, draw_reliability, draw_rows
from penchant.evaluation.report.compare import ResultRow, difference, group_of, rows_of
from penchant.evaluation.results import Result, find_results
from penchant.evaluation.significance import LEVEL, RESAMPLES, Difference

USUAL = ("HR@10", "NDCG@10", "MRR@10", "Coverage@10", "AUC", "GAUC request", "GAUC user", "LogLoss")
PAGE = "results.md"
ORDER = {
    "controls": "Controls",
    "karma": "KARMA",
    "t2diff": "T2Diff",
    "ulim": "ULIM",
    "dmae": "DMAE",
    "funnel": "The funnel",
    "benchmarks": "Benchmarks",
}
"""Papers as they come on the page, under these names; then all others as they are called."""
READING = (
    "**HR@K**: the share of targets (what users clicked next) that are among the first K of the whole catalogue; no "
    "negatives are drawn. **NDCG, MRR**: the same, the higher the place the more. **Coverage**: the share of the "
    "catalogue that is in some list. **AUC, GAUC**: how often the clicked is before the rest of what was shown; GAUC "
    "within each request or user, then averaged. **JS@50**: overlap of the target's terms with its list's. **ECE**: "
    "what a probability is off by.",
    "**head, tail, cold**: items that make the first half of all training clicks, the last fifth, and none of them.",
    "Data are named as their Stores; `penchant reproduce TABLE --dry-run` tells how to make them. Hashes tell versions "
    "of data and split: rows of different ones are not compared. **CPU s**: training and judging, all threads.",
)
"""How the page is read, a line each."""
FIGURES = "results"
"""The folder of the figures beside the page; it is the report's own, and other files in it are removed."""


@dataclass(frozen=True)
class TableInfo:
    """What `table.json` says; see the module."""

    title: str
    note: str = ""
    control: str | None = None
    pairs: Mapping[str, str | None] = field(default_factory=dict)
    claim: Literal["better", "worse"] = "better"
    metrics: tuple[str, ...] = ()
    compared: tuple[str, ...] = ()
    against: str | None = None
    curve: str | None = None
    lower_is_better: tuple[str, ...] = ("LogLoss", "ECE")

    def control_of(self, row: str) -> str | None:
        """The row that this one is compared with; None if it is the control, or nothing is claimed of it."""
        control = self.pairs.get(row, self.control)
        return None if control == row else control

    def claimed(self, metric: str) -> Literal["higher", "lower"]:
        """Which way the metric is claimed to go."""
        return "lower" if (metric in self.lower_is_better) != (self.claim == "worse") else "higher"


def write_report(results: str | Path, docs: str | Path) -> Path:
    """Write `docs/results.md` and the figures it shows; returns the page's path.

    Raises:
        RunError: a result file or a `table.json` is damaged; the message names the file and the field.
    """
    page, figures = _render(Path(results), draw=True)
    docs = Path(docs)
    folder = docs / FIGURES
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in figures.items():
        write_text(folder / name, data.decode())
    write_text(docs / PAGE, page)
    for old in folder.glob("*.svg"):  # last: until here the old page may still show them
        if old.name not in figures:
            old.unlink()
    return docs / PAGE


def report_is_current(results: str | Path, docs: str | Path) -> bool:
    """Whether the page says what the result files say, and every figure is there.

    Figures' bytes are not compared: they change with matplotlib's version, the numbers they show are on the page.
    """
    page, figures = _render(Path(results), draw=False)
    docs = Path(docs)
    written = docs / PAGE
    there = {path.name for path in (docs / FIGURES).glob("*.svg")}
    return written.is_file() and written.read_text(encoding="utf-8") == page and there == set(figures)


def read_table_info(folder: str | Path) -> TableInfo:
    """What `table.json` in a table's folder says, or what holds where there is none.

    Raises:
        RunError: names the file and the field.
    """
    folder = Path(folder)
    path = folder / "table.json"
    name = f"{folder.parent.name}: {folder.name}"
    if not path.is_file():
        return TableInfo(name)
    fix = "See the top of penchant/evaluation/report/page.py for its fields."
    values = read_json(path, fix, RunError)
    for key, value in values.items():
        if not _fits(key, value):
            raise RunError(f"field {key!r} cannot be {value!r}", where=path, fix=fix)
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return TableInfo(**({"title": name} | values))


def _fits(key: str, value: object) -> bool:
    """Whether a field of `table.json` may have this value."""
    if key == "claim":
        return value in ("better", "worse")
    if key in ("metrics", "compared", "lower_is_better"):
        return isinstance(value, list) and all(isinstance(v, str) for v in value)
    if key == "pairs":
        return isinstance(value, dict) and all(v is None or isinstance(v, str) for v in value.values())
    return key in ("title", "note", "control", "against", "curve") and isinstance(value, str)


def _render(results: Path, *, draw: bool) -> tuple[str, dict[str, bytes]]:
    """The page, and the figures by name (empty unless they are to be drawn)."""
    found = find_results(results)
    lines = [
        "# Results",
        "",
        "This page is generated from the files in `results/` by `penchant report results`: edit nothing here. "
        "Values are means over seeds ± their standard deviation. Differences are paired, user by user, on the mean of "
        f"the seeds that both rows have, in brackets the {LEVEL:.0%} interval of a bootstrap over users "
        f"({RESAMPLES:,} resamples): **held** means that the whole interval is on the claim's side of zero, "
        "**not held** on the other side, **not decidable** that zero is inside or the data cannot tell. "
        "Trials are the variants tried on validation before the test.",
        "",
    ]
    lines += [*(f"- {line}" for line in READING), ""]
    figures: dict[str, bytes] = {}
    if not found:
        lines += ["There are no result files yet.", ""]
    found = sorted(found, key=_place)
    tables = {key: list(of_table) for key, of_table in groupby(found, key=lambda r: (r.paper, r.table))}
    infos = {(paper, table): read_table_info(results / paper / table) for paper, table in tables}
    lines += _contents(infos)
    for (paper, table), of_table in tables.items():
        info = infos[paper, table]
        lines += [f"## {info.title}", ""]
        if info.note:
            lines += [info.note, ""]
        groups = sorted(of_table, key=group_of)
        write = _curve_text if info.curve else _group_text
        for _, members in groupby(groups, key=(lambda _: ()) if info.curve else group_of):
            rows = rows_of(results, list(members))
            name = _free_name(f"{paper}.{table}.{rows[0].seeds[0].data}.{rows[0].seeds[0].split}", figures)
            text, figure = write(info, rows, f"{FIGURES}/{name}", draw)
            figures[name] = figure
            lines += text
            if bins := {} if info.curve else _reliability(rows):
                name = f"{name.removesuffix('.svg')}.reliability.svg"
                figures[name] = draw_reliability(f"{info.title}: reliability", bins) if draw else b""
                lines += [f"![Reliability of each row]({FIGURES}/{name})", ""]
            for row in rows:
                if curves := row.seeds[0].slices.get("curves"):
                    name = f"{paper}.{table}.{row.name}.{row.seeds[0].data}.{row.seeds[0].split}.curves.svg"
                    over = curves["over"]
                    panels = {
                        panel: {line: [(x, y) for x, y in points] for line, points in drawn.items()}
                        for panel, drawn in curves["panels"].items()
                    }
                    figures[name] = draw_lines(f"{info.title}: {row.name}", over, panels) if draw else b""
                    lines += [f"![{row.name}, by {over}]({FIGURES}/{name})", ""]
    return "\n".join(lines).rstrip("\n") + "\n", figures


def _place(result: Result) -> tuple[int, str, str]:
    """Papers in their order; a stable sort leaves the rest as it was."""
    known = list(ORDER)
    return (known.index(result.paper) if result.paper in known else len(known), result.paper, result.table)


def _contents(infos: Mapping[tuple[str, str], TableInfo]) -> list[str]:
    """A line a paper, with links to its tables."""
    taken: dict[str, int] = {}
    links: dict[str, list[str]] = {}
    for (paper, _), info in infos.items():
        # As GitHub makes them: letters, digits and hyphens; the second of a name is numbered.
        name = re.sub(r"[^\w\- ]", "", info.title.lower()).replace(" ", "-")
        taken[name] = taken.get(name, -1) + 1
        anchor = f"{name}-{taken[name]}" if taken[name] else name
        links.setdefault(paper, []).append(f"[{info.title}](#{anchor})")
    return [*(f"- **{ORDER.get(paper, paper)}**: {'; '.join(of_paper)}" for paper, of_paper in links.items()), ""]


def _free_name(stem: str, taken: dict[str, Any]) -> str:
    names = (f"{stem}{f'.{i}' if i else ''}.svg" for i in range(len(taken) + 1))
    return next(name for name in names if name not in taken)


def _group_text(info: TableInfo, rows: list[ResultRow], figure: str, draw: bool) -> tuple[list[str], bytes]:
    one = rows[0].seeds[0]
    columns = info.metrics or tuple(m for m in USUAL if all(row.values(m) for row in rows))
    synthetic = any(seed.synthetic for row in rows for seed in row.seeds)
    lines = [
        f"### {one.data}, split {one.split}{' (synthetic data)' if synthetic else ''}",
        "",
        f"Data `{one.data_fingerprint}`, split `{one.split_fingerprint}`, window {one.window}.",
        "",
        *_markdown(
            ["row", *columns, "seeds", "trials", "steps", "CPU s"],
            [
                [
                    row.name,
                    *(_spread(row.values(m)) for m in columns),
                    str(len(row.seeds)),
                    _one_or_range([seed.trials for seed in row.seeds]),
                    _one_or_range([seed.steps for seed in row.seeds]),
                    f"{mean(seed.cpu_seconds for seed in row.seeds):,.0f}",
                ]
                for row in rows
            ],
        ),
        "",
    ]
    by_name = {row.name: row for row in rows}
    controls = {row.name: by_name.get(info.control_of(row.name) or "") for row in rows}
    compared = info.compared or columns
    paired = [m for m in columns if m in compared and any(row.users(m) for row in rows)]
    told = {
        (row.name, m): difference(row, control, m) for row in rows if (control := controls[row.name]) for m in paired
    }
    if told:
        to = "its control" if info.pairs else f"`{info.control}`"
        claim = f"Difference to {to}; the claim is that each row is {info.claim}."
        body = [
            [_of_pair(info, row), *(_verdict(told[row, metric], info.claimed(metric)) for metric in paired)]
            for row in dict.fromkeys(row for row, _ in told)
        ]
        lines += [claim, "", *_markdown(["row", *paired], body), ""]
    elif info.control:
        lines += [f"The control `{info.control}` has not been run here, so no difference is told.", ""]
    notes = _notes(rows)
    lines += [f"- {note}" for note in notes] + [""] * bool(notes)
    if columns:
        lines += [f"![{columns[0]} {f'against {info.against}' if info.against else 'of each row'}]({figure})", ""]
    if not draw:
        return lines, b""
    bars = [
        Bar(
            row.name,
            tuple(row.values(columns[0])),
            d if isinstance(d := told.get((row.name, columns[0])), Difference) else None,
        )
        for row in rows
        if columns and row.values(columns[0])
    ]
    title = f"{info.title}: {one.data}, {one.split}{' (synthetic data)' if synthetic else ''}"
    if info.against and columns:
        points = {
            row.name: (mean(row.values(info.against)), mean(row.values(columns[0])))
            for row in rows
            if row.values(info.against) and row.values(columns[0])
        }
        return lines, draw_against(title, info.against, columns[0], points)
    return lines, draw_rows(title, columns[0] if columns else "", bars, "its control" if info.pairs else info.control)


def _of_pair(info: TableInfo, row: str) -> str:
    """A row as it is compared; with its control where rows differ in that."""
    return f"{row} less {info.control_of(row)}" if info.pairs else row


def _reliability(rows: list[ResultRow]) -> dict[str, list[tuple[float, float]]]:
    """What rankers told and what happened, bin by bin, of each row's first seed."""
    told = {row.name: row.seeds[0].slices.get("reliability", {}) for row in rows}
    return {
        name: [(bin_["predicted"], bin_["observed"]) for bin_ in bins.values()] for name, bins in told.items() if bins
    }


def _notes(rows: list[ResultRow]) -> list[str]:
    """Each once: of a row, or of every one."""
    of_row = {row.name: {note for seed in row.seeds for note in seed.notes} for row in rows}
    of_all = set.intersection(*of_row.values()) if len(rows) > 1 else set[str]()
    own = {f"{name}: {note}" for name, notes in of_row.items() for note in notes - of_all}
    return [f"Every row: {note}" for note in sorted(of_all)] + sorted(own)


def _curve_text(info: TableInfo, rows: list[ResultRow], figure: str, draw: bool) -> tuple[list[str], bytes]:
    """Rows of growing data: one table, and each metric as a curve. Nothing is compared, as nothing is the same."""
    assert info.curve
    sizes = {row.name: mean(row.values(info.curve)) for row in rows if row.values(info.curve)}
    rows = sorted((row for row in rows if row.name in sizes), key=lambda row: sizes[row.name])
    columns = [metric for metric in info.metrics if metric != info.curve]
    lines = _markdown(
        ["row", info.curve, *columns, "data"],
        [
            [
                row.name,
                f"{sizes[row.name]:,.0f}",
                *(_spread(row.values(metric)) for metric in columns),
                f"`{row.seeds[0].data_fingerprint}`{' (synthetic)' if row.seeds[0].synthetic else ''}",
            ]
            for row in rows
        ],
    )
    notes = _notes(rows)
    lines += ["", *(f"- {note}" for note in notes), *[""] * bool(notes), f"![By {info.curve}]({figure})", ""]
    if not draw:
        return lines, b""
    points = {
        metric: [(sizes[row.name], mean(row.values(metric))) for row in rows if row.values(metric)]
        for metric in columns
    }
    return lines, draw_curves(info.title, info.curve, points)


def _verdict(told: Difference | str, claim: Literal["higher", "lower"]) -> str:
    if isinstance(told, str):
        return f"not decidable ({told})"
    verdict = told.verdict(claim)
    shown = verdict if verdict == "not decidable" else f"**{verdict}**"
    return f"{told.value:+.4f} [{told.low:+.4f}, {told.high:+.4f}] {shown}"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "–"
    if max(map(abs, values)) >= 100:  # seconds, megabytes and counts, not shares
        return f"{mean(values):,.0f}" + (f" ± {stdev(values):,.0f}" if len(values) > 1 else "")
    return f"{mean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")


def _one_or_range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    cells = [[cell.replace("|", "\\|") for cell in line] for line in (head, *body)]
    marks = ["---", *["---:"] * (len(head) - 1)]
    return ["| " + " | ".join(line) + " |" for line in (cells[0], marks, *cells[1:])]
