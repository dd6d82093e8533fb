"""Whether the words that KARMA's vectors tell are about their users, on clicks that no training has seen.

The text of each click is told from its user's own h_t, from another user's and from the mean of all, in nats a word;
and by no vector: each text, or each word, as likely as it is among what was clicked. The likeliest words are compared
with the title clicked, beside another user's words and the most popular title. Where pictures are told, whether the one
clicked is among the ten nearest.

    python -m benchmarks.reading runs/karma-ml-1m runs/karma-bazaar --stores stores
    python -m benchmarks.reading runs/karma-bazaar --stores stores --examples 10    # results/findings/interests.md
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.command import argument_parser, parsed, run_in
from benchmarks.written import is_there, write

from penchant.data.store import write_text
from penchant.errors import ConfigError
from penchant.evaluation.report.findings import FINDINGS
from penchant.recipes.karma.build import item_texts
from penchant.recipes.karma.explain import Explainer, Readability

TABLE = "reading"


def main() -> None:
    parser = argument_parser(__doc__, threads=1)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs of karma_decoded")
    parser.add_argument("--stores", type=Path, default=Path("stores"))
    parser.add_argument("--targets", type=int, default=2000)
    parser.add_argument("--prefix", default="", help="what the rows' names begin with: a second run of one Store")
    parser.add_argument("--examples", type=int, default=0, help="show so many users of the last run, drawn at random")
    arguments = parsed(parser)
    if arguments.examples:
        folder = arguments.runs[-1]
        explainer = Explainer(folder, run_in(folder, arguments.stores))
        write_text(arguments.results / FINDINGS / "interests.md", examples(explainer, arguments.examples))
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
reach of what writes word by word. Of a run on the Store {fingerprint}, seed {seed}.

| user | decoded from the vector | last actions, newest first | nearest items |
| --- | --- | --- | --- |
"""


def examples(explainer: Explainer, count: int, shown: int = 4) -> str:
    """A page of users drawn at random; of generated data alone, as other catalogues have owners.

    Raises:
        ConfigError: the Store is not synthetic.
    """
    store = explainer.store
    if not store.manifest.get("synthetic"):
        raise ConfigError(
            f"{store.name} is real data", where="--examples", fix="Name a run on a generated market last."
        )

    def told(items: tuple[int, ...]) -> str:
        return "; ".join(explainer.titles[item] for item in items[:shown])

    explained = explainer.explain(explainer.drawn(count))
    texts = [" ".join(text.split()) for text in item_texts(store)]
    copied = sum(any(text.startswith(one.words) for text in texts) for one in explained if one.words)
    lines = [
        f"| {one.user_id} | **{one.words or '(no word)'}** | {told(one.history)} | {told(one.nearest)} |\n"
        for one in explained
    ]
    provenance = {"data": store.name, "fingerprint": store.fingerprint, "seed": explainer.seed}
    return EXAMPLES.format(**provenance, count=len(explained), copied=copied) + "".join(lines)


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
        gains = checked.gains(values)
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
