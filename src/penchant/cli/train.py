"""penchant train, penchant evaluate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import getdoc
from pathlib import Path

from rich.console import Console
from tyro.conf import Positional

from penchant.cli.arguments import check_folder, cold_users, open_split, parse, parse_with_run, pick
from penchant.data.store import Store
from penchant.errors import ConfigError
from penchant.evaluation.lists import evaluate_lists, write_trec
from penchant.evaluation.protocol import RetrievalResult
from penchant.recipes.judge import judge_run, metrics_table
from penchant.recipes.named import RECIPES, recipe_of
from penchant.recipes.runs import CountRun, RankingRun, Run, load_run, train_run

TRAIN_HELP = """\
usage: penchant train RECIPE STORE [--split NAME] [--out RUN] [--FIELD VALUE ...]

A recipe is a complete run; every field of it can be set by name, and its type is checked.

  penchant train sasrec stores/ml-1m --split loo --out runs/sasrec --train.epochs 30 --model.width 128
  penchant train din stores/ml-1m-liked --split temporal-successive
  penchant train sasrec --help     every field, with its default

A run that was cut goes on where it stopped when the same command is given again.
"""
RETRIEVAL = "Retrieval models find items in the whole catalogue.\n"
RANKERS = """
Rankers order items. They learn from impressions, what was shown and clicked or not
(`penchant prepare table ... --impressions shown.csv`). A funnel's own ranker needs none: it learns from clicks among
what the funnel's channels find.
"""


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train one model on the train window of a split, chosen on its valid window.

    A run that was cut goes on where it stopped when the same command is given again.
    """

    store: Positional[Path]
    """The Store."""
    split: str = "temporal-successive"
    """Split of the Store: temporal-successive, temporal-last, loo, funnel; or a CSV or Parquet file of your own with
    user_id, item_id, timestamp, window (train, valid, test)."""
    out: Path | None = None
    """The run's folder; runs/RECIPE-STORE-SPLIT where none is given."""


def train(args: Sequence[str]) -> None:
    """Train a recipe."""
    console = Console(stderr=True, highlight=False)
    says = {recipe.__name__: _paragraphs(recipe) for recipe in RECIPES}
    listed = {name: first.removeprefix("Ranker: ") for name, (first, *_) in says.items()}
    name = pick("train", "recipe", listed, TRAIN_HELP, args, _groups())
    if name is None:
        return
    run = recipe_of(name)
    begins, *ends = _paragraphs(Train)
    words = "\n\n".join([begins, *says[name][1:], _examples(name, run), *ends])
    chosen, run = parse_with_run(f"train {name}", Train, run, args[1:], words)
    store = Store(chosen.store)
    split = open_split(store, chosen.split)
    out = chosen.out or Path("runs") / f"{name}-{store.name}-{split.name}"
    result = train_run(run, store, split, out)
    best = "" if result.best is None else f", {result.best:.4f} on valid at {result.best_step:,}"
    console.print(f"{result.steps:,} steps in {result.wall_seconds:,.0f} s{best}. Model in [bold]{out}[/]")
    console.print(f"Next: penchant evaluate {out}")


def _paragraphs(documented: object) -> list[str]:
    """A docstring's paragraphs, each as one line."""
    return [" ".join(paragraph.split()) for paragraph in (getdoc(documented) or "").split("\n\n")]


def _groups() -> dict[str, list[str]]:
    """Heading -> the recipes that the help lists under it."""
    groups: dict[str, list[str]] = {RETRIEVAL: [], RANKERS: []}
    for recipe in RECIPES:
        groups[RANKERS if isinstance(recipe(), RankingRun) else RETRIEVAL].append(recipe.__name__)
    return groups


def _examples(name: str, run: Run) -> str:
    """Commands that train this recipe."""
    fields = "" if isinstance(run, CountRun) else " --train.epochs 10"
    command = f"$ penchant train {name} stores/shop"
    return f"{command}\n{command} --split funnel --out runs/{name}{fields}"


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Judge a trained model on the whole catalogue: never on sampled negatives.

    $ penchant evaluate runs/sasrec
    $ penchant evaluate runs/sasrec --filter-seen --trec lists.run
    $ penchant evaluate --lists lists.run --store stores/ml-1m --split loo
    $ penchant evaluate runs/sasrec --search
    $ penchant evaluate --search --store stores/bazaar-small

    With --search, only clicks that came from a query are judged: the clicked item's place in the whole catalogue, and
    among the items that match the query's words, for text search, the sentence encoder of `penchant encode`, popularity
    within the matches, and the run: as it is, as the order of the matches, and without its user. On a generated market
    (penchant prepare bazaar) the true relevance of the first ten stands beside it, so that a model that puts its user's
    taste above the query shows.
    """

    run: Positional[Path | None] = None
    """Folder of a finished run."""
    window: str = "test"
    """Window of the run's split: valid to choose, test to report."""
    lists: Path | None = None
    """Judge lists made elsewhere instead: a TREC run, or Parquet with user_id, item_id, rank."""
    store: Path | None = None
    """The Store, where it is not where the run found it; needed with --lists."""
    split: str | None = None
    """With --lists, or --search without a run: the split, temporal-successive where none is given. A run is judged on
    its own."""
    search: bool = False
    """Judge search: how well the clicked item of each query is found, beside what searches without a user."""
    beside: tuple[Path, ...] = ()
    """With --search: further runs of the same Store and split."""
    out: Path | None = None
    """With --search: where the numbers go as JSON, with each user's as Parquet beside it. The run's folder where none
    is given."""
    filter_seen: bool = False
    """Also rank with the items of the history left out, as a second column."""
    targets: int | None = None
    """Judge a random subsample of so many targets; their metrics go to a file of their own."""
    trec: Path | None = None
    """Also write the lists as a TREC run."""
    memory_mb: float = 256
    """Scores held at once, in MB; changes no number."""
    device: str = "auto"


def evaluate(args: Sequence[str]) -> None:
    """Judge a run or lists; print the metrics and write them beside the run."""
    chosen = parse("evaluate", Evaluate, args)
    check_folder(chosen.out)
    check_folder(chosen.trec, "--trec")
    if chosen.search:
        _search(chosen)
        return
    _refuse("without --search", {"--beside": chosen.beside or None, "--out": chosen.out})
    if (chosen.run is None) == (chosen.lists is None):
        raise ConfigError("name a run, or --lists with --store", fix="penchant evaluate --help shows both.")
    _check_targets(chosen)
    console = Console(highlight=False)
    of_model = {"--targets": chosen.targets, "--filter-seen": chosen.filter_seen, "--trec": chosen.trec}
    if chosen.lists is not None:
        _refuse("with --lists", {**of_model, "--device": None if chosen.device == "auto" else chosen.device})
        if chosen.store is None:
            raise ConfigError("--lists needs --store", fix="Name the Store whose targets the lists are for.")
        store = Store(chosen.store)
        split = open_split(store, chosen.split or "temporal-successive")
        judged = evaluate_lists(chosen.lists, store, split, chosen.window)
        console.print(metrics_table(judged, f"{chosen.lists.name} on {store.name}, {split.name}, {chosen.window}"))
        for note in (*judged.notes, cold_users(split, chosen.window)):
            console.print(note)
        return
    assert chosen.run is not None
    _refuse("for a run, which is judged on its own split", {"--split": chosen.split})
    loaded = load_run(chosen.run, chosen.store, chosen.device)
    ranker = loaded.described["run"] == "RankingRun"
    if ranker:
        _refuse("for a ranker, which is judged on all that users were shown", of_model)
    verdict = judge_run(
        loaded,
        chosen.run,
        chosen.window,
        targets=chosen.targets,
        filter_seen=chosen.filter_seen,
        memory_mb=chosen.memory_mb,
    )
    where = f"{loaded.store.name}, {loaded.split.name}, {chosen.window} ({loaded.split.fingerprint})"
    console.print(metrics_table(verdict.result, f"{chosen.run} on {where}"))
    for note in verdict.notes() if ranker else (*verdict.notes(), cold_users(loaded.split, chosen.window)):
        console.print(note)
    subsample = "" if chosen.targets is None else f"-{chosen.targets}"
    verdict.write(chosen.run / f"evaluation-{chosen.window}{subsample}.json")
    if chosen.trec is not None and isinstance(verdict.result, RetrievalResult):
        write_trec(verdict.result, loaded.store, chosen.trec, tag=loaded.described["config"]["kind"])


def _search(chosen: Evaluate) -> None:
    from penchant.cli.search import evaluate_search_of

    trec = {"--lists": chosen.lists, "--filter-seen": chosen.filter_seen, "--trec": chosen.trec}
    _refuse("with --search", trec)
    _check_targets(chosen)
    if chosen.run is not None:
        _refuse("for a run, which is judged on its own split", {"--split": chosen.split})
    runs = [run for run in (chosen.run, *chosen.beside) if run is not None]
    evaluate_search_of(
        runs, chosen.store, chosen.split, chosen.window, chosen.targets, chosen.memory_mb, chosen.device, chosen.out
    )


def _check_targets(chosen: Evaluate) -> None:
    if chosen.targets is not None and chosen.targets < 1:
        raise ConfigError(f"--targets is {chosen.targets}", fix="Give 1 or more, or leave it out to judge all.")


def _refuse(why: str, options: Mapping[str, object]) -> None:
    """Refuse options that were given and would change nothing."""
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    if given:
        names = ", ".join(name if value is True else f"{name} {value}" for name, value in given.items())
        raise ConfigError(f"{names} would change nothing {why}", fix=f"Leave {', '.join(given)} out.")
