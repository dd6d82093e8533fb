"""Every command that a page or a help text shows can be given as it stands; what the README shows first runs."""

from __future__ import annotations

import json
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tyro

from penchant.cli.main import main
from penchant.recipes.reproduce import choose
from tests.markdown import Document
from tests.test_docs import PAGES, ROOT

UNFINISHED = re.compile(r"[\[\]<>…|]|\.\.\.|COMMAND|SOURCE|PAPER|TABLE|--\w+\]")
"""What stands for something else: nobody can type it."""


def shown(text: str) -> Iterator[str]:
    """Commands with their arguments; a name alone is a name."""
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        found = re.match(r"^\s*(?:\$ )?(penchant [a-z].*)$", line)
        for part in re.split(r", then |; then ", found.group(1)) if found else ():
            words = shlex.split(part, comments=True)
            named = 3 if words[1] in ("bazaar", "prepare", "report") else 2
            if len(words) > named and not UNFINISHED.search(" ".join(words)):
                yield shlex.join(words)


def of_pages() -> list[str]:
    pages = [page for page in PAGES if page.name != "CHANGELOG.md"]  # it also speaks of what is gone
    return sorted({line for page in pages for line in shown(Document.read(page).code)})


def of_help() -> list[str]:
    sources = (ROOT / "src" / "penchant").rglob("*.py")
    example = re.compile(r"^ +(?:\$ |Example: )?(penchant .*(?:\n +(?!penchant )[a-z-].*)*)$", re.MULTILINE)
    # What follows two spaces or more is a remark; a line that begins with a small letter or a dash goes on.
    found = (text for source in sources for text in example.findall(source.read_text()))
    texts = (re.sub(r"\n +", " ", text).split("   ")[0] for text in found)
    return sorted({line for text in texts for line in shown(text)})


class ParsedError(Exception):
    """The arguments were understood, and nothing was done with them."""


def understood(line: str, monkeypatch: pytest.MonkeyPatch) -> bool:
    plain = tyro.cli

    def stop(*args: Any, **options: Any) -> Any:
        plain(*args, **options)
        raise ParsedError

    monkeypatch.setattr(tyro, "cli", stop)
    args = shlex.split(line)[1:]
    if args[0] == "reproduce":
        choose(args[1])
    try:
        return main(args) == 0  # a list of what there is to choose from
    except ParsedError:
        return True
    except SystemExit as ended:
        return ended.code == 0  # --help


@pytest.mark.parametrize("line", sorted({*of_pages(), *of_help()}))
def test_a_command_that_is_shown_is_understood(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert understood(line, monkeypatch)


@pytest.mark.parametrize(
    "line", ["penchant train sasrec STORE --model.nonsense 3", "penchant train nonsense STORE", "penchant funnel"]
)
def test_the_check_can_fail(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not understood(line, monkeypatch)


def logs() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Clicks and a catalogue, as a shop might have them."""
    dice = np.random.default_rng(0)
    users = np.array(["ada", "grace", *(f"user{n}" for n in range(198))])
    who, what = dice.integers(0, len(users), 6000), dice.integers(0, 150, 6000)
    when = 1_700_000_000 + np.sort(dice.integers(0, 90 * 86_400, 6000))
    clicks = {"user_id": users[who], "item_id": [f"i{n}" for n in what], "timestamp": when}
    items = {
        "item_id": [f"i{n}" for n in range(150)],
        "title": [f"Lamp number {n}" for n in range(150)],
        "category": [f"shelf {n % 7}" for n in range(150)],
    }
    return pd.DataFrame(clicks), pd.DataFrame(items)


def answers(line: str, folder: Path) -> dict[str, Any]:
    """What the server that a command starts says of itself; it is stopped then."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "penchant.cli.main", *shlex.split(line)[1:], "--port", str(port)]
    server = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/openapi.json", timeout=5) as answer:
                    return json.load(answer)
            except OSError:
                assert server.poll() is None, "the server has ended"
                time.sleep(0.1)
        raise AssertionError("no answer")
    finally:
        server.terminate()
        server.wait(30)


def test_what_the_readme_shows_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clicks, catalogue = logs()
    clicks.to_csv(tmp_path / "clicks.csv", index=False)
    catalogue.to_parquet(tmp_path / "catalogue.parquet")
    monkeypatch.chdir(tmp_path)
    blocks = Document.read(ROOT / "README.md").blocks
    (shell,) = (code for language, code in blocks if "penchant prepare" in code and language != "python")
    *lines, last = (shlex.join(shlex.split(line, comments=True)) for line in shell.splitlines())
    for line in lines:
        assert main(shlex.split(line)[1:]) == 0, line
    assert (tmp_path / "stores" / "shop.html").is_file()
    assert last.startswith("penchant serve")
    assert "/v1/recommend" in str(answers(last, tmp_path)["paths"])
    (python,) = (code for language, code in blocks if language == "python")
    capsys.readouterr()
    (tmp_path / "stores" / "shop").rename(tmp_path / "stores" / "before")
    exec(compile(python, "README.md", "exec"), {})
    said = capsys.readouterr().out
    assert "somebody new" in said
    assert "ada" in said
