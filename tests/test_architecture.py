"""The rules of `tests/rules.py`: the repository keeps them, and each can fail."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from penchant.cli.main import COMMANDS
from tests import rules

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"
TEXT = {".py", ".md", ".toml", ".txt", ".html", ".js", ".css", ""}

Rule = Callable[[Path], list[str]]

# Each rule, and a tree that breaks it once: path under src/penchant -> content.
BROKEN: list[tuple[Rule, dict[str, str]]] = [
    (
        rules.serving_reaches_training,
        {"serve/app.py": "from penchant.middle import x", "middle.py": "import penchant.papers.dmae.objective"},
    ),
    (
        rules.serving_reaches_training,
        {"funnel/rank.py": "def f():\n    from ..training import loop\n", "training/loop.py": ""},
    ),
    (
        rules.serving_reaches_training,
        {"index/exact.py": "import penchant.models", "models.py": "KINDS = {'a': 'penchant.a.objective:A'}"},
    ),
    (
        rules.serving_reaches_training,
        {"serve/app.py": "from ..papers.karma import generators", "papers/karma/generators.py": ""},
    ),
    (
        rules.serving_reaches_training,
        {"funnel/rank.py": "from penchant.baselines import auxiliary", "baselines/auxiliary.py": ""},
    ),
    (rules.data_reaches_up, {"data/batch.py": "from penchant import layers", "layers.py": ""}),
    (rules.data_reaches_up, {"data/batch.py": "def f():\n    import penchant.funnel.stages", "funnel/stages.py": ""}),
    (rules.bazaar_reaches_up, {"bazaar/world.py": "def f():\n    from penchant import layers", "layers.py": ""}),
    (rules.long_files, {"long.py": "x = 1\n" * (rules.MAX_LINES + 1)}),
    (rules.crowded_folders, {f"crowd/m{i}.py": "" for i in range(rules.MAX_ENTRIES + 1)}),
    (rules.unsafe_loading, {"a.py": "import pickle"}),
    (rules.unsafe_loading, {"a.py": "from joblib import load"}),
    (rules.unsafe_loading, {"a.py": "import torch\ntorch.load('x')"}),
    (rules.unsafe_loading, {"a.py": "from torch import load"}),
    (rules.unsafe_loading, {"a.py": "import torch\ntorch.load('x', weights_only=True)"}),
    (rules.unsafe_loading, {rules.CHECKED_PICKLE: "import torch\ntorch.load('x', weights_only=False)"}),
    (rules.unsafe_loading, {"a.py": "x = eval('1')"}),
    (rules.unsafe_loading, {"a.py": "exec('1')"}),
    (rules.unsafe_loading, {"a.py": "import numpy as np\nnp.load('x', allow_pickle=True)"}),
    (rules.prints, {"a.py": "print('x')"}),
    (rules.swallowed_options, {"a.py": "def f(**options): ..."}),
]

RULES: list[Rule] = [
    rules.serving_reaches_training,
    rules.data_reaches_up,
    rules.bazaar_reaches_up,
    rules.long_files,
    rules.crowded_folders,
    rules.unsafe_loading,
    rules.prints,
    rules.swallowed_options,
]

# What must not be mistaken for an offence.
SOUND = {
    "serve/app.py": "from penchant.models import KINDS",
    "models.py": "KINDS = {'din': 'penchant.baselines.din:DIN'}",
    "baselines/din.py": "from penchant.layers import MLP",
    "baselines/objective.py": "from penchant.training import loop",
    "training/loop.py": "",
    "layers.py": "class MLP: ...",
    "data/store.py": "from penchant.errors import DataError\nnp.load('x', allow_pickle=False)",
    "bazaar/source.py": "from penchant.data import store",
    "errors.py": "class DataError(Exception): ...",
    rules.CHECKED_PICKLE: "import torch\ntorch.load('x', weights_only=True)",
    "cli.py": "console.print('x')\nmodel.eval()",
}


def write_tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / "penchant" / name
        for folder in [p for p in path.parents if p.is_relative_to(root / "penchant")]:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "__init__.py").touch()
        path.write_text(text)
    for text in files.values():  # modules that are only imported
        for name in ("papers/dmae/objective.py", "a/objective.py"):
            if name[:-3].replace("/", ".") in text:
                write_tree(root, {name: ""})
    return root


@pytest.mark.parametrize("rule", RULES)
def test_the_source_keeps_the_rule(rule: Rule) -> None:
    assert rule(SRC) == []


@pytest.mark.parametrize(("rule", "files"), BROKEN)
def test_the_rule_can_fail(rule: Rule, files: dict[str, str], tmp_path: Path) -> None:
    assert len(rule(write_tree(tmp_path, files))) >= 1


@pytest.mark.parametrize("rule", RULES)
def test_sound_code_is_left_alone(rule: Rule, tmp_path: Path) -> None:
    assert rule(write_tree(tmp_path, SOUND)) == []


def test_every_rule_has_a_tree_that_breaks_it() -> None:
    assert {rule for rule, _ in BROKEN} == set(RULES)


def test_an_offence_names_the_whole_chain_of_imports(tmp_path: Path) -> None:
    rule, files = BROKEN[0]
    assert "penchant.serve.app -> penchant.middle -> penchant.papers.dmae.objective" in rule(
        write_tree(tmp_path, files)
    )


def test_every_lazily_named_class_exists() -> None:
    known = rules.modules(SRC)
    named = [
        node.value.split(":")
        for node in ast.walk(rules.tree_of(known["penchant.models"]))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("penchant.")
    ]
    assert named
    for module, name in named:
        assert module in known, f"models.py names the module {module}"
        classes = [node.name for node in rules.tree_of(known[module]).body if isinstance(node, ast.ClassDef)]
        assert name in classes, f"models.py names {module}:{name}"


def repository_files() -> list[Path]:
    """The files of the repository that people read: tracked ones, and new ones that git would take."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [ROOT / name for name in listed if Path(name).suffix in TEXT and (ROOT / name).is_file()]


def test_the_repository_speaks_of_the_project_alone() -> None:
    found = rules.foreign_words(p for p in repository_files() if p not in (Path(__file__), Path(rules.__file__)))
    assert found == []


@pytest.mark.parametrize("text", ["see /home/me/x", "in /root/x", "as issue #12 says", "PR 3"])
def test_foreign_words_are_seen(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(f"fine\n{text}\n")
    assert len(rules.foreign_words([tmp_path / "a.md"])) == 1


@pytest.mark.parametrize("text", ["https://example.org/home/me", "to issue requests", "src/home/x", "~/data"])
def test_ordinary_words_are_not(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(text)
    assert rules.foreign_words([tmp_path / "a.md"]) == []


def test_every_command_is_a_function_of_its_module() -> None:
    known = rules.modules(SRC)
    for command, (module, _) in COMMANDS.items():
        tree = rules.tree_of(known[f"penchant.cli.{module}"])
        names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        names |= {
            alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
        }
        assert command in names, f"cli.py sends `penchant {command}` to penchant.cli.{module}"


@pytest.mark.parametrize("code", ["import penchant.cli.main", "from penchant.cli.main import main; main(['--help'])"])
def test_help_needs_none_of_the_slow_libraries(code: str) -> None:
    assert rules.heavy_after(code, SRC) == []


def test_a_slow_library_would_be_seen(tmp_path: Path) -> None:
    write_tree(tmp_path, {"cli.py": "import numpy"})
    assert rules.heavy_after("import penchant.cli", tmp_path) == ["numpy"]
