"""What help says of recipes, tables and reports: complete, each in its own words, and in whole lines."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from penchant.cli.main import COMMANDS, main
from penchant.cli.results import REPORTS
from penchant.recipes.named import RECIPES
from penchant.recipes.runs import RankingRun
from penchant.recipes.tables import tables
from tests.test_commands import shown, understood

ONE_OF_A_KIND = sorted({type(recipe()): recipe.__name__ for recipe in RECIPES}.values())


def help_of(*args: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*args, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.fixture
def recipes_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setenv("COLUMNS", "400")  # so wide that only a line break of the text breaks a line
    assert main(["train", "--help"]) == 0
    return capsys.readouterr().out


def test_each_recipe_is_told_in_one_flowing_line(recipes_listed: str) -> None:
    _, *groups = re.split(r"^(?=Retrieval models |Rankers )", recipes_listed, flags=re.MULTILINE)
    lines = [line for group in groups for line in group.rstrip().split("\n\n", 1)[1].splitlines()]
    told = [re.fullmatch(r"  (\w+)  +(\S.*?\.) *", line) for line in lines]
    assert [line and line[1] for line in told] == [recipe.__name__ for recipe in RECIPES]
    assert not [line for line in told if line and ("  " in line[2] or line[2].startswith("Ranker:"))]


def test_recipes_that_need_impressions_stand_under_what_says_so(recipes_listed: str) -> None:
    finders, rankers = recipes_listed.split("\nRankers ")
    assert "\nRetrieval models " in finders
    assert "--impressions" in rankers
    for recipe in RECIPES:
        name = recipe.__name__
        where, other = (rankers, finders) if isinstance(recipe(), RankingRun) else (finders, rankers)
        assert f"\n  {name}  " in where
        assert f"\n  {name}  " not in other


@pytest.mark.parametrize("name", ONE_OF_A_KIND)
def test_a_recipes_examples_are_its_own_and_can_be_given(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    examples = list(shown(help_of("train", name, capsys=capsys)))
    assert len(examples) == 2
    for line in examples:
        assert line.startswith(f"penchant train {name} ")
        assert understood(line, monkeypatch)


def test_what_the_list_of_recipes_leaves_out_is_in_the_recipes_own_help(
    recipes_listed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--model.modalities text, or image" not in recipes_listed
    assert "As published: --model.modalities text, or image." in help_of("train", "simtier", capsys=capsys)


def test_help_of_reproduce_names_every_table(capsys: pytest.CaptureFixture[str]) -> None:
    lines = re.findall(r"^  (\w+): (.*)$", help_of("reproduce", capsys=capsys), flags=re.MULTILINE)
    assert sorted(f"{paper}-{name}" for paper, names in lines for name in names.split(", ")) == sorted(tables())


def test_the_list_of_commands_names_every_report() -> None:
    _, says = COMMANDS["report"]
    assert not [report for report in REPORTS if report not in says.lower()]


@pytest.mark.parametrize("command", ["reproduce", "train"])
def test_whoever_reads_help_may_stop_at_any_line(command: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "penchant.cli.main", command, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as asked:
        assert asked.stdout is not None
        asked.stdout.close()
        _, said = asked.communicate(timeout=120)
    assert said.decode() == ""
