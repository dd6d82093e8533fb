"""Collapse diagnostics of runs side by side: what each number is, and the table for a terminal.

`recipes/diagnose.py` fills a `Diagnosis` for each run, `page.write_page` draws them. They hold no row of the data but
the labels of one example that attention is drawn of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from penchant.evaluation.diagnostics.attention import Reading


@dataclass(frozen=True)
class Number:
    """One line of the table.

    Attributes:
        label: its name.
        collapse: which way collapse is: "low", "high", or "" where the number only helps to read others.
        what: what it is, in a sentence or two.
        decimals: that are shown.
    """

    label: str
    collapse: str
    what: str
    decimals: int = 3


GROUPS: dict[str, dict[str, Number]] = {
    "How item vectors fill their space": {
        "rank": Number(
            "effective rank", "low", "exp of the entropy of the spectrum: how many directions the vectors use.", 1
        ),
        "rank_centred": Number(
            "effective rank, centred",
            "low",
            "The same less the mean of all vectors, which adds as much to every item's score.",
            1,
        ),
        "rank_share": Number("effective rank / width", "low", "The first as a share of the vectors' width."),
        "stable": Number(
            "stable rank", "low", "Sum of squares over that of the strongest direction: 1 = one direction is all.", 2
        ),
        "top": Number("top-1 share", "high", "Share of the strongest direction in the sum of squares."),
        "cosine": Number(
            "mean cosine", "high", "Anisotropy: mean cosine of two items. 1 = all vectors point the same way."
        ),
        "uniformity": Number(
            "uniformity", "high", "log of the mean of exp(-2 |x - y|²) over pairs, normalised: 0 = all in one point."
        ),
    },
    "User vectors": {
        "user_rank": Number("effective rank", "low", "Of h_t of the judged requests.", 1),
        "user_cosine": Number("mean cosine", "high", "Of the h_t of two requests: 1 = everybody is the same user."),
        "alignment": Number(
            "alignment", "", "Mean |h_t - e|² to the true next item, normalised: 0 = together, 2 = at right angles."
        ),
    },
    "Hubs: items that are in everybody's list": {
        "skew": Number("skew of k-occurrence", "high", "Of how many lists of 50 each item is in. 0 = even.", 2),
        "coverage": Number("coverage@50", "low", "Share of the catalogue that is in some list."),
        "popular": Number(
            "lists within the top 100", "high", "Share of lists of 50 that hold none but the 100 most popular items."
        ),
    },
    "Meaning": {
        "purity": Number("category purity", "low", "Share of an item's ten nearest that are of its category."),
        "ridge": Number(
            "text read off the item",
            "low",
            "R² of a ridge regression from e_i to its frozen text vector, for items held out.",
        ),
        "topics": Number(
            "topics read off the item", "low", "The same to the topics of its text: main directions of words' TF-IDF."
        ),
        "js": Number("JS@50", "low", "Jaccard overlap of the target's terms with those of its list's items."),
        "js_others": Number("JS@50 without the target", "low", "The same without what a hit alone adds."),
    },
    "Is the next title in h_t? Nats a word, of a fresh decoder": {
        "told": Number(
            "from h_t",
            "high",
            "A small decoder learns titles from frozen vectors, and tells those of users it never saw.",
        ),
        "told_shuffled": Number("from another's h_t", "", "The same, taught and asked with vectors dealt out anew."),
        "told_unigram": Number("from words' frequencies", "", "What no decoder at all comes to."),
        "told_gain": Number("what h_t tells", "low", "From another's less from its own: 0 = the vector tells nothing."),
    },
    "Hits": {
        "hr": Number("HR@50", "", "Share of targets in the list."),
        "hr_rare": Number(
            "HR@50, rare items", "low", "Of targets with at most 5 training events: an id has hardly learned those.", 4
        ),
        "rare_targets": Number("rare targets", "", "How many those are.", 0),
    },
}
"""Every number by its name in `Diagnosis.numbers`, in groups."""

OF_ATTENTION = {
    "entropy": Number("entropy", "low", "Of a query's weights over that of even ones: 1 = it looks everywhere."),
    "first": Number("weight on position 0", "", "Language models rest there: a habit, told apart from the others."),
    "column": Number("largest other column", "high", "Mean weight of the key beside position 0 that gets most."),
    "barcode": Number("barcode index", "high", "Variance of the keys' mean weights over all: 1 = all queries alike."),
    "barcode_beyond": Number("barcode without position 0", "high", "The same of what is left beside position 0."),
}
"""Numbers of `attention.HeadNumbers`."""

READERS = {"decoder": "The decoder reads histories", "item encoder": "The item encoder reads texts"}
WITHIN = " within"
"""What the name of a column ends with that is of the vectors inside a run."""
LABEL = 24
"""Characters of a number's name that stay together on a narrow terminal."""
WEIGHTS = {"trained": "trained", "untouched": "as it began", "random": "random"}


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What one run's vectors, lists and attention look like.

    Attributes:
        name: the run's folder.
        kind: the model's kind; "" for what is no model (the frozen text vectors).
        width: of its vectors; 0 where it has none.
        targets: judged.
        numbers: by the names of `GROUPS`; what the model cannot have is absent.
        item_spectrum, user_spectrum: shares of the sum of squares, largest first; empty without vectors.
        occurrences: k-occurrence of all items in lists of 50, largest first; empty without lists.
        readings: attention, where the model has any that can be read.
        notes: what a reader must know, one line each.
    """

    name: str
    kind: str
    width: int = 0
    targets: int = 0
    numbers: Mapping[str, float] = field(default_factory=dict)
    item_spectrum: np.ndarray = field(default_factory=lambda: np.zeros(0))
    user_spectrum: np.ndarray = field(default_factory=lambda: np.zeros(0))
    occurrences: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    readings: tuple[Reading, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DiagnosticsReport:
    """Runs of one Store and split side by side.

    Attributes:
        columns: the runs, and last, where the Store has them, its frozen text vectors: what an item encoder is given.
        chance_purity: category purity of neighbours drawn at random.
        synthetic: the data are generated; the page says so.
    """

    data: str
    store_fingerprint: str
    split: str
    split_fingerprint: str
    window: str
    seed: int
    synthetic: bool
    num_items: int
    columns: tuple[Diagnosis, ...]
    chance_purity: float
    versions: Mapping[str, str]


def shown(value: float | None, decimals: int) -> str:
    """A number for people, with a true minus sign; nothing where there is none."""
    if value is None or math.isnan(value):
        return ""
    return f"{value:,.{decimals}f}".replace("-", "\u2212")


def render_terminal(report: DiagnosticsReport) -> RenderableType:
    """The numbers as tables; which way collapse is stands beside each."""
    names = [column.name for column in report.columns]
    parts: list[RenderableType] = []
    head = f"{report.data}, split {report.split}, {report.window} window"
    if report.synthetic:
        head += ": synthetic data"
    parts.append(Text(head, style="bold"))
    table = _table(names)
    for group, numbers in GROUPS.items():
        rows = [(n, [c.numbers.get(key) for c in report.columns]) for key, n in numbers.items()]
        _add(table, group, rows)
    parts.append(table)
    for reader, title in READERS.items():
        runs = [c for c in report.columns if any(r.reader == reader for r in c.readings)]
        if runs:
            parts += [Text(""), _attention_table(reader, title, runs)]
    chance = shown(report.chance_purity, 3)
    if chance:
        parts.append(Text(f"Category purity of neighbours drawn at random: {chance}.", style="dim"))
    parts += [Text(f"{c.name}: {note}", style="dim") for c in report.columns for note in c.notes]
    return Group(*parts)


def _table(names: Sequence[str], title: str = "") -> Table:
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    table.add_column("", min_width=LABEL)
    table.add_column("collapse")
    for name in names:
        table.add_column(name, justify="right", overflow="fold")
    return table


def _add(table: Table, group: str, rows: Sequence[tuple[Number, Sequence[float | None]]]) -> None:
    if not any(value is not None for _, values in rows for value in values):
        return
    if group:
        table.add_row(Text(group, style="bold"))
    for number, values in rows:
        if any(value is not None for value in values):
            table.add_row(f"  {number.label}", number.collapse, *(shown(v, number.decimals) for v in values))


def _attention_table(reader: str, title: str, runs: Sequence[Diagnosis]) -> Table:
    found = [(run, r) for run in runs for r in run.readings if r.reader == reader]
    table = _table([f"{run.name} {WEIGHTS[r.weights]}" for run, r in found], f"{title}: mean over layers and heads")
    _add(table, "", [(number, [r.mean(name) for _, r in found]) for name, number in OF_ATTENTION.items()])
    return table
