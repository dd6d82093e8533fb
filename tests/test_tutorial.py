"""The tutorial runs as it stands, and its notebook is the same; so does the example of adding a paper."""

from __future__ import annotations

import importlib.util
import json
import shlex
from pathlib import Path

import pytest

from penchant.cli.main import main
from tests.factories import make_store
from tests.markdown import Document
from tests.test_commands import answers

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "tutorial.md"


def test_every_block_runs_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    said: dict[str, object] = {}
    commands: list[str] = []
    for language, code in Document.read(PAGE).blocks:
        if language == "python":
            exec(compile(code, str(PAGE), "exec"), said)
            continue
        assert language == "sh"
        for line in code.splitlines():
            program, command, *rest = shlex.split(line)
            assert program == "penchant"
            commands.append(command)
            if command == "serve":
                assert "/v1/recommend" in answers(line, tmp_path)["paths"]
            else:
                assert main([command, *rest]) == 0, line
    assert commands[-1] == "serve"
    assert (tmp_path / "stores" / "shop.html").is_file()
    assert (tmp_path / "runs" / "shop" / "report.html").is_file()
    assert (tmp_path / "bundles" / "shop" / "manifest.json").is_file()
    out = capsys.readouterr().out
    assert ": held" in out  # the taught model beats popularity, as the page promises to find out
    assert "somebody new" in out


def test_the_notebook_is_the_page() -> None:
    spec = importlib.util.spec_from_file_location("notebook", ROOT / "tools" / "notebook.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    written = (ROOT / "docs" / "tutorial.ipynb").read_text()
    assert written == tool.notebook(PAGE.read_text()), "run: python tools/notebook.py"
    cells = json.loads(written)["cells"]
    code = [cell["source"] for cell in cells if cell["cell_type"] == "code"]
    assert len(code) == len(Document.read(PAGE).blocks)
    assert all(line.startswith("!penchant ") for source in code if "!" in source[:1] for line in source.splitlines())


def test_adding_a_paper_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = ROOT / "docs" / "adding-a-paper.md"
    make_store(tmp_path / "stores" / "shop", num_users=150, seed=3)
    monkeypatch.chdir(tmp_path)
    blocks = [code for language, code in Document.read(page).blocks if language == "python"]
    assert len(page.read_text().splitlines()) < 150
    said: dict[str, object] = {"__name__": "adding_a_paper"}
    for code in blocks:
        exec(compile(code, str(page), "exec", dont_inherit=True), said)
    assert "'HR@10'" in capsys.readouterr().out
    assert (tmp_path / "runs" / "transrec" / "model.safetensors").is_file()
