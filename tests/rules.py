"""The rules that hold the house up, each a function from a source tree to the list of its offences.

`docs/architecture.md` gives the reasons. `test_architecture.py` holds the repository to them and shows, on made-up
trees, that each rule can fail.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

PACKAGE = "penchant"
MAX_LINES = 500
MAX_ENTRIES = 16
SERVED = ("serve", "funnel", "index")
TRAIN_ONLY = ("objective", "auxiliary", "generators", "denoiser")
"""Modules of these names hold what export leaves behind, wherever they are."""
BELOW_DATA = ("data", "errors")
HEAVY = ("torch", "transformers", "matplotlib", "duckdb", "pyarrow", "numpy", "fastapi")

UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
UNSAFE_CALLS = {"eval", "exec", "torch.load", "yaml.load", "yaml.unsafe_load"}
CHECKED_PICKLE = "encoders/image.py"
"""The one file that reads a pickle: a published model's, known by its checksum, and `weights_only`."""

MACHINE_PATH = re.compile(r"(?<![\w.:/-])/(?:work|farm|home|root|Users)/")
TRACKER = re.compile(r"\b(?:[Ii]ssue|PR) #?\d+\b|\b[Ss]ub-?agents?\b")


def modules(src: Path) -> dict[str, Path]:
    """Every module under `src` by dotted name; a package is its `__init__.py`."""
    found = {}
    for path in sorted(src.rglob("*.py")):
        parts = path.relative_to(src).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def dotted(node: ast.expr) -> str:
    """`a.b.c` as it is written; the empty string for anything else."""
    if isinstance(node, ast.Attribute):
        return f"{inner}.{node.attr}" if (inner := dotted(node.value)) else ""
    return node.id if isinstance(node, ast.Name) else ""


def imports(name: str, path: Path, known: Iterable[str]) -> Iterator[str]:
    """Modules of `known` that a module imports anywhere in it, or names in a string ("penchant.models:KINDS").

    A string counts because lazily imported classes are named that way. Importing a module imports its packages too. Of
    the outermost package only what runs on import counts: its functions are the way in for people, who call them from
    above, and no module of ours does.
    """
    known = set(known)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    tree = tree_of(path)
    for node in tree.body if name == PACKAGE else ast.walk(tree):
        named: list[str] = []
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            named = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            named = [node.value.partition(":")[0]]
        for target in named:
            parts = target.split(".")
            yield from (p for i in range(len(parts)) if (p := ".".join(parts[: i + 1])) in known and p != name)


def reached(src: Path) -> dict[str, dict[str, str]]:
    """For every module, what it reaches through any chain of imports: module -> the one it was reached from."""
    known = modules(src)
    edges = {name: set(imports(name, path, known)) for name, path in known.items()}
    result: dict[str, dict[str, str]] = {}
    for start in known:
        came_from: dict[str, str] = {}
        waiting = [start]
        while waiting:
            at = waiting.pop()
            for target in sorted(edges[at] - {start}):
                if target not in came_from:
                    came_from[target] = at
                    waiting.append(target)
        result[start] = came_from
    return result


def chain(came_from: dict[str, str], start: str, end: str) -> str:
    """How `start` reaches `end`, for the message."""
    steps = [end]
    while steps[-1] != start:
        steps.append(came_from[steps[-1]])
    return " -> ".join(reversed(steps))


def _unreachable(src: Path, rooms: Iterable[str], forbidden: Callable[[str], bool]) -> list[str]:
    inside = tuple(f"{PACKAGE}.{room}" for room in rooms)
    return [
        chain(came_from, start, target)
        for start, came_from in reached(src).items()
        if start.startswith(inside)
        for target, last in came_from.items()
        if forbidden(target) and not forbidden(last)
    ]


def serving_reaches_training(src: Path) -> list[str]:
    """Nothing that serves reaches a TRAIN_ONLY module or `training`, even through others."""
    return _unreachable(
        src,
        SERVED,
        lambda m: m.rpartition(".")[2] in TRAIN_ONLY or m.startswith(f"{PACKAGE}.training"),
    )


def data_reaches_up(src: Path) -> list[str]:
    """`data` stands on nothing but itself, the errors and the choice of device."""
    allowed = (PACKAGE, *(f"{PACKAGE}.{room}" for room in BELOW_DATA))
    return _unreachable(src, ["data"], lambda m: m not in allowed and not m.startswith(f"{PACKAGE}.data."))


def bazaar_reaches_up(src: Path) -> list[str]:
    """The generated market stands on `data` and the errors alone: it knows no model."""
    allowed = tuple(f"{PACKAGE}.{room}" for room in ("bazaar", *BELOW_DATA))
    return _unreachable(src, ["bazaar"], lambda m: m != PACKAGE and not m.startswith(allowed))


def long_files(src: Path) -> list[str]:
    """No source file over MAX_LINES lines."""
    sizes = {path: len(path.read_text().splitlines()) for path in src.rglob("*.py")}
    return [f"{path}: {size} lines" for path, size in sizes.items() if size > MAX_LINES]


def crowded_folders(src: Path) -> list[str]:
    """No folder with over MAX_ENTRIES entries; the package markers and folders without files are not counted."""
    entries: dict[Path, set[Path]] = defaultdict(set)
    for path in src.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts and path.name not in ("__init__.py", "py.typed"):
            inside = [path, *path.relative_to(src).parents]
            for entry in (src.joinpath(p) for p in inside[:-1]):
                entries[entry.parent].add(entry)
    return [f"{folder}: {len(names)} entries" for folder, names in entries.items() if len(names) > MAX_ENTRIES]


def unsafe_loading(src: Path) -> list[str]:
    """Nothing that runs what a file says: pickles, `torch.load`, `eval`, `exec`, YAML objects."""
    return [
        offence
        for offence in _nodes(src, _unsafe)
        if not (offence.endswith("torch.load(weights_only)") and f"{CHECKED_PICKLE}:" in offence)
    ]


def _unsafe(node: ast.AST) -> str | None:
    if isinstance(node, ast.Import):
        return next((a.name for a in node.names if a.name.partition(".")[0] in UNSAFE_MODULES), None)
    if isinstance(node, ast.ImportFrom):
        names = {f"{node.module}.{a.name}" for a in node.names} & UNSAFE_CALLS
        return node.module if (node.module or "").partition(".")[0] in UNSAFE_MODULES else next(iter(names), None)
    if isinstance(node, ast.Call):
        options = {k.arg: ast.unparse(k.value) for k in node.keywords if k.arg in ("weights_only", "allow_pickle")}
        if (called := dotted(node.func)) in UNSAFE_CALLS:
            return f"{called}({'weights_only' if options.get('weights_only') == 'True' else ''})"
        if options.get("allow_pickle", "False") != "False":
            return "allow_pickle"
    return None


def prints(src: Path) -> list[str]:
    """No `print()`: what a user is told goes through the command line's console."""
    return list(_nodes(src, lambda n: "print()" if isinstance(n, ast.Call) and dotted(n.func) == "print" else None))


def swallowed_options(src: Path) -> list[str]:
    """No `**kwargs` in a signature: every option is spelt where it is taken."""

    def found(node: ast.AST) -> str | None:
        takes = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and node.args.kwarg
        return f"**{takes.arg}" if takes else None

    return list(_nodes(src, found))


def _nodes(src: Path, offence: Callable[[ast.AST], str | None]) -> Iterator[str]:
    for path in sorted(src.rglob("*.py")):
        for node in ast.walk(tree_of(path)):
            if what := offence(node):
                yield f"{path}:{getattr(node, 'lineno', 0)}: {what}"


def foreign_words(files: Iterable[Path]) -> list[str]:
    """No path of somebody's machine and no number of a tracker: what only made sense where it was written."""
    return [
        f"{path}:{number}: {found.group()}"
        for path in files
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        for pattern in (MACHINE_PATH, TRACKER)
        if (found := pattern.search(line))
    ]


def heavy_after(code: str, path: Path) -> list[str]:
    """Which of the slow libraries a fresh interpreter has loaded after running `code` with `path` on its path."""
    ending = f"; import sys; print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(path)!r}); {code}{ending}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return ast.literal_eval(done.stderr.strip().splitlines()[-1])
