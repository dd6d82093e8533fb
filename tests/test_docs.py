"""The documents say what is true: every file, target, command, link and tree they show exists."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from penchant.cli.main import COMMANDS
from tests.markdown import Document, listing

ROOT = Path(__file__).resolve().parents[1]
GENERATED = {"docs/results.md"}
"""Written by a command, not there in every checkout."""

PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "src/**/*.md", "benchmarks/*.md", "results/*.md")
    for path in ROOT.glob(pattern)
)
every_page = pytest.mark.parametrize("page", [Document.read(p) for p in PAGES], ids=[p.name for p in PAGES])


def missing_files(page: Document, root: Path) -> list[str]:
    return [f for f in page.files() if f not in GENERATED and not (root / f).exists()]


def missing_links(page: Document, root: Path) -> list[str]:
    generated = {root / name for name in GENERATED}
    places = {target: (page.path.parent / target).resolve() for target in page.links()}
    return [target for target, place in places.items() if place not in generated and not place.exists()]


def missing_entries(page: Document, root: Path) -> list[str]:
    return [entry for entry in page.listed() if entry not in GENERATED and not (root / entry).exists()]


def targets(makefile: Path) -> set[str]:
    return set(re.findall(r"^([a-z-]+):", makefile.read_text(), re.MULTILINE))


@every_page
def test_files_named_exist(page: Document) -> None:
    if page.path.name == "CHANGELOG.md":
        return  # it also speaks of what is gone
    assert missing_files(page, ROOT) == []


@every_page
def test_links_lead_somewhere(page: Document) -> None:
    assert missing_links(page, ROOT) == []


@every_page
def test_trees_show_what_is_there(page: Document) -> None:
    assert missing_entries(page, ROOT) == []


@every_page
def test_make_targets_exist(page: Document) -> None:
    assert page.words_after("make") - targets(ROOT / "Makefile") == set()


@every_page
def test_commands_exist(page: Document) -> None:
    assert page.words_after("penchant") - COMMANDS.keys() == set()


@every_page
def test_python_compiles(page: Document) -> None:
    for language, code in page.blocks:
        if language == "python":
            compile(code, str(page.path), "exec")


def test_the_map_names_every_room() -> None:
    shown = set(Document.read(ROOT / "docs" / "architecture.md").listed())
    rooms = {f"src/penchant/{p.parent.name}/" for p in (ROOT / "src" / "penchant").glob("*/__init__.py")}
    files = {f"src/penchant/{p.name}" for p in (ROOT / "src" / "penchant").glob("*.py") if p.name != "__init__.py"}
    assert (rooms | files) - shown == set()


def test_every_dependency_is_explained_and_nothing_else() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    declared = {re.split(r"[\[<>=~! ]", line)[0] for line in lines}
    page = (ROOT / "docs" / "dependencies.md").read_text()
    chosen = page[: page.index("\n## Left out")]
    explained = re.findall(r"^\| `([\w-]+)` \|", chosen, re.MULTILINE)
    assert sorted(explained) == sorted(declared)


def test_every_benchmark_is_listed_and_nothing_else() -> None:
    folder = ROOT / "benchmarks"
    files = [file for file in folder.glob("**/*.py") if "peers" not in file.parts and "__main__" in file.read_text()]
    shown = re.findall(r"`python -m (benchmarks[\w.]+)`", (folder / "README.md").read_text())
    named = {f"{name.replace('.', '/')}.py" for name in shown}
    assert named == {str(file.relative_to(ROOT)) for file in files}


WRONG = """\
See [the map](nowhere.md), `src/penchant/nothing.py`, `make nonsense` and `penchant nonsense DIR`.

```text
src/penchant/
  errors.py  nothing_else.py
  nothing.py errors.py   a remark
  data/
    store.py
    gone.py
```
"""


def test_each_check_can_fail() -> None:
    page = Document(ROOT / "wrong.md", WRONG)
    assert missing_links(page, ROOT) == ["nowhere.md"]
    assert missing_files(page, ROOT) == ["src/penchant/nothing.py"]
    assert missing_entries(page, ROOT) == ["src/penchant/nothing.py", "src/penchant/data/gone.py"]
    assert page.words_after("make") - targets(ROOT / "Makefile") == {"nonsense"}
    assert page.words_after("penchant") - COMMANDS.keys() == {"nonsense"}


def test_places_to_fill_in_and_other_programs_are_no_claims() -> None:
    page = Document(ROOT / "fine.md", "`src/penchant/papers/<paper>/`, `penchant COMMAND --help`, `make`, `remake x`\n")
    assert missing_files(page, ROOT) == []
    assert page.words_after("make") == page.words_after("penchant") == set()


def test_a_tree_is_read_by_its_indentation() -> None:
    tree = "src/penchant/\n  data/     tables\n    store.py split.py  two files\n  cli.py\n"
    assert list(listing(tree)) == [
        "src/penchant/",
        "src/penchant/data/",
        "src/penchant/data/store.py",
        "src/penchant/data/split.py",
        "src/penchant/cli.py",
    ]
