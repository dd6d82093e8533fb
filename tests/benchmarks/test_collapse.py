"""The bench of collapse: rows of made-up diagnoses, and of runs that are counted."""

from __future__ import annotations

import base64
import io
import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from benchmarks import collapse as bench
from penchant.data.split import load_split
from penchant.data.store import write_json
from penchant.evaluation.diagnostics.attention import HeadNumbers, Reading
from penchant.evaluation.diagnostics.report import GROUPS, Diagnosis
from penchant.evaluation.results import find_results
from penchant.recipes.controls import popularity
from penchant.recipes.runs import train_run
from tests.factories import make_store
from tools import attention


def run(name: str, readers: tuple[str, ...] = (), at: float = 0.0) -> Diagnosis:
    """With readings whose entropy is `at`, and more by 0.1 and 0.2 with other weights; by 1 in the item encoder."""
    readings = [
        Reading(reader, weights, ((HeadNumbers(at + 0.1 * n + i, 0.0, 0.0, 0.0, 0.0),),), {}, ())
        for i, reader in enumerate(bench.READERS)
        if reader in readers
        for n, weights in enumerate(("trained", "untouched", "random"))
    ]
    return Diagnosis(name=name, kind="karma", numbers={"rank": at, "js": 0.5}, readings=tuple(readings))


def test_what_reads_has_a_row_as_it_began_and_one_of_chance_of_the_first_run_that_has_it() -> None:
    both = ("decoder", "item encoder")
    columns = (run("sasrec"), run("action", ("decoder",), 3.0), run("read", both, 5.0), run("again", both, 7.0))
    rows = bench.rows_of(columns)
    assert list(rows)[:4] == ["sasrec", "action", "read", "again"]
    entropy = {row: {k.split(", ")[1]: v for k, v in of.items() if "entropy" in k} for row, of in rows.items()}
    assert entropy == {
        "sasrec": {},
        "action": {"decoder": 3.0},
        "read": {"decoder": 5.0, "item encoder": 6.0},
        "again": {"decoder": 7.0, "item encoder": 8.0},
        "decoder-as-it-began": {"decoder": 3.1},
        "decoder-random": {"decoder": 3.2},
        "item-encoder-as-it-began": {"item encoder": 6.1},
        "item-encoder-random": {"item encoder": 6.2},
    }
    assert rows["action"] | {"Effective rank, items": 3.0, "JS@50": 0.5} == rows["action"]


def test_names_are_safe_and_no_run_takes_anothers_place() -> None:
    names = ("table1/action", "table1-action", "decoder random", "a.b (2)", "frozen text vectors")
    rows = bench.rows_of([run(name, ("decoder",)) for name in names], "liked.")
    safe = ["liked-table1-action", "liked-table1-action-2", "liked-decoder-random", "liked-a-b-2"]
    reads = ["liked-decoder-as-it-began", "liked-decoder-random-2"]
    assert list(rows) == [*safe, "liked-frozen-text-vectors", *reads]


def test_every_column_is_a_number_of_a_diagnosis() -> None:
    known = {key for numbers in GROUPS.values() for key in numbers}
    assert set(bench.OF_VECTORS.values()) <= known
    assert {"js", "topics", "uniformity", "alignment", "stable", "top"} <= set(bench.OF_VECTORS.values())


def test_runs_that_are_counted_and_named_alike_are_rows_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path / "store")
    folders = [tmp_path / name / "popularity.made-up.s0" for name in ("one", "other")]
    for folder in folders:
        train_run(popularity(), store, load_split(store, "temporal-successive"), folder)
    monkeypatch.setattr(sys, "argv", ["collapse", *map(str, folders), "--results", str(tmp_path / "results")])
    bench.main()
    found = find_results(tmp_path / "results")
    assert not (tmp_path / "results" / bench.MAPS).exists()  # nothing attends
    assert [result.row for result in found] == ["one-popularity", "other-popularity"]
    assert all(result.config["kind"] == "popularity" and result.seed == 0 for result in found)
    assert all(0 < (result.metrics["HR@50"] or 0) < 1 for result in found)


def read(reader: str, weights: str, pictures: dict[tuple[int, int], np.ndarray]) -> Reading:
    return Reading(reader, weights, (), pictures, ("a", "history"))


def test_maps_are_of_untrained_weights_once_and_of_every_run_and_can_be_drawn(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    maps = {w: {(n, 1): rng.dirichlet(np.ones(7), 7) for n in (1, 2)} for w in ("trained", "untouched", "random")}
    first, second = (
        Diagnosis(name=name, kind="karma", readings=tuple(read("decoder", w, maps[w]) for w in maps))
        for name in ("action", "both")
    )
    found = bench.maps_of((run("sasrec"), first, second))
    assert list(found) == ["decoder, layer 1, head 1", "decoder, layer 2, head 1"]
    for layer, columns in enumerate(found.values(), 1):
        assert [column["title"] for column in columns] == ["random", "as it began", "action", "both"]
        for column, weights in zip(columns, ("random", "untouched", "trained", "trained"), strict=True):
            pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(column["map"]))))
            np.testing.assert_array_equal(pixels, np.rint(255 * np.sqrt(maps[weights][layer, 1])))
    write_json(tmp_path / "maps.json", found)
    assert "history" not in (tmp_path / "maps.json").read_text()
    attention.draw(found, tmp_path / "maps.svg")
    drawn = (tmp_path / "maps.svg").read_text()
    ElementTree.fromstring(drawn)
    assert drawn.count("<image ") == 8


@pytest.mark.parametrize("source", sorted((attention.ROOT / "results").glob("*attention.json")), ids=lambda p: p.stem)
def test_the_pictures_shown_are_those_of_the_results(source: Path, tmp_path: Path) -> None:
    attention.draw(json.loads(source.read_text()), tmp_path / "drawn.svg")
    assert (tmp_path / "drawn.svg").read_bytes() == (attention.ROOT / f"docs/figures/{source.stem}.svg").read_bytes()
