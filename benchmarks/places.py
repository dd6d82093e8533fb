"""KARMA in its three places (section 3.5) on one Store: recall channel, pre-ranking fusion, feature of the ranker.

Trains a funnel whose channels are KARMA, SASRec, item-kNN and popularity, and two DIN rankers on what was shown, one of
them with KARMA's similarities among its features, all on the split `funnel`, where nothing learns from a window that
what feeds it has seen. What is finished is not trained again.

    python -m benchmarks.places --store stores/ml-1m-liked --runs runs/places
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.command import argument_parser, parsed
from benchmarks.written import is_there, write
from rich.console import Console

from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.recipes import controls
from penchant.recipes.funnel.plan import FunnelRun, funnel_of
from penchant.recipes.funnel.run import run_funnel
from penchant.recipes.karma.places import measure_places, places_table
from penchant.recipes.karma.run import karma_decoded
from penchant.recipes.runs import flat, train_run

SPLIT = "funnel"
CLICKS = 10_000
"""Of the rank window, from which pre-ranker and ranker learn."""
JUDGED = 5_000
"""Clicks of the test window."""


def main() -> None:
    parser = argument_parser(__doc__, threads=1)
    parser.add_argument("--store", type=Path, default=Path("stores/ml-1m-liked"))
    parser.add_argument("--runs", type=Path, default=Path("runs/places"))
    arguments = parsed(parser)
    store, console = Store(arguments.store), Console(highlight=False)
    if is_there(arguments.results, "places", "with", store, SPLIT):
        console.print(f"{store.name}: finished before")
        return
    split = load_split(store, SPLIT)
    out = arguments.runs / store.name
    run_funnel(places_funnel(), store, split, out / "funnel", console, limit=JUDGED)
    plain = controls.din()
    similar = replace(plain, features_from=out / "funnel" / "channels" / "karma")
    for name, run in {"plain": plain, "similar": similar}.items():
        console.print(f"[bold]Ranker, {name}")
        train_run(run, store, split, out / name)
    places = measure_places(out / "funnel", out / "plain", out / "similar")
    console.print(places_table(places))
    kept = f"Targets among the {places.size:.0f} that reach the ranker"
    rows: dict[str, dict[str, float | None]] = {
        "merged-order": {kept: places.merged.value},
        "without": {kept: places.alone.value, "AUC": places.auc_plain},
        "with": {
            f"HR at {places.recall_share:.0%} of the catalogue": places.recall_hr,
            kept: places.fused.value,
            "AUC": places.auc_similar,
            "Fusion's gain, from": places.fused_gain.low,
            "Fusion's gain, to": places.fused_gain.high,
        },
    }
    told = replace(similar, features_from=Path("funnel/channels/karma"))  # where it lay is nobody's business
    config = {"funnel": flat(asdict(places_funnel())), "ranker": flat(asdict(told))}
    for name, metrics in rows.items():
        said = json.loads(json.dumps(config, default=str))
        write(arguments.results, "places", name, store, SPLIT, metrics, said, window="test")


def places_funnel() -> FunnelRun:
    """KARMA, kept decodable, beside the default funnel's channels; fused, and a feature."""
    karma, sasrec = karma_decoded(), controls.sasrec()
    karma = replace(karma, train=replace(karma.train, epochs=2.0, tensorboard=False))
    channels = {"sasrec": sasrec, "karma": karma, "item_knn": controls.item_knn(), "popularity": controls.popularity()}
    return replace(funnel_of(channels), fuse="karma", features_from="karma", rank_targets=CLICKS)


if __name__ == "__main__":
    main()
