"""Result files: written whole or not at all, read with every field checked."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from penchant.errors import ConfigError, RunError
from penchant.evaluation import results
from penchant.evaluation.results import find_results, read_per_user, read_result, versions_here, write_result
from tests.evaluation.rows import per_user, result


def test_what_is_written_is_read(tmp_path: Path) -> None:
    row = result(slices={"item": {"head": {"targets": 3}}}, notes=("a note",), versions=versions_here())
    path = write_result(tmp_path, row, per_user(0.3))
    assert path == tmp_path / "house" / "retrieval" / "sasrec.made-up.loo.s0.json"
    assert read_result(path) == row
    table = read_per_user(tmp_path, row)
    assert table is not None
    assert table.equals(per_user(0.3))


def test_an_undefined_metric_is_none_not_a_number_json_does_not_know(tmp_path: Path) -> None:
    path = write_result(tmp_path, result(metrics={"AUC": math.nan, "HR@10": 0.5}))
    assert read_result(path).metrics == {"AUC": None, "HR@10": 0.5}
    assert "NaN" not in path.read_text()
    assert read_per_user(tmp_path, result()) is None


def test_results_are_found_in_order_and_table_files_are_not_rows(tmp_path: Path) -> None:
    for row, seed in (("b", 1), ("a", 0), ("b", 0)):
        write_result(tmp_path, result(row=row, seed=seed))
    write_result(tmp_path, result(paper="other"))
    (tmp_path / "house" / "retrieval" / "table.json").write_text("{}")
    assert [(r.row, r.seed) for r in find_results(tmp_path, "house")] == [("a", 0), ("b", 0), ("b", 1)]
    assert len(find_results(tmp_path)) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": "0"}, "field 'seed' is '0', not int"),
        ({"seed": True}, "field 'seed' is True, not int"),
        ({"synthetic": 0}, "field 'synthetic' is 0, not bool"),
        ({"metrics": {"HR@10": "high"}}, "field 'metrics'"),
        ({"notes": [1]}, "field 'notes'"),
        ({"steps": None}, "field 'steps' is None"),
        ({"speed": 1}, "unknown field 'speed'"),
        ({"format": 0}, "field 'format'"),
        ({"row": "gru4rec"}, "its fields say house/retrieval/gru4rec.made-up.loo.s0"),
    ],
)
def test_a_wrong_field_is_named_with_its_file(tmp_path: Path, change: dict, message: str) -> None:
    path = write_result(tmp_path, result())
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(RunError, match=f"s0.json: {message}"):
        read_result(path)


def test_a_missing_field_and_a_cut_file_are_named(tmp_path: Path) -> None:
    path = write_result(tmp_path, result())
    whole = path.read_text()
    path.write_text(json.dumps({k: v for k, v in json.loads(whole).items() if k != "trials"}))
    with pytest.raises(RunError, match="field 'trials' is missing"):
        read_result(path)
    path.write_text(whole[:100])
    with pytest.raises(RunError, match="not a result file"):
        read_result(path)


def test_a_damaged_per_user_file_is_named(tmp_path: Path) -> None:
    path = write_result(tmp_path, result(), per_user(0.3)).with_suffix(".parquet")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(RunError, match=r"s0\.parquet: damaged"):
        read_per_user(tmp_path, result())


@pytest.mark.parametrize("row", ["a.b", "../up", "", "two words"])
def test_a_name_that_is_no_file_name_is_refused(tmp_path: Path, row: str) -> None:
    with pytest.raises(ConfigError, match="is no name"):
        write_result(tmp_path, result(row=row))
    assert not any(tmp_path.iterdir())


def test_per_user_files_stay_small_by_dropping_the_last_metrics(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    users = 25_000
    values = {name: rng.random(users).astype(np.float32) for name in ("HR@10", "NDCG@10", "MRR@10", "MRR@20")}
    values["MRR@20"] = np.round(values["MRR@20"])
    table = pa.table({"user": np.arange(users, dtype=np.int32), "weight": np.ones(users, dtype=np.int32), **values})
    path = write_result(tmp_path, result(), table)
    assert path.with_suffix(".parquet").stat().st_size <= results.PER_USER_BYTES
    kept = read_per_user(tmp_path, result())
    assert kept is not None
    assert kept.column_names == ["user", "weight", "HR@10", "NDCG@10"]
    assert read_result(path).per_user_dropped == ("MRR@10", "MRR@20")
    again = write_result(tmp_path / "again", read_result(path), read_per_user(tmp_path, read_result(path)))
    assert read_result(again).per_user_dropped == ("MRR@10", "MRR@20")


def test_a_write_that_fails_leaves_no_finished_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TypeError):
        write_result(tmp_path, replace(result(), config={"a": object()}), per_user(0.3))
    monkeypatch.setattr(results, "write_json", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_result(tmp_path, result(), per_user(0.3))
    assert find_results(tmp_path) == []
