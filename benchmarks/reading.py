"""Whether the words that KARMA's vectors tell are about their users, on clicks that no training has seen.

The text of each click is told from its user's own h_t, from another user's and from the mean of all, in nats a word;
and by no vector: each text, or each word, as likely as it is among what was clicked. The likeliest words are compared
with the title clicked, beside another user's words and the most popular title. Which of fifty texts is the one clicked,
the others drawn by popularity, is told in nats. Where pictures are told, whether the one clicked is among the ten
nearest.

    python -m benchmarks.reading runs/karma-ml-1m runs/karma-bazaar --stores stores
    python -m benchmarks.reading runs/karma-bazaar --stores stores --examples 10    # results/findings/interests.md
                                                                  # and docs/figures/interests.png, if it has pictures
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from benchmarks.bazaar_figures import FIGURES
from benchmarks.command import argument_parser, parsed, run_in
from benchmarks.written import is_there, write
from PIL import Image

from penchant.data.store import Store, write_text
from penchant.errors import ConfigError
from penchant.evaluation.report.findings import FINDINGS
from penchant.recipes.karma.build import item_texts
from penchant.recipes.karma.explain import APART, Explainer, Explanation, Readability
from penchant.recipes.karma.explained import small_pictures

TABLE = "reading"


def main() -> None:
    parser = argument_parser(__doc__, threads=1)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs of karma_decoded")
    parser.add_argument("--stores", type=Path, default=Path("stores"))
    parser.add_argument("--targets", type=int, default=1000)
    parser.add_argument("--prefix", default="", help="what the rows' names begin with: a second run of one Store")
    parser.add_argument("--examples", type=int, default=0, help="show so many users of the last run, drawn at random")
    arguments = parsed(parser)
    if arguments.examples:
        folder = arguments.runs[-1]
        explainer = Explainer(folder, run_in(folder, arguments.stores))
        explained = explained_of(explainer, arguments.examples)
        write_text(arguments.results / FINDINGS / "interests.md", examples(explainer, explained))
        if any(one.pictures for one in explained):
            contact_sheet(explainer.store, explained).save(FIGURES / "interests.png", optimize=True)
        return
    for folder in arguments.runs:
        loaded = run_in(folder, arguments.stores)
        name = loaded.store.name
        if is_there(arguments.results, TABLE, f"{arguments.prefix}karma", loaded.store, loaded.split.name):
            print(f"{name}: finished before")
            continue
        checked = Explainer(folder, loaded).readability("test", arguments.targets)
        print(name, *checked.lines(), sep="\n", flush=True)
        for row, metrics in reversed(metrics_of(checked).items()):  # karma last: it says that all are there
            where = (arguments.results, TABLE, arguments.prefix + row, loaded.store, loaded.split.name)
            write(*where, metrics, loaded.described["config"], window="test", steps=len(checked.users))


EXAMPLES = """# Interests, read

[KARMA](../../src/penchant/papers/karma/README.md) makes one vector of all that a user did, and retrieves by it. Trained
to tell items' texts from such vectors, it can also be asked what a vector says. A nat a word is how surprised it is by
each word of a text: the fewer, the better the vector tells it.

Users of {data} drawn at random, good or bad: nobody chose them. Beside each what was decoded from their vector alone
(the likeliest words, one after the other), the actions it was made from, and the items nearest to it. Of the {count}
texts told {copied} are exactly how an item's text begins. The history is not given to what tells them.

Over clicks that no training has seen, the text clicked takes
{{{{benchmarks/reading@{data} karma: Nats a word}}}} nats a word told from its own user's vector,
{{{{benchmarks/reading@{data} another-user: Nats a word}}}} from another's,
{{{{benchmarks/reading@{data} nobody: Nats a word}}}} from the mean of all, and
{{{{benchmarks/reading@{data} word-frequencies: Nats a word}}}} from no vector, each word as likely as it is among
the texts clicked. Who knows every text of the catalogue by heart, and has only to say which it is, needs
{{{{benchmarks/reading@{data} most-popular: Nats a word}}}} if each is as likely as it is clicked: a bound, out of
reach of what writes word by word. Like for like: which of fifty texts is the one clicked, the others drawn as often as
they are clicked, takes {{{{benchmarks/reading@{data} karma: {apart}}}}} nats by its own user's vector,
{{{{benchmarks/reading@{data} another-user: {apart}}}}} by another's, and
{{{{benchmarks/reading@{data} most-popular: {apart}}}}} by popularity, which cannot tell them apart.
Of a run on the Store {fingerprint}, seed {seed}.

| user | decoded from the vector | last actions, newest first | nearest items |
| --- | --- | --- | --- |
"""


PICTURES = """
Its picture is told as well, a vector of the space that pictures are encoded in. Left the pictures of the last actions,
newest first; in the middle those nearest to the picture told; right those of the nearest items. A row a user, in the
order of the table. It is the mean of sixteen pictures: where a user wants several things it may be none of them.
The share of clicks whose picture is among the ten nearest, of {items:,}, to the one told:
{{{{benchmarks/reading@{data} karma: Picture among 10}}}}; told from another's vector
{{{{benchmarks/reading@{data} another-user: Picture among 10}}}}, from the mean of all
{{{{benchmarks/reading@{data} nobody: Picture among 10}}}}.

![Last actions, pictures told, nearest items (all generated)](../figures/interests.png)
"""
TILE, GAP = 56, 14
"""Width of a picture on the sheet, and between its parts, in pixels."""


def explained_of(explainer: Explainer, count: int) -> list[Explanation]:
    """Users drawn at random; of generated data alone, as other catalogues have owners.

    Raises:
        ConfigError: the Store is not synthetic.
    """
    store = explainer.store
    if not store.manifest.get("synthetic"):
        raise ConfigError(
            f"{store.name} is real data", where="--examples", fix="Name a run on a generated market last."
        )
    return explainer.explain(explainer.drawn(count))


def examples(explainer: Explainer, explained: Sequence[Explanation], shown: int = 4) -> str:
    """The page of these users."""
    store = explainer.store

    def told(items: tuple[int, ...]) -> str:
        return "; ".join(explainer.titles[item] for item in items[:shown])

    texts = [" ".join(text.split()) for text in item_texts(store)]
    copied = sum(any(text.startswith(one.words) for text in texts) for one in explained if one.words)
    lines = [
        f"| {one.user_id} | **{one.words or '(no word)'}** | {told(one.history)} | {told(one.nearest)} |\n"
        for one in explained
    ]
    page = EXAMPLES + "".join(lines) + (PICTURES if any(one.pictures for one in explained) else "")
    provenance = {"apart": APART, "data": store.name, "fingerprint": store.fingerprint, "seed": explainer.seed}
    return page.format(**provenance, count=len(explained), copied=copied, items=store.num_items)


def contact_sheet(store: Store, explained: Sequence[Explanation], shown: int = 6) -> Image.Image:
    """A row a user: pictures of the last actions, those nearest to the picture told, those of the nearest items."""
    rows = [[part[:shown] for part in (one.history, one.pictures, one.nearest)] for one in explained]
    found = small_pictures(store, {item for row in rows for part in row for item in part}, (TILE, TILE))
    part_width = shown * (TILE + 2) + GAP
    sheet = Image.new("RGB", (3 * part_width - GAP, len(rows) * (TILE + 2)), "white")
    for y, row in enumerate(rows):
        for n, part in enumerate(row):
            for x, item in enumerate(part):
                if found[item]:
                    place = (n * part_width + x * (TILE + 2), y * (TILE + 2))
                    sheet.paste(Image.open(io.BytesIO(found[item])), place)
    return sheet.quantize(256)


def metrics_of(checked: Readability) -> dict[str, dict[str, float | None]]:
    """A row for each vector that is read, and for what needs none; the user's own is "karma"."""
    rows = {
        "own": "karma",
        "another's": "another-user",
        "nobody's": "nobody",
        "popular titles": "most-popular",
        "word frequencies": "word-frequencies",
    }
    out: dict[str, dict[str, float | None]] = {row: {} for row in rows.values()}
    for what, values in checked.measures().items():
        gains = checked.gains(what)
        for name, value in values.items():
            out[rows[name]][what] = float(value.mean())
            if name in gains:
                out[rows[name]] |= {
                    f"{what}: own less this, from": gains[name].low,
                    f"{what}: own less this, to": gains[name].high,
                }
    return out


if __name__ == "__main__":
    main()
