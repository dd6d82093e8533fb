"""The generated market from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from penchant.cli.main import main
from tests.factories import make_store


def run(*args: object) -> int:
    return main([str(a) for a in args])


def test_a_market_is_made_and_its_oracle_tells_the_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = ("--size", "tiny", "--users", 80, "--days", 14, "--no-pictures", "--knobs.text", 1.5)
    assert run("prepare", "bazaar", *size, "--out", tmp_path / "store") == 0
    manifest = json.loads((tmp_path / "store" / "manifest.json").read_text())
    assert manifest["generator"]["knobs"]["text"] == 1.5
    assert run("bazaar", "oracle", tmp_path / "store", "--targets", 30, "--out", tmp_path / "oracle.json") == 0
    told = json.loads((tmp_path / "oracle.json").read_text())
    assert told["synthetic"] is True
    assert 0 < told["knows"]["user"]["HR@10"] <= told["knows"]["request"]["HR@10"] <= 1
    assert "synthetic" in capsys.readouterr().out


def test_a_run_is_put_beside_the_oracle_with_its_share_of_the_possible(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = ("--size", "tiny", "--users", 80, "--days", 14, "--no-pictures")
    assert run("prepare", "bazaar", *size, "--out", tmp_path / "store") == 0
    oracle = ("bazaar", "oracle", tmp_path / "store", "--targets", 30, "--beside", tmp_path / "run")
    assert run("train", "popularity", tmp_path / "store", "--out", tmp_path / "run") == 0
    assert run(*oracle) == 2
    assert "Judge it first: penchant evaluate" in capsys.readouterr().err
    assert run("evaluate", tmp_path / "run") == 0
    assert run(*oracle, "--out", tmp_path / "oracle.json") == 0
    told = json.loads((tmp_path / "oracle.json").read_text())
    reached, possible = told["beside"][str(tmp_path / "run")]["HR@10"], told["knows"]["session"]["HR@10"]
    assert f"({reached / possible:.0%})" in capsys.readouterr().out
    assert run(*oracle, "--split", "funnel") == 2
    assert "of another Store or split" in capsys.readouterr().err


def test_a_knob_out_of_range_and_a_store_of_real_data_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("prepare", "bazaar", "--knobs.cold", 3, "--out", tmp_path / "none") == 2
    assert "--knobs.cold: 3.0 is not between 0 and 1" in capsys.readouterr().err
    make_store(tmp_path / "store")
    assert run("bazaar", "oracle", tmp_path / "store", "--out", tmp_path / "nowhere" / "oracle.json") == 2
    assert "no such folder" in capsys.readouterr().err
    assert run("bazaar", "oracle", tmp_path / "store") == 2
    assert "nobody knows its truth" in capsys.readouterr().err
