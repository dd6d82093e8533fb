"""The command line, as a person meets it: help teaches, mistakes are answered, the whole way works."""

from __future__ import annotations

import contextlib
import csv
import json
import re
from importlib import import_module
from pathlib import Path

import pytest

from penchant.cli.main import COMMANDS, main
from tests.factories import make_store

SASREC_SIZES = ("width", "blocks", "heads", "expansion", "max_len")
GRU_SIZES = ("width", "state", "layers", "max_len")
RANKER_SIZES = ("width", "category_width", "hidden", "hidden_second", "attention")


def run(*args: object) -> int:
    return main([str(a) for a in args])


def log_of(path: Path, users: int, events: int, *, timed: bool = True) -> Path:
    """A made-up log of as many events for each user."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user_id", "item_id", "timestamp"] if timed else ["user_id", "item_id"])
        for user in range(users):
            for i in range(events):
                at = [1_700_000_000 + 1000 * i + user] if timed else []
                writer.writerow([f"u{user}", f"i{(user + i * i) % 12}", *at])
    return path


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
        (("train", "sasrek", "store"), "there is no recipe 'sasrek'. Did you mean 'sasrec'?"),
        (("prepare", "tabel"), "there is no source 'tabel'. Did you mean 'table'?"),
        (("train", "popularity", "nowhere"), "no Store here"),
        (("evaluate", "nowhere"), "no finished run here"),
        (("evaluate",), "name a run, or --lists"),
        (("explain", "nowhere"), "nowhere: no finished run here"),
        (("export", "nowhere", "--out", "bundle"), "no funnel here"),
        (("reproduce", "nothing"), "there is no table 'nothing'"),
        (("report", "nothing"), "there is no report 'nothing'"),
        (("report", "store", "nowhere"), "no Store here"),
    ],
)
def test_mistakes_end_with_one_line_and_status_2(
    args: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*args) == 2
    err = capsys.readouterr().err
    assert says in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("explain", "RUN", "--user", "u1", "--out", "nowhere/page.html"), "nowhere: no such folder. Make it first"),
        (("export", "RUN", "--out", "RUN", "--calibrate", "isotonic"), "already exists. Choose another --out"),
    ],
)
def test_where_the_output_goes_is_looked_at_before_the_run_is_read(
    args: tuple[str, ...], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("run.json", "result.json"):
        (tmp_path / name).write_text("not read")
    assert run(*(tmp_path if arg == "RUN" else arg for arg in args)) == 2
    assert says in capsys.readouterr().err.replace("\n", " ")


def test_the_damaged_file_of_a_funnel_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.json").write_bytes(b"\xff")
    assert run("export", tmp_path, "--out", tmp_path / "bundle") == 2
    assert "run.json: damaged or cut short" in capsys.readouterr().err.replace("\n", "")


@pytest.mark.parametrize(
    ("recipe", "field", "value", "says"),
    [
        ("sasrec", "--model.width", 63, "width 63 is not a multiple of heads 2. Set width to a multiple of heads."),
        *(("sasrec", f"--model.{n}", 0, f"{n} is 0. Set {n} to 1 or more.") for n in SASREC_SIZES),
        ("sasrec", "--model.dropout", 1.0, "dropout is 1.0. Set dropout to 0 or more, and below 1."),
        *(("gru4rec", f"--model.{n}", 0, f"{n} is 0. Set {n} to 1 or more.") for n in GRU_SIZES),
        ("gru4rec", "--model.dropout", -0.1, "dropout is -0.1. Set dropout to 0 or more"),
        *(("din", f"--model.{n}", 0, f"{n} is 0. Set {n} to 1 or more.") for n in RANKER_SIZES),
        ("din", "--model.embedding-dropout", 1.0, "embedding_dropout is 1.0. Set embedding_dropout to 0 or more"),
        ("din", "--model.dropout", 1.5, "dropout is 1.5. Set dropout to 0 or more"),
        *(("bst", f"--model.{n}", 0, f"{n} is 0. Set {n} to 1 or more.") for n in ("width", "heads", "positions")),
        ("bst", "--model.heads", 3, "width + category_width is 40, not a multiple of heads 3. Set heads to a divisor"),
        ("sasrec", "--data.max-len", 0, "max_len is 0. Set max_len to 1 or more."),
        ("sasrec", "--data.batch-targets", 0, "batch_targets is 0. Set batch_targets to 1 or more."),
        ("two_tower", "--model.dropout", 2.0, "dropout is 2.0. Set dropout to 0 or more, and below 1."),
        ("sasrec", "--objective.num-sampled", 0, "num_sampled is 0. Set num_sampled to 1 or more."),
        ("din", "--data.max-len", -3, "max_len is -3. Set max_len to 1 or more."),
        ("din", "--data.cells", 0, "cells is 0. Set cells to 1 or more."),
        ("sasrec", "--train.epochs", 0, "epochs is 0.0. Set epochs to above 0."),
        ("sasrec", "--train.optim.lr", -1, "optim.lr is -1.0. Set lr to above 0."),
    ],
)
def test_impossible_value_of_a_field_is_answered_with_name_value_and_fix(
    recipe: str, field: str, value: float, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", recipe, tmp_path, field.replace("_", "-"), value) == 2
    assert says in capsys.readouterr().err


def test_a_funnel_that_would_learn_from_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("funnel", tmp_path, "--out", tmp_path / "run", "--rank-targets=-1") == 2
    assert "rank_targets is -1. Set rank_targets to 1 or more." in capsys.readouterr().err


@pytest.mark.parametrize("option", [("--trec", "lists.run"), ("--out", "search.json")])
def test_a_folder_that_is_not_there_is_told_before_the_work(
    option: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = ("--search",) if option[0] == "--out" else ()
    assert run("evaluate", tmp_path / "run", *search, option[0], tmp_path / "nowhere" / option[1]) == 2
    assert f"nowhere: no such folder. Make it first, or choose another {option[0]}." in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_only_commands_that_go_on_say_so_when_interrupted(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(import_module(f"penchant.cli.{COMMANDS[command][0]}"), command, interrupted)
    assert run(command) == 130
    goes_on = command in ("train", "funnel", "encode", "reproduce", "demo")
    says = "interrupted; the same command goes on where it stopped" if goes_on else "interrupted"
    assert capsys.readouterr().err.strip() == says


def test_wrong_type_of_a_field_names_the_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run("train", "sasrec", tmp_path, "--model.width", "wide")
    assert ended.value.code == 2
    assert "--model.width" in capsys.readouterr().err


def test_logs_to_judged_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, out = tmp_path / "store", tmp_path / "run"
    assert run("prepare", "table", "--events", log_of(tmp_path / "clicks.csv", 30, 8), "--out", store) == 0
    assert run("train", "markov", store, "--split", "loo", "--out", out, "--model.neighbours", 5) == 0
    assert run("evaluate", out, "--trec", tmp_path / "lists.run", "--memory-mb", 1) == 0
    judged = json.loads((out / "evaluation-test.json").read_text())["metrics"]
    assert judged["HR@10"] > 0.5
    capsys.readouterr()
    assert run("evaluate", "--lists", tmp_path / "lists.run", "--store", store, "--split", "loo") == 0
    assert f"{judged['HR@10']:.4f}" in capsys.readouterr().out

    assert run("evaluate", out, "--targets", 7) == 0
    assert "0 users without history before the window are no targets." in capsys.readouterr().out
    assert json.loads((out / "evaluation-test.json").read_text())["metrics"] == judged
    assert "A random 7 of 30" in json.loads((out / "evaluation-test-7.json").read_text())["notes"][0]


def test_a_data_sheet_is_written_beside_its_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = make_store(tmp_path / "shop").path
    before = sorted(store.rglob("*"))
    assert run("report", "store", store) == run("report", "store", store, "--out", tmp_path / "own.html") == 0
    said = capsys.readouterr().out
    assert "checks pass" in said
    assert "files are those that were written" in said
    assert {path.name for path in tmp_path.iterdir()} == {"shop", "shop.html", "own.html"}
    assert sorted(store.rglob("*")) == before
    assert run("report", "store", store, "--out", store / "sheet.html") == 2
    assert run("report", "store", store, "--out", tmp_path / "nowhere" / "sheet.html") == 2
    err = capsys.readouterr().err
    assert "is inside the Store, which never changes" in err
    assert "no such folder" in err
    file = store / "arrays" / "event_item.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    assert run("report", "store", store) == 2
    assert "event_item.npy: its bytes are not those that were written" in capsys.readouterr().err


@pytest.mark.parametrize("report", ["results", "store", "diagnostics"])
def test_every_report_explains_itself_by_example(report: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run("report", report, "--help")
    assert ended.value.code == 0
    assert f"$ penchant report {report}" in capsys.readouterr().out


@pytest.mark.parametrize("lists", [True, False])
def test_evaluate_counts_the_users_that_begin_in_the_window(
    lists: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, log = tmp_path / "store", log_of(tmp_path / "clicks.csv", 30, 8)
    with log.open("a", newline="") as file:
        file.writelines(f"late{user},i{i},{1_700_000_000 + 10_000 + i}\r\n" for user in range(3) for i in range(5))
    assert run("prepare", "table", "--events", log, "--out", path) == 0
    assert run("train", "popularity", path, "--out", tmp_path / "run") == 0
    assert run("evaluate", tmp_path / "run", "--trec", tmp_path / "lists.run") == 0
    if lists:
        capsys.readouterr()
        assert run("evaluate", "--lists", tmp_path / "lists.run", "--store", path) == 0
    assert "3 users without history before the window are no targets." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--targets", 5), "--targets 5 would change nothing with --lists. Leave --targets out."),
        (("--filter-seen",), "--filter-seen would change nothing with --lists"),
        (("--trec", "x.run", "--device", "cpu"), "--trec x.run, --device cpu would change nothing with --lists"),
    ],
)
def test_options_that_lists_would_drop_are_refused(
    options: tuple[object, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("evaluate", "--lists", "nowhere.run", "--store", "nowhere", *options) == 2
    assert says in capsys.readouterr().err


def test_options_that_a_run_would_drop_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_store(tmp_path / "store")
    out = tmp_path / "run"
    assert run("train", "mean_pooling", tmp_path / "store", "--out", out, "--train.epochs", 0.1) == 0
    capsys.readouterr()
    for options in (("--targets", 5), ("--filter-seen",), ("--trec", tmp_path / "x.run")):
        assert run("evaluate", out, *options) == 2
        assert f"{options[0]}" in (err := capsys.readouterr().err)
        assert "would change nothing for a ranker" in err
    assert run("evaluate", out, "--split", "loo") == 2
    assert "--split loo would change nothing for a run" in capsys.readouterr().err
    assert run("evaluate", out, "--targets", 0) == 2
    assert "--targets is 0. Give 1 or more" in capsys.readouterr().err
    assert not list(out.glob("evaluation-*"))


def test_log_of_single_events_cannot_train_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "store"
    assert run("prepare", "table", "--events", log_of(tmp_path / "clicks.csv", 12, 1), "--out", store) == 0
    capsys.readouterr()
    assert run("train", "sasrec", store, "--split", "loo", "--out", tmp_path / "run") == 2
    assert f"{store}: no user has two events in window 'train' of split 'loo'" in capsys.readouterr().err


def test_report_is_written_and_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results").mkdir()
    where = ("--results", tmp_path / "results", "--docs", tmp_path / "docs")
    assert run("report", "results", *where, "--check") == 2
    assert run("report", "results", *where) == 0
    assert run("report", "results", *where, "--check") == 0
    assert "up to date" in capsys.readouterr().out


def test_funnel_without_times_or_a_rank_window_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "store"
    log = log_of(tmp_path / "clicks.csv", 12, 6, timed=False)
    assert run("prepare", "table", "--events", log, "--out", store) == 0
    capsys.readouterr()
    assert run("funnel", store, "--out", tmp_path / "run") == 2
    assert "a funnel needs times, and this data has an order but no times" in capsys.readouterr().err
    assert run("funnel", store, "--out", tmp_path / "run", "--split", "loo") == 2
    err = capsys.readouterr().err
    assert "--split: split 'loo' has no window 'rank', it has train, valid, test. Use --split funnel, or" in err
    assert not (tmp_path / "run").exists()


def test_a_funnels_channels_are_named_by_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_store(tmp_path / "store", num_users=80)
    sizes = ("--settings.merged-size", 40, "--settings.preranked-size", 20, "--fuse", "t2diff")
    short = [f"--{of}.epochs" for of in ("prerank-train", "rank-train")]
    short += [f"--channels.{of}.epochs" for of in ("0.run.train", "0.run.category-train", "1.run.train")]
    times = [word for name in short for word in (name, 1)]
    by = ("--find-by", "ulim", "t2diff")
    assert run("funnel", tmp_path / "store", "--out", tmp_path / "run", *by, *sizes, *times) == 0
    trained = {c.name for c in (tmp_path / "run" / "channels").iterdir() if c.is_dir()}
    assert trained == {"ulim", "t2diff", "popularity"}
    written = json.loads((tmp_path / "run" / "funnel.json").read_text())
    assert written["max_history"] == 2000  # as far back as ULIM reads
    capsys.readouterr()
    for names, said in (("nobody", "no recipe 'nobody'"), ("din", "din ranks and finds nothing")):
        assert run("funnel", tmp_path / "store", "--out", tmp_path / "other", "--find-by", names) == 2
        assert said in capsys.readouterr().err


def test_funnel_to_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_store(tmp_path / "store", num_users=80)
    sizes = ("--settings.merged-size", 40, "--settings.preranked-size", 20)
    short = ("--prerank-train.epochs", 1, "--rank-train.epochs", 1, "--channels.0.run.train.epochs", 1)
    assert run("funnel", tmp_path / "store", "--out", tmp_path / "run", *sizes, *short) == 0
    out = capsys.readouterr().out
    assert "report.html" in out
    assert re.search(r"^\d+ users without history before the window are no targets\.$", out, re.MULTILINE)
    assert run("export", tmp_path / "run", "--out", tmp_path / "bundle") == 0
    assert (tmp_path / "bundle" / "manifest.json").is_file()
    assert run("export", tmp_path / "run", "--out", tmp_path / "bundle") == 2
