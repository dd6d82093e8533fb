"""The command line, as a person meets it: help teaches, mistakes are answered, the whole way works."""

from __future__ import annotations

import contextlib
import csv
import json
from pathlib import Path

import pytest

from penchant.cli.main import COMMANDS, main
from tests.factories import make_store


def run(*args: object) -> int:
    return main([str(a) for a in args])


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == run() == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_by_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(SystemExit):
        assert run(command, "--help") == 0
    captured = capsys.readouterr()
    assert f"penchant {command} " in captured.out + captured.err


def test_mistyped_command_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("trian", "sasrec") == 2
    assert "Did you mean 'train'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("train", "sasrek", "store"), "there is no recipe 'sasrek'"),
        (("prepare", "tabel"), "there is no source 'tabel'"),
        (("train", "popularity", "nowhere"), "no Store here"),
        (("evaluate", "nowhere"), "no finished run here"),
        (("evaluate",), "name a run, or --lists"),
        (("export", "nowhere", "--out", "bundle"), "no funnel here"),
        (("reproduce", "nothing"), "there is no table 'nothing'"),
    ],
)
def test_mistakes_end_with_one_line_and_status_2(
    args: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*args) == 2
    err = capsys.readouterr().err
    assert says in err
    assert "Traceback" not in err


def test_wrong_type_of_a_field_names_the_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run("train", "sasrec", tmp_path, "--model.width", "wide")
    assert ended.value.code == 2
    assert "--model.width" in capsys.readouterr().err


def test_logs_to_judged_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / "clicks.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user_id", "item_id", "timestamp"])
        for user in range(30):
            for i in range(8):
                writer.writerow([f"u{user}", f"i{(user + i * i) % 12}", 1_700_000_000 + 1000 * i + user])
    store, out = tmp_path / "store", tmp_path / "run"
    assert run("prepare", "table", "--events", tmp_path / "clicks.csv", "--out", store) == 0
    assert run("train", "markov", store, "--split", "loo", "--out", out, "--model.neighbours", 5) == 0
    assert run("evaluate", out, "--trec", tmp_path / "lists.run") == 0
    judged = json.loads((out / "evaluation-test.json").read_text())["metrics"]
    assert judged["HR@10"] > 0.5
    capsys.readouterr()
    assert run("evaluate", "--lists", tmp_path / "lists.run", "--store", store, "--split", "loo") == 0
    assert f"{judged['HR@10']:.4f}" in capsys.readouterr().out


def test_report_is_written_and_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results").mkdir()
    where = ("--results", tmp_path / "results", "--docs", tmp_path / "docs")
    assert run("report", "results", *where, "--check") == 2
    assert run("report", "results", *where) == 0
    assert run("report", "results", *where, "--check") == 0
    assert "up to date" in capsys.readouterr().out


def test_funnel_to_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_store(tmp_path / "store", num_users=80)
    sizes = ("--settings.merged-size", 40, "--settings.preranked-size", 20)
    short = ("--prerank-train.epochs", 1, "--rank-train.epochs", 1, "--channels.0.run.train.epochs", 1)
    assert run("funnel", tmp_path / "store", "--out", tmp_path / "run", *sizes, *short) == 0
    assert "report.html" in capsys.readouterr().out
    assert run("export", tmp_path / "run", "--out", tmp_path / "bundle") == 0
    assert (tmp_path / "bundle" / "manifest.json").is_file()
    assert run("export", tmp_path / "run", "--out", tmp_path / "bundle") == 2
