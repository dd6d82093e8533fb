"""A file or an in-memory table of any supported format, opened as a table of the workspace with numbered rows."""

from __future__ import annotations

import csv
import json
import lzma
import shutil
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penchant.data.sources.raw import Locate, Refused, Workspace, name, text
from penchant.data.sources.reading import Dialect, read_delimited
from penchant.errors import DISK_FIXES, DataError

FORMATS = "CSV, TSV, Parquet, Arrow IPC or JSON lines, plain or compressed as .gz, .zst, .xz or .zip"

NO_EXCEL = "Save the sheet as CSV (UTF-8) and give that."

BAD_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
"""What an archive raises that is damaged, encrypted, or packed by an unknown method."""

MOST_HEADER = 1 << 20
"""Letters of a first line, and of each further line of a name with line ends in it."""


@dataclass(frozen=True)
class Opened:
    """A table of the workspace, with `row` numbering its rows from 1.

    Attributes:
        label: how messages name it.
        table: its name in the workspace.
        columns: the user's column names -> SQL expressions over `table`.
        textual: whether every value is text (CSV, JSON lines).
        locate: names the places of rows.
        refused: lines that are no rows.
    """

    label: str
    table: str
    columns: dict[str, str]
    textual: bool
    locate: Locate
    refused: list[Refused] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def open_file(work: Workspace, path: Path, table: str, header: bool = True) -> Opened:
    """Open a file of any of `FORMATS`, told from its first bytes and its name.

    Args:
        table: name to give it in the workspace.
        header: whether a CSV or TSV file's first line names the columns; if not, they are named 1, 2, ...

    Raises:
        DataError: no such file, an empty one, or one that is not what its name says.
    """
    plain, suffix = plain_file(work, path, table)
    with plain.open("rb") as file:
        start = file.read(6)
    if suffix == ".xls" and start[:4] == b"\xd0\xcf\x11\xe0":
        raise DataError("is an Excel workbook", where=path, fix=NO_EXCEL)
    try:
        if start[:4] == b"PAR1":
            return _open_parquet(work, plain, table, path.name)
        if start == b"ARROW1":
            with pa.memory_map(str(plain)) as source:
                return open_arrow(work, pa.ipc.open_file(source).read_all(), table, path.name)
        if suffix in (".arrow", ".arrows", ".ipc", ".feather"):
            with pa.memory_map(str(plain)) as source:
                return open_arrow(work, pa.ipc.open_stream(source).read_all(), table, path.name)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last for a column's name
        raise DataError(f"cannot be read ({error})", where=path, fix="Write it again.") from error
    if suffix in (".parquet", ".pq"):
        raise DataError("not a Parquet file", where=path, fix=f"Give {FORMATS}.")
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError("is UTF-16 text", where=path, fix="Save it as UTF-8.")
    if suffix in (".jsonl", ".ndjson", ".json"):
        return _open_json(work, plain, table, path.name)
    return _open_csv(work, plain, table, path.name, header, suffix)


def open_arrow(work: Workspace, data: pa.Table, table: str, label: str) -> Opened:
    """An Arrow table, without copying it.

    Raises:
        DataError: a column occurs twice, holds what its type does not allow, or is of a type that cannot be read.
    """
    fields = [f"c{i}" for i in range(data.num_columns)]
    _check_names(data.column_names, label, "Name each column once.")
    for i, (key, column) in enumerate(zip(data.column_names, data.itercolumns(), strict=True)):
        try:
            column.validate(full=True)
            if pa.types.is_timestamp(column.type) and column.type.unit in ("s", "ms"):
                # DuckDB takes a time beyond its microseconds for a bug of its own.
                data = data.set_column(i, key, column.cast(pa.timestamp("us", column.type.tz)))
            work.load("one_column", pa.table({"c": column.slice(0, 0)}))
            work.types("one_column")
        except (pa.ArrowException, duckdb.Error) as error:
            what = f"column {key!r} of type {column.type} cannot be read ({str(error).splitlines()[0]})"
            raise DataError(what, where=label, fix="Make it text or numbers, or leave it out.") from error
    renamed = data.rename_columns(fields).append_column("row", pa.array(np.arange(1, data.num_rows + 1)))
    work.load(table, renamed)
    columns = dict(zip(data.column_names, fields, strict=True))
    return Opened(label, table, columns, False, lambda rows: [f"{label} row {row}" for row in rows])


def read_json(work: Workspace, path: Path, table: str) -> dict:
    """The object of a JSON file, plain or compressed.

    Raises:
        DataError: no such file, or not a JSON object.
    """
    plain, _ = plain_file(work, path, table)
    try:
        value = json.loads(plain.read_bytes())
        json.dumps(value, ensure_ascii=False).encode()  # JSON can spell half a letter, which no file can hold
    except (ValueError, RecursionError) as error:  # also of letters that are not UTF-8
        raise DataError(f"cannot be read as JSON ({error})", where=path, fix="It is to hold one object.") from error
    if not isinstance(value, dict):
        raise DataError(f"holds a JSON {type(value).__name__}", where=path, fix="It is to hold one object.")
    return value


def plain_file(work: Workspace, path: Path, table: str) -> tuple[Path, str]:
    """The plain file (in the workspace if it was compressed), and its suffix without the compression's.

    Raises:
        DataError: no such file, an empty one, or one that cannot be decompressed.
    """
    path = path.expanduser()
    if not path.is_file():
        what, folder = ("is a folder, not a file", path) if path.is_dir() else ("no such file", path.parent)
        near = sorted(p.name for p in folder.glob("*") if p.is_file())[:8]
        raise DataError(what, where=path, fix=f"The folder has: {', '.join(near) or 'no files'}.")
    plain, suffix = _decompress(work, path, table)
    if plain.stat().st_size == 0:
        raise DataError("the file is empty", where=path, fix=f"Give {FORMATS}.")
    return plain, suffix


def _decompress(work: Workspace, path: Path, table: str) -> tuple[Path, str]:
    with path.open("rb") as file:
        start = file.read(6)
    kinds: dict[bytes, Callable] = {
        b"\x1f\x8b": partial(pa.input_stream, compression="gzip"),
        b"\x28\xb5\x2f\xfd": partial(pa.input_stream, compression="zstd"),
        b"\xfd7zXZ\x00": lzma.open,
        b"PK\x03\x04": _open_zip,
    }
    for magic, opener in kinds.items():
        if start.startswith(magic):
            plain = work.folder / f"{table}.plain"
            try:
                with opener(str(path)) as source, plain.open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
            except (OSError, lzma.LZMAError, *BAD_ZIP) as error:
                if isinstance(error, OSError) and error.errno in DISK_FIXES:
                    raise
                raise DataError(f"cannot be decompressed ({error})", where=path, fix="Copy it again.") from error
            suffixes = path.suffixes
            return plain, suffixes[-2].lower() if len(suffixes) > 1 else ""
    return path, path.suffix.lower()


@contextmanager
def _open_zip(path: str) -> Iterator[IO[bytes]]:
    """The one file of an archive."""
    workbook = DataError("is an Excel workbook", where=path, fix=NO_EXCEL)
    if path.lower().endswith(".xlsx"):
        raise workbook
    with zipfile.ZipFile(path) as archive:
        if any(n.startswith("xl/") for n in archive.namelist()):
            raise workbook
        names = [n for n in archive.namelist() if not n.endswith("/") and not n.startswith("__MACOSX/")]
        if len(names) != 1:
            raise DataError(f"holds {len(names)} files", where=path, fix="Unpack it and give the one that is meant.")
        with archive.open(names[0]) as file:
            yield file


def _open_parquet(work: Workspace, path: Path, table: str, label: str) -> Opened:
    try:
        theirs = pq.read_schema(path).names
        _check_names(theirs, label, "Name each column once.")
        # DuckDB has another name for a column that differs from one before it in capitals only.
        names = [r[0] for r in work.rows(f"DESCRIBE SELECT * FROM read_parquet({text(path)})")]
        # Read whole once, so that damage is found here and not halfway.
        whole = ", ".join(f"bit_xor(hash({name(n)}))" for n in names)
        work.rows(f"SELECT {whole} FROM read_parquet({text(path)})")
    except (pa.ArrowException, OSError, duckdb.Error) as error:
        raise DataError(f"cannot be read ({str(error).splitlines()[0]})", where=label, fix="Write it again.") from error
    chosen = "".join(f"{name(n)} AS c{i}, " for i, n in enumerate(names))
    work.db.execute(
        f"CREATE VIEW {table} AS SELECT {chosen}file_row_number + 1 AS row "
        f"FROM read_parquet({text(path)}, file_row_number=true)"
    )
    columns = {n: f"c{i}" for i, n in enumerate(theirs)}
    return Opened(label, table, columns, False, lambda rows: [f"{label} row {row}" for row in rows])


def _open_csv(work: Workspace, path: Path, table: str, label: str, header: bool, suffix: str) -> Opened:
    encoding, notes = _encoding(path), []
    if encoding != "utf-8":
        notes.append(f"{label} is not UTF-8 and was read as latin-1 (Windows-1252).")
    fix = "Name each column once in the first line, or give --no-header."
    with path.open(encoding="utf-8-sig" if encoding == "utf-8" else encoding, errors="replace", newline="") as file:
        first = file.readline(MOST_HEADER)
        if "\0" in first:
            raise DataError("is not text", where=label, fix=f"Give {FORMATS}.")
        delimiter = "\t" if suffix == ".tsv" else max(",\t;|", key=first.count)
        lines = chain([first], iter(partial(file.readline, MOST_HEADER), ""))
        try:
            names = [n.strip() for n in next(csv.reader(lines, delimiter=delimiter, strict=True))]
        except csv.Error as error:
            raise DataError(f"no names of columns ({error})", where=f"{label} line 1", fix=fix) from error
    if not header:
        names = [str(i) for i in range(1, len(names) + 1)]
    if not any(names):
        raise DataError("the first line is blank", where=f"{label} line 1", fix=fix)
    _check_names(names, f"{label} line 1", fix)
    fields = [f"c{i}" for i in range(len(names))]
    refused, locate = read_delimited(work, path, table, fields, Dialect(delimiter, '"', header, encoding), label)
    return Opened(label, table, dict(zip(names, fields, strict=True)), True, locate, refused, notes)


def _check_names(names: Sequence[str], where: str, fix: str) -> None:
    for column, times in Counter(names).items():
        if times > 1:
            raise DataError(f"column {column!r} occurs twice", where=where, fix=fix)


def _encoding(path: Path) -> str:
    """UTF-8 if any accent in the file is; Windows' latin-1 if there are accents and none of them is.

    So one damaged line does not turn a file of UTF-8 into the other: it is refused like any other broken line.
    """
    foreign = False
    with path.open("rb") as file:
        while block := file.read(1 << 22) + file.readline(1 << 22):
            if block.isascii():
                continue
            for line in block.split(b"\n"):
                try:
                    if not line.isascii() and line.decode():
                        return "utf-8"
                except UnicodeDecodeError:
                    foreign = True
    return "cp1252" if foreign else "utf-8"


def _open_json(work: Workspace, path: Path, table: str, label: str) -> Opened:
    """JSON lines: one object a line. Values are read as text, so a value of another type is no surprise."""
    lines = f"{table}_lines"
    # A delimiter that JSON forbids in text, so that each line is one value.
    refused, locate = read_delimited(work, path, lines, ["line"], Dialect("\x01", "", header=False), label)
    first = work.rows(f"SELECT line FROM {lines} WHERE trim(line) <> '' ORDER BY row LIMIT 1")
    if first and first[0][0].lstrip().startswith("["):
        raise DataError("is one JSON array", where=label, fix="Write one object a line (JSON lines).")
    work.db.execute(
        f"CREATE VIEW {table} AS SELECT row, line FROM {lines} WHERE json_valid(line) AND json_type(line) = 'OBJECT'"
    )
    broken = work.rows(
        f"SELECT row, line, count(*) OVER () FROM {lines} WHERE trim(line) <> '' AND "
        "(NOT json_valid(line) OR json_type(line) <> 'OBJECT') ORDER BY row LIMIT 3"
    )
    if broken:
        shown = tuple(f"{p}: {b[1][:80]!r}" for p, b in zip(locate([b[0] for b in broken]), broken, strict=True))
        refused.append(Refused("not a JSON object", broken[0][2], shown, "Each line is one JSON object."))
    keys = work.rows(
        f"SELECT key, min(row) FROM (SELECT row, unnest(json_keys(line)) AS key FROM {table}) "
        "GROUP BY key ORDER BY 2, 1"
    )
    if not keys:
        shown = [s for r in refused for s in r.samples][:1]
        raise DataError("no line is a JSON object", where=(shown or [label])[0], fix="Write one object a line.")
    columns = {key: f"json_extract_string(line, {text(_json_pointer(key))})" for key, _ in keys}
    return Opened(label, table, columns, True, locate, refused)


def _json_pointer(key: str) -> str:
    """A pointer and not a path: in a path, `*` is a wildcard and a backslash cannot be written."""
    return "/" + key.replace("~", "~0").replace("/", "~1")


def choices(columns: Sequence[str]) -> str:
    """The columns there are, for messages: the first of them, if they are many."""
    more = f" and {len(columns) - 20:,} more" if len(columns) > 20 else ""
    return (", ".join(c[:40] for c in columns[:20]) or "none") + more
