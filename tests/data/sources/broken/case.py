"""One kind of broken data, and what must come of it: one line that says what to do, rows refused, or no loss."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penchant.cli.main import main
from penchant.data.store import Store
from penchant.errors import PenchantError

DAY = 1_704_067_200
"""2024-01-01, in seconds."""

HEADER = "user_id,item_id,timestamp"
GOOD = (f"u,a,{DAY}", f"u,b,{DAY + 60}", f"v,a,{DAY + 120}")
LOG = "\n".join((HEADER, *GOOD, ""))
"""A log that nothing is wrong with."""

Content = str | bytes | Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """A kind of broken data.

    Attributes:
        name: what is wrong.
        files: path -> content, or a function that makes it.
        args: of `penchant prepare`, in the folder of the files; `make` instead does what it does, for tables in memory.
        error: pattern of the one line it must end with; empty if a Store comes of it.
        refused: reason -> how many rows.
        sample: pattern that one refused row's place and value must match.
        rows: what `table` was given; those kept and those refused must add up to it. None where they cannot.
        kept: how many are kept of `rows`; all that are not refused, if None.
        holds: `Table.column` -> its values in the Store.
        notes: pattern that the notes must match.
    """

    name: str
    files: Mapping[str, Content] = field(default_factory=lambda: {"log.csv": LOG})
    args: tuple[str, ...] = ("table", "--events", "log.csv")
    make: Callable[[Path], object] | None = None
    error: str = ""
    refused: Mapping[str, int] = field(default_factory=dict)
    sample: str = ""
    rows: int | None = None
    table: str = "events"
    holds: Mapping[str, list[Any]] = field(default_factory=dict)
    notes: str = ""


@dataclass(frozen=True)
class Outcome:
    """What came of a case.

    Attributes:
        status: of the command; 2 for a PenchantError raised by `make`.
        said: standard error, or the error's message.
        store: None if there is none.
        left: what is in the folder that was not there before, the Store aside, and what is left of temporary files.
    """

    status: int
    said: str
    store: Store | None
    left: list[str]


def run(case: Case, folder: Path) -> Outcome:
    """Make the files, run the command, look at what there is."""
    data, temporary = folder / "data", folder / "temporary"
    data.mkdir(parents=True)
    temporary.mkdir()
    for name, content in case.files.items():
        path = data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    said = io.StringIO()
    before = set(data.rglob("*"))
    with _inside(data, temporary), contextlib.redirect_stderr(said):
        if case.make is None:
            status = main(["prepare", *case.args, "--out", "out/store"])
        else:
            try:
                status = 0
                case.make(Path("out/store"))
            except PenchantError as error:
                status = 2
                said.write(f"error: {error}\n")
    store = Store(data / "out/store") if (data / "out/store/manifest.json").exists() else None
    made = {p for p in data.rglob("*") if p.is_file() and data / "out/store" not in p.parents} - before
    return Outcome(status, said.getvalue(), store, sorted(str(p) for p in {*made, *temporary.iterdir()}))


@contextlib.contextmanager
def _inside(data: Path, temporary: Path) -> Iterator[None]:
    former = tempfile.tempdir
    tempfile.tempdir = str(temporary)
    try:
        with contextlib.chdir(data):
            yield
    finally:
        tempfile.tempdir = former


def log(*rows: str, header: str = HEADER, end: str = "\n") -> str:
    """The good log's rows and then these."""
    return end.join((header, *GOOD, *rows, ""))


def events(name: str, *rows: str, **expected: Any) -> Case:
    """Rows beside three good ones."""
    return Case(name, {"log.csv": log(*rows)}, rows=3 + len(rows), **expected)


def whole(name: str, content: Content, *, file: str = "log.csv", **expected: Any) -> Case:
    """A log that is broken as a whole."""
    return Case(name, {file: content}, ("table", "--events", file), **expected)


def beside(name: str, kind: str, content: Content, *, file: str = "", **expected: Any) -> Case:
    """A broken table beside a good log; `kind` is its option: items, impressions or users."""
    file = file or f"{kind}.csv"
    args = ("table", "--events", "log.csv", f"--{kind}", file)
    more = expected.pop("files", {})
    return Case(name, {"log.csv": LOG, file: content, **more}, args, table=kind, **expected)
