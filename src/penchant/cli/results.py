"""penchant reproduce, penchant report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from inspect import cleandoc
from pathlib import Path
from typing import Literal

from rich.console import Console
from tyro.conf import Positional

from penchant.cli.arguments import Flat, check_folder, parse, pick
from penchant.data.store import Store
from penchant.errors import ConfigError, RunError, StoreError
from penchant.evaluation.diagnostics.page import write_page as write_diagnostics
from penchant.evaluation.diagnostics.report import render_terminal as render_diagnostics
from penchant.evaluation.report.findings import findings_are_current, write_findings
from penchant.evaluation.report.page import report_is_current, write_report
from penchant.evaluation.sheet.page import write_page
from penchant.evaluation.sheet.report import make_sheet, render_terminal
from penchant.papers.t2diff.leak import read_report
from penchant.recipes.diagnose import DiagnoseConfig, diagnose
from penchant.recipes.reproduce import choose, missing, outdated, run_row, show
from penchant.recipes.t2diff.figures import draw_figures, leak_table
from penchant.recipes.tables import tables


@dataclass(frozen=True, kw_only=True)
class Reproduce:
    """Run what is missing of a table of results. A row that was cut goes on; a finished row is never run twice.

    $ penchant reproduce controls --dry-run                        what is left, and how long it will take
    $ penchant reproduce karma-table1 --seeds 1
    $ penchant reproduce controls-calibration --rows sasrec-ce
    """

    table: Positional[str]
    """A paper for all its tables (karma), or one of them (karma-table1)."""
    rows: tuple[str, ...] = ()
    """Only these rows."""
    data: tuple[str, ...] = ()
    """Only these data sets."""
    splits: tuple[str, ...] = ()
    """Only these splits."""
    seeds: int | None = None
    """So many seeds instead of the table's own number."""
    dry_run: bool = False
    """Say what is left and how long it will take, and run nothing."""
    stores: Path = Path("stores")
    """Folder of the Stores, each under its data's name."""
    runs: Path = Path("runs")
    """Folder of the runs; large, and not needed once their result files are there."""
    results: Path = Path("results")
    """Folder of the result files."""


def reproduce(args: Sequence[str]) -> None:
    """Run the missing rows one after the other."""
    says = f"{cleandoc(Reproduce.__doc__ or '')}\n\nPapers and their tables:\n{_known_tables()}"
    chosen = parse("reproduce", Reproduce, args, says)
    console = Console(highlight=False)
    left = [
        item
        for item in missing(choose(chosen.table), chosen.results, chosen.rows, chosen.data, chosen.seeds)
        if not chosen.splits or item.row.split in chosen.splits
    ]
    show(left, chosen.results, console)
    for note in outdated(choose(chosen.table), chosen.stores, chosen.results):
        console.print(note)
    if chosen.dry_run:
        return
    for i, item in enumerate(left, start=1):
        console.rule(f"{i}/{len(left)}: {item.table.name} {item.row.name}, {item.row.data}, {item.row.split}")
        result = run_row(item, chosen.stores, chosen.runs, chosen.results)
        headline = {k: v for k, v in result.metrics.items() if k in ("HR@10", "NDCG@10", "AUC", "GAUC user")}
        console.print("   ".join(f"{k} {v:.4f}" for k, v in headline.items() if v is not None))


def _known_tables() -> str:
    """A line a paper, with the names of its tables."""
    names: dict[str, list[str]] = {}
    for table in tables().values():
        names.setdefault(table.paper, []).append(table.name)
    return "\n".join(f"  {paper}: {', '.join(of_paper)}" for paper, of_paper in names.items())


REPORTS = {
    "results": "docs/results.md and its figures, from the result files",
    "diagnostics": "runs side by side: have their vectors, lists or attention collapsed? As one HTML page",
    "store": "a data sheet: what a Store holds, checked for leaks, as one HTML page",
    "leak": "T2Diff: what the target gives away while training, and what is left of it when serving",
}
"""What can be reported, and what comes of it."""

REPORT_HELP = """\
usage: penchant report WHAT [...]

Write a report. Nobody types a number: each is computed from the files that it is about.

  penchant report store stores/shop        stores/shop.html: counts, histories, popularity, gaps, leaks, examples
  penchant report leak runs/t2diff         a table, leak.svg, and Figures 4 and 5 of the paper for this run
  penchant report diagnostics RUN RUN      diagnostics.html: effective rank, hubs, meaning, attention of finished runs
  penchant report results --check          only say whether docs/results.md is up to date
  penchant report store --help             every field of a report
"""


@dataclass(frozen=True, kw_only=True)
class ReportResults:
    """Write docs/results.md, its figures and the pages of docs/findings from the result files. Nobody types a number.

    $ penchant report results
    $ penchant report results --check      only say whether docs/results.md is up to date
    """

    results: Path = Path("results")
    docs: Path = Path("docs")
    check: bool = False
    """Write nothing; end with an error if the report is not up to date."""


@dataclass(frozen=True, kw_only=True)
class ReportStore:
    """Write a Store's data sheet: what it holds, checked for leaks and faulty times, with a few users and items.

    Every file is read once, and its hash held against the one that was written with it. One HTML page that loads
    nothing. Its examples and refused rows are rows of the data: it is for the data's owner.

    $ penchant report store stores/shop                        writes stores/shop.html
    $ penchant report store stores/shop --out shop.html --seed 1
    """

    store: Positional[Path]
    """The Store."""
    out: Path | None = None
    """The page; STORE.html beside the Store if not given. One that is there is written anew."""
    seed: int = 0
    """Draws the examples."""


@dataclass(frozen=True, kw_only=True)
class ReportLeak:
    """Say what T2Diff's target gave away while a run trained: its weights, served with guesses of several makes.

    The run wrote leak.json at each validation. `from the target` has seen it: no system can serve it, and no table
    of results shows it. Draws leak.svg; reverse.svg and figure4.svg (how near the reverse process comes, by step and by
    target); figure5.svg (the schedules).

    $ penchant report leak runs/t2diff-ml-1m-temporal-successive
    """

    run: Positional[Path]
    """Folder of a run of T2Diff, finished or not."""


@dataclass(frozen=True, kw_only=True)
class ReportDiagnostics:
    """Have vectors, lists or attention of retrieval runs collapsed? Finished runs of one Store and split side by side.

    A model may hit well while its item vectors become opaque ids: they use few directions, the same items are in all
    lists, neighbours are of any category. The table says beside each number which way collapse is (low or high), the
    page also shows spectra, hubs and, of KARMA, the vectors that decoding reads ("within") beside those that search,
    and attention maps of its transformer: trained, as it began (its words continued on the catalogue's texts), and
    random. Each run takes some CPU minutes, most of them for the fresh decoder and for reading histories; where KARMA
    was trained on another machine its beginning is made again, minutes more (`--no-attention` does without).

    $ penchant report diagnostics runs/action runs/karma runs/sasrec
    $ penchant report diagnostics runs/karma runs/placebo --out placebo.html
    $ penchant report diagnostics runs/karma --layers 1 2 --heads 1 4 --targets 1000

    A placebo, `penchant train karma_decoded STORE --model.shuffled --out runs/placebo`, gives every item another one's
    texts, vectors and pictures: what it shares with the true run is not due to them. The default way of reading items,
    `--model.items vectors`, knows it.

    A run without vectors (popularity, markov, item_knn) gets the numbers of its lists alone.
    """

    runs: Positional[tuple[Path, ...]]
    """Folders of finished retrieval runs."""
    out: Path = Path("diagnostics.html")
    """The page. One that is there is written anew."""
    window: Literal["valid", "test"] = "test"
    """Whose targets are judged."""
    store: Path | None = None
    """Where the Store is now, if it was moved."""
    settings: Flat[DiagnoseConfig] = field(default_factory=DiagnoseConfig)


def report(args: Sequence[str]) -> None:
    """Write one of the reports."""
    what = pick("report", "report", REPORTS, REPORT_HELP, args)
    if what == "results":
        _report_results(parse("report results", ReportResults, args[1:]))
    elif what == "store":
        _report_store(parse("report store", ReportStore, args[1:]))
    elif what == "leak":
        _report_leak(parse("report leak", ReportLeak, args[1:]))
    elif what == "diagnostics":
        _report_diagnostics(parse("report diagnostics", ReportDiagnostics, args[1:]))


def _report_results(chosen: ReportResults) -> None:
    console = Console(highlight=False)
    if not chosen.check:
        for page in (write_report(chosen.results, chosen.docs), *write_findings(chosen.results, chosen.docs)):
            console.print(f"wrote {page}")
        return
    for what, is_current in (("results.md", report_is_current), ("findings", findings_are_current)):
        if not is_current(chosen.results, chosen.docs):
            raise RunError("is not what the result files say", where=chosen.docs / what, fix="penchant report results")
        console.print(f"{chosen.docs / what} is up to date")


def _report_store(chosen: ReportStore) -> None:
    store = Store(chosen.store)
    # A Store never changes, so the page goes beside it. resolve: the name of "." and of "..".
    folder = chosen.store.resolve()
    out = chosen.out or folder.with_name(f"{folder.name}.html")
    if out.resolve().is_relative_to(folder):
        raise StoreError("is inside the Store, which never changes", where=out, fix="Choose another --out.")
    check_folder(out)
    with Console(stderr=True).status("reading every file") as status:
        store.verify()
        status.update("counting")
        sheet = make_sheet(store, seed=chosen.seed)
    write_page(sheet, out)
    console = Console(highlight=False)
    console.print(render_terminal(sheet))
    console.print(f"{len(store.manifest['files'])} files are those that were written, by their hashes")
    console.print(f"wrote {out}", markup=False, soft_wrap=True)


def _report_leak(chosen: ReportLeak) -> None:
    moments = read_report(chosen.run)
    if not moments:
        raise RunError(
            "has no leak.json: not a run of T2Diff with a diffusion module, or not validated yet",
            where=chosen.run,
            fix="Train one with `penchant train t2diff`.",
        )
    console = Console(highlight=False)
    console.print(leak_table(moments[-1]))
    for name, picture in draw_figures(chosen.run, moments).items():
        (chosen.run / name).write_bytes(picture)
        console.print(f"wrote {chosen.run / name}", markup=False, soft_wrap=True)


def _report_diagnostics(chosen: ReportDiagnostics) -> None:
    if not chosen.runs:
        raise ConfigError(
            "no run is named", fix="Give folders of finished runs: penchant report diagnostics runs/karma"
        )
    check_folder(chosen.out)
    progress = Console(stderr=True)
    found = diagnose(chosen.runs, chosen.settings, progress, chosen.window, chosen.store)
    write_diagnostics(found, chosen.out)
    console = Console(highlight=False)
    console.print(render_diagnostics(found))
    console.print(f"wrote {chosen.out}", markup=False, soft_wrap=True)
