"""penchant funnel, penchant demo."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from rich.console import Console
from tyro.conf import Positional

from penchant.cli.arguments import cold_users, open_split, parse, parse_with_run
from penchant.data.prepare import prepare
from penchant.data.sources import movielens
from penchant.data.split import Split
from penchant.data.store import Store
from penchant.encoders.encode import encode_store
from penchant.encoders.packaged import MINILM, install_models
from penchant.errors import ConfigError, ModelUnavailableError
from penchant.evaluation.funnel.report import render_terminal
from penchant.recipes.funnel import plan
from penchant.recipes.funnel import run as recipe
from penchant.recipes.funnel.demo import demo_funnel
from penchant.recipes.named import funnel_by
from penchant.serve.app import serve
from penchant.serve.export import export


@dataclass(frozen=True, kw_only=True)
class TrainFunnel:
    """Train a whole funnel (channels, pre-ranker, ranker), judge it, and write its report.

    Channels learn before the first cut of the split, pre-ranker and ranker on the window after it, the verdict comes
    from the last. The report shows where each lost click was lost, and what every stage is worth.

    $ penchant funnel stores/ml-100k --out runs/funnel
    $ penchant funnel stores/shop --out runs/shop --settings.merged-size 500 --rank-train.epochs 3
    $ penchant funnel stores/shop --out runs/papers --find-by karma_decoded ulim t2diff --fuse karma_decoded

    A run that was cut goes on where it stopped when the same command is given again.
    """

    store: Positional[Path]
    """The Store."""
    out: Path
    """The run's folder."""
    split: str = "funnel"
    """The Store's split of that name; or a CSV or Parquet file of your own with user_id, item_id, timestamp, window
    (train, rank, valid, test)."""
    targets: int = 0
    """Judge a random subsample of so many clicks of the test window; 0 = all."""
    find_by: tuple[str, ...] = ()
    """Recipes (`penchant train` lists them) whose models are the channels, beside popularity; sasrec and item_knn where
    none is named."""


def funnel(args: Sequence[str]) -> None:
    """Train, judge and report a funnel."""
    chosen, run = parse_with_run("funnel", TrainFunnel, funnel_by(_named(args)), args)
    console = Console(highlight=False)
    if chosen.targets < 0:
        raise ConfigError(f"--targets is {chosen.targets}", fix="Give 1 or more, or 0 to judge all.")
    store = Store(chosen.store)
    _funnel(run, store, _split(store, chosen.split), chosen.out, chosen.targets, console)
    said = f"Report: {chosen.out / 'report.html'}    Next: penchant export {chosen.out} --out BUNDLE"
    console.print(said, soft_wrap=True)  # a path is one word, however long


def _named(args: Sequence[str]) -> list[str]:
    """What follows --find-by: which channels there are decides which further arguments there are."""
    for place, argument in enumerate(args):
        name, _, value = argument.partition("=")
        if name in ("--find-by", "--find_by"):
            following = takewhile(lambda a: not a.startswith("-"), args[place + 1 :])
            return [value] if value else list(following)
    return []


def _split(store: Store, name: str) -> Split:
    """The split, which needs a window for the rankers to learn from.

    Raises:
        ConfigError: it has none, or the Store has no times to cut by.
    """
    own = "--split FILE, a split of your own whose windows are train, rank, valid and test"
    if name == "funnel" and not store.has_time:
        fix = f"Prepare it with times, or give {own}."
        raise ConfigError("a funnel needs times, and this data has an order but no times", where=store.path, fix=fix)
    split = open_split(store, name)
    if "rank" not in split.windows:
        what = f"split {split.name!r} has no window 'rank', it has {', '.join(split.windows)}"
        raise ConfigError(what, where="--split", fix=f"Use --split funnel, or {own}.")
    return split


def _funnel(run: plan.FunnelRun, store: Store, split: Split, out: Path, targets: int, console: Console) -> None:
    report = recipe.run_funnel(run, store, split, out, console, limit=targets).report
    console.print(render_terminal(report))
    console.print(cold_users(split, "test"))


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Real users' logs to a trained, judged and served funnel: MovieLens 100K, a few minutes on two cores.

    SASRec, T2Diff, ULIM, item-kNN and popularity find; DMAE ranks, which reads the movies' texts by a small encoder
    (84 MB from the package index, once).

    $ penchant demo               ends with a server at http://127.0.0.1:8000
    $ penchant demo --no-serve    ends when everything is judged and exported
    $ penchant demo --karma       with KARMA as channel, fusion and feature: some ten minutes more, after `make models`
    """

    out: Path = Path("demo")
    """Folder for the Store, the run and the bundle; what is finished there is not made again."""
    serve: bool = True
    """Open the server at the end."""
    port: int = 8000
    karma: bool = False
    """Add KARMA on the packaged SmolLM2."""
    data: str = "ml-100k"
    """A MovieLens release by name, archive or folder."""


def demo(args: Sequence[str]) -> None:
    """Prepare, train, judge, export, serve."""
    chosen = parse("demo", Demo, args)
    console = Console(highlight=False)
    began = time.perf_counter()
    console.rule("1  Real logs become a Store")
    path = chosen.out / "store"
    if not path.is_dir():
        chosen.out.mkdir(parents=True, exist_ok=True)
        prepare(movielens.read(movielens.MovieLens(path=chosen.data, view="liked")), path)
    store = Store(path)
    console.print(store)
    run, bundle = (chosen.out / (f"{name}-karma" if chosen.karma else name) for name in ("run", "bundle"))
    try:
        install_models((MINILM,))
        for summary in encode_store(store, image=None):
            console.print(str(summary))
    except ModelUnavailableError as error:
        if chosen.karma:
            raise
        console.print(f"Without vectors of texts DIN ranks, not DMAE: {error}")
    console.rule("2  Channels, pre-ranker and ranker are trained, then judged on clicks none of them has seen")
    _funnel(demo_funnel(with_karma=chosen.karma), store, _split(store, "funnel"), run, 0, console)
    console.rule("3  What serving needs, and no more, becomes a bundle")
    if not bundle.is_dir():
        export(run, store, bundle)
    size = sum(f.stat().st_size for f in bundle.rglob("*") if f.is_file()) / 1e6
    console.print(f"{bundle}: {size:.1f} MB")
    console.print(f"The funnel's report: [bold]{(run / 'report.html').resolve()}[/]")
    console.print(f"Done in {time.perf_counter() - began:.0f} s.")
    if chosen.serve:
        console.rule("4  Open the page, click something, and watch the list move (Ctrl-C ends)")
        serve(bundle, port=chosen.port)
