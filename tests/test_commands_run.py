"""Every command that a page or a help text shows does what it promises, in a small world that has what it names.

A command is given as it is shown, but for `STANDS` and `SHORTER`; one that the world does not know fails.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi.testclient import TestClient

from penchant.cli import funnel, train
from penchant.cli.arguments import parse_with_run
from penchant.cli.main import COMMANDS, main
from penchant.encoders import image
from penchant.encoders.packaged import EFFICIENTNET_LITE0, MINILM, SMOLLM2, PackagedModel
from penchant.recipes import reproduce
from penchant.recipes.funnel.demo import demo_funnel
from penchant.recipes.funnel.plan import FunnelRun
from penchant.recipes.karma.stages import ContinuationConfig, WarmUpConfig
from penchant.recipes.t2diff.run import T2DiffRun
from penchant.recipes.tables import tables
from penchant.serve import app
from penchant.training.loop import TrainConfig
from tests.command_world import NEEDS, World, first_rows
from tests.test_commands import of_help, of_pages
from tests.tiny_models import save_image_model, save_language_model, save_text_model

LINES = sorted({*of_pages(), *of_help()})

STANDS = {"STORE": "stores/shop", "RUN": "runs/shop", "BUNDLE": "bundles/shop", "ID": "u9", "42": "u9"}
"""What stands for something of one's own."""

SHORTER = {
    r"--size \w+": "--size tiny",  # a market of 300 users; the large one has 20 thousand and takes an hour
    r"^(penchant reproduce (?!.*(?:--rows|--dry-run)).*)": r"\1 --rows {first} --seeds 1",  # a table takes hours
    r"^(penchant report diagnostics .*)": r"\1 --decoder.steps 10",  # the fresh decoder: half a minute a run
}
LESS: dict[type, dict[str, float]] = {
    TrainConfig: {"epochs": 0.1},  # a step or a few, and a validation
    ContinuationConfig: {"steps": 2, "rows": 4, "length": 12},  # KARMA's two stages take minutes each
    WarmUpConfig: {"steps": 2, "items": 8},
    T2DiffRun: {"leak_targets": 50},  # each is guessed in several ways, at every validation
    FunnelRun: {"rank_targets": 200, "valid_targets": 50},  # every channel is asked for each
}
"""Budgets that are cut: of the commands, and of recipes, where a command says nothing else."""

MADE = {
    r"^penchant prepare .*--out (\S+)": r"\1/manifest.json",
    r"^penchant encode (\S+) (?!.*--text none)": r"\1/vectors/text/manifest.json",
    r"^penchant encode (\S+) (?!.*--image none)": r"\1/vectors/image/manifest.json",
    r"^penchant train (\w+) (?!.*--out)": r"runs/\1-*/result.json",
    r"^penchant train .*--out (\S+)": r"\1/result.json",
    r"^penchant funnel .*--out (\S+)": r"\1/report.html",
    r"^penchant export .*--out (\S+)": r"\1/manifest.json",
    r"^penchant export .*--out (\S+) .*--reader": r"\1/reader*",
    r"^penchant evaluate (?!.*--search)(runs/\S+)": r"\1/evaluation-test.json",
    r"^penchant evaluate (?=.*--search)(runs/\S+)": r"\1/search-test.json",
    r"^penchant report store (\S+) (?!.*--out)": r"\1.html",
    r"^penchant report leak (\S+)": r"\1/figure5.svg",
    r"^penchant report diagnostics (?!.*--out)": "diagnostics.html",
    r"^penchant reproduce .*--rows (\S+)": r"results/*/*/\1.*.json",
    r"^penchant serve (\S+) (?!.*--events)": r"\1.events.sqlite",
    r"^penchant demo": "demo/bundle*/manifest.json",
    r"^penchant serve .*--events (\S+)": r"\1",
    r"--(?:out|trec) (\S+)": r"\1",
}
SAID = {
    r"--help": "usage:",
    r"--dry-run": "left, about",
    r"^penchant bazaar oracle": "AUC of attraction",
    r"oracle .*--beside (\S+) (\S+)": r"\1",
    r"^penchant evaluate": "HR",
    r"^penchant explain .*--user (\S+)": r"User \1",
    r"^penchant report results --check": "is up to date",
    r"^penchant (?:serve|demo (?!.*--no-serve))": '"items":',
    r"serve .*--read": '"words":',
}
"""What a command promises: files that were not there before, and what it says."""


def less(config: Any) -> Any:
    """The same, cut to `LESS`."""
    if isinstance(config, tuple):
        return tuple(map(less, config))
    if not is_dataclass(config) or isinstance(config, type):
        return config
    parts = {field.name: less(getattr(config, field.name)) for field in fields(config)}
    return replace(config, **parts | {k: min(parts[k], most) for k, most in LESS.get(type(config), {}).items()})


def given(line: str) -> str:
    """What is given of a command that is shown; a space ends every word."""
    words = " ".join(STANDS.get(word, word) for word in line.split(" "))
    for long, short in SHORTER.items():
        if found := re.search(long, words):
            first = first_rows(words)[0].name if "{first}" in short else ""
            words = words.replace(found.group(), found.expand(short).format(first=first))
    return f"{words} "


def promised(what: Mapping[str, str], line: str) -> list[str]:
    line = "--help" if "--help" in line else line  # whose command does nothing else
    return [found.expand(promise) for pattern, promise in what.items() if (found := re.search(pattern, line))]


def ask(server: uvicorn.Server, sockets: object = None) -> None:
    """In place of serving until interrupted: what is answered. tests/serve/test_process.py asks over a connection."""
    served: Any = server.config.app
    with TestClient(served, base_url="http://localhost") as client:
        user = client.get("/v1/users").json()["users"][0]
        for path in ("/v1/recommend", "/v1/interest"):
            print(client.post(path, json={"user_id": user, "k": 5}).text)  # noqa: T201


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder, cut, listen = (
        tmp_path_factory.mktemp("world"),
        {name: less(of) for name, of in tables().items()},
        app._listen,
    )
    save_text_model(folder / MINILM.short)
    save_image_model(folder / EFFICIENTNET_LITE0.short)
    save_language_model(folder / "cache" / "models" / f"{SMOLLM2.short}-{SMOLLM2.weights_sha256[:16]}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PENCHANT_CACHE", str(folder / "cache"))
        # The packaged models, which a machine may lack, are tiny ones.
        patch.setattr(PackagedModel, "installed", True)
        patch.setattr(PackagedModel, "weights_path", lambda model: folder / model.short / "model.safetensors")
        pictures = str(folder / EFFICIENTNET_LITE0.short)
        patch.setattr(image, "_efficientnet", lambda _: image.load_image_encoder(pictures, device="cpu"))
        for module in (train, funnel):
            patch.setattr(
                module, "parse_with_run", lambda name, of, run, *more: parse_with_run(name, of, less(run), *more)
            )
        patch.setattr(funnel, "demo_funnel", lambda with_karma: less(demo_funnel(with_karma=with_karma)))
        patch.setattr(reproduce, "tables", lambda: cut)
        patch.setattr(app, "_listen", lambda host, _: listen(host, 0))  # the port that is named may be another's
        patch.setattr(uvicorn.Server, "run", ask)
        yield World(folder)


def ended(line: str) -> object:
    try:
        return main(shlex.split(line)[1:])
    except SystemExit as end:  # --help, or arguments that are not understood
        return end.code


@pytest.fixture
def carry_out(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Give a command in a folder that has what it names, and look for what it promises."""
    monkeypatch.chdir(tmp_path)

    def carry(line: str) -> None:
        for need, make in NEEDS.items():
            for place in (tmp_path / name for name in re.findall(need, line)):
                if not place.exists():
                    place.parent.mkdir(parents=True, exist_ok=True)
                    make(world, place, line)
        before = set(tmp_path.rglob("*"))
        capsys.readouterr()
        assert ended(line) == 0
        said, made = capsys.readouterr().out, set(tmp_path.rglob("*")) - before
        assert [file for file in promised(MADE, line) if not made.intersection(tmp_path.glob(file))] == []
        assert [words for words in promised(SAID, line) if words not in said] == []

    return carry


@pytest.mark.slow
@pytest.mark.parametrize("line", LINES)
def test_a_command_that_is_shown_does_what_it_promises(line: str, carry_out: Any) -> None:
    carry_out(given(line))


@pytest.mark.slow
@pytest.mark.parametrize("line", ["evaluate elsewhere/sasrec", "prepare taobao --path Other.csv --out stores/taobao"])
def test_what_the_world_does_not_know_fails(line: str, carry_out: Any) -> None:
    with pytest.raises((AssertionError, KeyError), match=r"== 0|Other"):
        carry_out(f"penchant {line} ")


def test_every_command_that_is_shown_is_carried_out() -> None:
    carried_out: Any = test_a_command_that_is_shown_does_what_it_promises
    marks = {mark.name: mark.args for mark in carried_out.pytestmark}
    assert set(marks) == {"slow", "parametrize"}, "none is skipped"
    assert set(marks["parametrize"][1]) == {*of_pages(), *of_help()}
    assert {line.split(" ")[1] for line in LINES} == set(COMMANDS)
    assert [line for line in map(given, LINES) if not promised(MADE, line) and not promised(SAID, line)] == []


def test_nothing_is_prepared_for_a_command_that_is_not_shown() -> None:
    lines = [given(line) for line in LINES]
    assert {word for line in LINES for word in line.split(" ")} >= set(STANDS)
    assert [pattern for pattern in SHORTER if not any(re.search(pattern, line) for line in LINES)] == []
    assert [pattern for pattern in (*NEEDS, *MADE, *SAID) if not any(re.search(pattern, line) for line in lines)] == []
