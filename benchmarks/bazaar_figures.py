"""The figures of docs/bazaar.md, from the generated market itself, results/bazaar.json, and Stores of real data.

usage: python -m benchmarks.bazaar_figures [--beside stores/ml-1m-all stores/taobao stores/beauty] [--only items knobs]
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
from benchmarks.command import argument_parser
from matplotlib.figure import Figure
from PIL import Image

from penchant.bazaar.config import SIZES
from penchant.bazaar.pictures import draw
from penchant.bazaar.policies import ShopPolicy
from penchant.bazaar.world import World
from penchant.data.store import Store
from penchant.evaluation.sheet.catalogue import categories, category_names
from penchant.evaluation.sheet.events import GAPS, count_events

FIGURES = Path("docs/figures")
DAYS = 90
"""Of the timeline."""


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--bazaar", type=Path, default=Path("stores/bazaar-small"), help="a Store of size small")
    parser.add_argument("--beside", type=Path, nargs="*", default=[])
    parser.add_argument("--only", nargs="*", default=["items", "timeline", "knobs", "beside"])
    arguments = parser.parse_args()
    mpl.use("Agg")
    figures: dict[str, Callable[[], None]] = {
        "items": items,
        "timeline": timeline,
        "knobs": lambda: knobs(arguments.results / "bazaar.json"),
        "beside": lambda: beside([arguments.bazaar, *arguments.beside]),
    }
    for name in arguments.only:
        figures[name]()


def items() -> None:
    """A contact sheet of a hundred items, evenly from the catalogue."""
    catalogue = World(SIZES["small"]).market.catalogue
    chosen = np.linspace(1, len(catalogue), 100).round().astype(int)
    tiles = [Image.open(io.BytesIO(draw(catalogue.attributes, int(i)))).convert("RGB").resize((72, 72)) for i in chosen]
    sheet = Image.new("RGB", (20 * 74 + 2, 5 * 74 + 2), "white")
    for n, tile in enumerate(tiles):
        sheet.paste(tile, (2 + n % 20 * 74, 2 + n // 20 * 74))
    sheet.quantize(256).save(FIGURES / "bazaar-items.png", optimize=True)


def timeline() -> None:
    """What a busy user clicked and searched for, by category, over three months."""
    world = World(SIZES["small"])
    people, days = world.market.people, range(100, 100 + DAYS)
    returning = (people.until[:, 4] > 0) & (people.joined < days[0])
    user = int(np.flatnonzero(returning)[np.argsort(-people.activity[returning])[12]])
    points = []
    for day in days:
        for log in world.live(ShopPolicy(world.market), day):
            r = log.requests
            row, place = np.nonzero((log.reached > 0) & (r.user == user)[:, None])
            leaves = world.market.catalogue.leaf[log.items[row, place]]
            strays = r.truth.leaf != r.truth.intent
            points += [(day, leaf, r.is_search[n], strays[n]) for n, leaf in zip(row, leaves, strict=True)]
    day, leaf, search, stray = (np.array(column) for column in zip(*points, strict=True))
    often, counts = np.unique(leaf, return_counts=True)
    often = often[np.argsort(-counts)][:10]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, mask, colour in (
        ("after a search", search & ~stray, "#1f6f8b"),
        ("without a query", ~search & ~stray, "#e08e45"),
        ("away from the session's category", stray, "#999999"),
    ):
        shown = mask & np.isin(leaf, often)
        height = np.array([np.flatnonzero(often == x)[0] for x in leaf[shown]]) + np.linspace(-0.25, 0.25, shown.sum())
        axes.scatter(day[shown], height, s=9, color=colour, label=name, linewidths=0)
    names = [world.market.catalogue.paths[x].split(" > ")[-1] for x in often]
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("day")
    axes.set_title(f"One user's clicks in ten categories, {DAYS} days of `small` (synthetic)", fontsize=9)
    figure.legend(fontsize=7, ncols=3, loc="outside lower center")
    figure.savefig(FIGURES / "bazaar-timeline.png", dpi=90, metadata={"Software": None})


def knobs(numbers: Path) -> None:
    """AUC of each part of the truth against its weight."""
    told = json.loads(numbers.read_text())
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    for axes, (turned, rows) in zip(figure.subplots(1, 3, sharey=True), told["aucs"].items(), strict=True):
        for part in rows[0]:
            axes.plot(told["weights"], [row[part] for row in rows], marker="o", markersize=3, label=part)
        axes.axhspan(0.48, 0.52, color="#dddddd", zorder=0)
        axes.set_xlabel(f"--knobs.{turned}")
        axes.legend(fontsize=7)
    figure.axes[0].set_ylabel("AUC within a category")
    figure.suptitle("What a part of the truth alone explains, by the weight of one of them (synthetic)", fontsize=9)
    figure.savefig(FIGURES / "bazaar-knobs.png", dpi=90, metadata={"Software": None})


def beside(stores: list[Path]) -> None:
    """What several Stores' events are like, by the numbers of the data sheet."""
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    (lengths, items_, gaps), bars = figure.subplots(2, 3)
    names, entropy, repeats, categories_again = [], [], [], []
    for path in stores:
        store = Store(path)
        numbers = count_events(store, [], now_ms=2**62)
        names.append(f"{store.name}{' (synthetic)' if store.manifest.get('synthetic') else ''}")
        length = np.sort(numbers.lengths)[::-1]
        lengths.loglog(np.arange(1, len(length) + 1) / len(length), length, label=names[-1])
        count = np.sort(numbers.item_counts[1:])[::-1]
        items_.plot(np.linspace(0, 1, len(count)), np.cumsum(count) / count.sum())
        # Without times, an empty line: the next Store keeps its colour.
        shares = [] if numbers.gaps is None else numbers.gaps / numbers.gaps.sum()
        gaps.plot(np.arange(len(shares)), shares, marker="o", markersize=3)
        told = categories(store, numbers.item_counts, category_names(store))
        entropy.append(told.entropy if told else np.nan)
        repeats.append(numbers.repeats / max(numbers.steps, 1))
        categories_again.append(numbers.category_repeats / numbers.category_steps if told else np.nan)
    for axes, x, y in (
        (lengths, "share of users, busiest first", "events"),
        (items_, "share of items, most frequent first", "share of events"),
        (gaps, "time to the next event, from", "share of steps"),
    ):
        axes.set_xlabel(x, fontsize=8)
        axes.set_ylabel(y, fontsize=8)
        axes.tick_params(labelsize=7)
    gaps.set_xticks(range(len(GAPS)), [name for name, _ in GAPS], rotation=60, ha="right")
    for axes, values, title in (
        (bars[0], entropy, "entropy of events over categories, bits"),
        (bars[1], repeats, "steps to an item of the history"),
        (bars[2], categories_again, "steps to a category of the history"),
    ):
        drawn = axes.barh(range(len(names)), np.nan_to_num(values), color=[f"C{n}" for n in range(len(names))])
        axes.set_yticks([])
        axes.bar_label(drawn, [f"{v:.2f}" if np.isfinite(v) else "not known" for v in values], fontsize=7, padding=2)
        axes.set_xlim(0, 1.25 * np.nanmax(values))
        axes.set_title(title, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.invert_yaxis()
    figure.legend(*lengths.get_legend_handles_labels(), fontsize=8, ncols=len(names), loc="outside lower center")
    figure.savefig(FIGURES / "bazaar-beside.png", dpi=90, metadata={"Software": None})


if __name__ == "__main__":
    main()
