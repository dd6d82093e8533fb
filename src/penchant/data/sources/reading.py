"""Delimited text into the workspace: every value as text, every line that cannot be read counted and shown."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from penchant.data.sources.raw import SAMPLES, Locate, Refused, Workspace, name, text
from penchant.errors import DataError


@dataclass(frozen=True)
class Dialect:
    """How a text file is written.

    Attributes:
        delimiter: between values; may be longer than one character ("::").
        quote: around values that hold the delimiter; "" where nothing is quoted.
        header: whether the first line names the columns.
        encoding: "utf-8" (a byte order mark is skipped) or "cp1252" (latin-1 with Windows' further letters).
    """

    delimiter: str = ","
    quote: str = '"'
    header: bool = True
    encoding: str = "utf-8"


MULTILINE = 50
"""A quoted value that goes on for more lines than this was never closed."""

MOST = 1000
"""Up to so many broken lines are no ground to doubt the whole file."""

SWALLOWING = ("UNQUOTED VALUE", "LINE SIZE OVER MAXIMUM")
"""Kinds of broken lines that may have taken whole ones with them."""

REASONS = {
    "MISSING COLUMNS": "too few values",
    "TOO MANY COLUMNS": "too many values",
    "UNQUOTED VALUE": "a quote that is not closed, or text after one that is",
    "INVALID ENCODING": "letters that are not UTF-8",
    "LINE SIZE OVER MAXIMUM": "a line over 2 MB, probably a quote that is not closed",
}
"""DuckDB's kinds of broken lines in plain words."""


def read_delimited(
    work: Workspace, path: Path, table: str, columns: Sequence[str], dialect: Dialect, label: str
) -> tuple[list[Refused], Locate]:
    """Create view `table` of VARCHAR columns and `row` (from 1, in the file's order); empty values are NULL.

    Args:
        columns: names of the columns, all of them, in the file's order.
        label: how messages name the file.
    Returns: lines that are no rows (too few or too many values, broken quotes, wrong encoding), and where rows are.
    Raises: DataError: most of the lines are no rows.
    """
    fix = f"Each line needs {len(columns)} values."
    broken, refused = [], []
    mend = not _uniform(path, dialect)
    if not mend:
        broken = _load(work, path, table, columns, dialect, label)
        # One quote that is not closed takes all lines up to the next with it. They are not to be lost for it.
        mend = any(kind in SWALLOWING and (kind != "UNQUOTED VALUE" or "\n" in line) for _, kind, line in broken)
    if mend:
        mended = work.folder / f"{table}.mended"
        unclosed = _mend(path, mended, dialect, len(columns))
        path, dialect = mended, replace(dialect, encoding="utf-8")
        broken = _load(work, path, table, columns, dialect, label)
        if unclosed:
            shown = tuple(f"{label} line {number}: {line[:80]!r}" for number, line in unclosed[:SAMPLES])
            refused.append(Refused("broken line: a quote that is not closed", len(unclosed), shown, fix))
    lost = {record for record, *_ in broken}
    for kind in dict.fromkeys(kind for _, kind, _ in broken):
        of_kind = [(record, line) for record, error, line in broken if error == kind]
        first = of_kind[:SAMPLES]
        lines, _ = _lines_of(path, dialect, len(columns), set(), {record for record, _ in first}, lost)
        shown = tuple(f"{label} line {lines.get(n, n)}: {line.partition(chr(10))[0][:80]!r}" for n, line in first)
        refused.append(Refused(f"broken line: {REASONS.get(kind, kind.lower())}", len(of_kind), shown, fix))

    def locate(rows: Sequence[int]) -> list[str]:
        _, lines = _lines_of(path, dialect, len(columns), set(rows), set(), lost)
        return [f"{label} line {lines[row]}" if row in lines else f"{label} row {row}" for row in rows]

    return refused, locate


def forget(work: Workspace, table: str) -> None:
    """Drop what `read_delimited`, or whatever opened a file, made under this name."""
    work.db.execute(f"DROP VIEW {name(table)}; DROP TABLE IF EXISTS {name(f'{table}_read')}")


def spread_words(work: Workspace, lines: str, words: str, table: str, locate: Locate) -> Locate:
    """Create `table` with one row for each word of each line, in their order.

    Its columns: `line` (the `row` of `lines`), `place` (the word's in its line, from 1), `word`, and `row` from 1.

    Args:
        lines: a table or view with `row`.
        words: SQL of a line's list of words.
        locate: names the places of lines.
    Returns: names the places of rows, by their lines.
    """
    work.db.execute(
        f"CREATE TABLE {table} AS SELECT row_number() OVER (ORDER BY line, place) AS row, line, place, word FROM ("
        f"SELECT row AS line, generate_subscripts({words}, 1) AS place, unnest({words}) AS word FROM {lines})"
    )
    return by_line(work, table, locate)


def by_line(work: Workspace, table: str, locate: Locate) -> Locate:
    """Names the places of a table's rows, which know their `line`, as those of the lines."""

    def place(rows: Sequence[int]) -> list[str]:
        chosen = ", ".join(str(row) for row in rows)
        lines = dict(work.rows(f"SELECT row, line FROM {table} WHERE row IN ({chosen})")) if rows else {}
        return locate([lines[row] for row in rows])

    return place


def _load(
    work: Workspace, path: Path, table: str, columns: Sequence[str], dialect: Dialect, label: str
) -> list[tuple[int, str, str]]:
    """Read the file into `table`; returns record number, kind and text of what is no row."""
    db = work.db
    db.execute("DROP TABLE IF EXISTS reject_errors; DROP TABLE IF EXISTS reject_scans")
    types = ", ".join(f"{text(c)}: 'VARCHAR'" for c in columns)
    header = "true" if dialect.header else "false"
    # A view that numbers rows by their place in the table, which keeps the file's order: counting them while reading
    # would leave all cores but one idle.
    lines = name(f"{table}_read")
    db.execute(
        f"CREATE OR REPLACE TABLE {lines} AS SELECT * FROM read_csv({text(path)}, "
        f"auto_detect=false, columns={{{types}}}, header={header}, delim={text(dialect.delimiter)}, "
        f"quote={text(dialect.quote)}, escape={text(dialect.quote)}, nullstr='', compression='none', "
        "store_rejects=true, rejects_limit=0)"
    )
    db.execute(f"CREATE OR REPLACE VIEW {name(table)} AS SELECT rowid + 1 AS row, * FROM {lines}")
    count = work.value("SELECT count(DISTINCT line) FROM reject_errors")
    if count > MOST and count > work.value(f"SELECT count(*) FROM {name(table)}"):
        sample = work.rows("SELECT line, csv_line FROM reject_errors ORDER BY line LIMIT 1")[0]
        what = (
            f"most lines do not hold {len(columns)} values between {dialect.delimiter!r} ({count:,}): {sample[1]!r:.80}"
        )
        raise DataError(what, where=f"{label} line {sample[0]}", fix="Is it another format, or is its header cut?")
    broken = work.rows(
        "SELECT line, any_value(error_type), any_value(csv_line) FROM reject_errors GROUP BY line ORDER BY line"
    )
    return [(int(record), str(kind), (line or "").strip()) for record, kind, line in broken]


def _uniform(path: Path, dialect: Dialect) -> bool:
    """Whether DuckDB can read the file as it is: UTF-8, and one kind of line end, a line feed in it."""
    feeds = returns = both = 0
    bare = False  # a block of line feeds alone: counting those of a whole file takes longer than all the rest
    before = b""
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            if dialect.encoding != "utf-8" and not block.isascii():
                return False
            here = block.count(b"\r")
            if here or before == b"\r":
                returns += here
                feeds += block.count(b"\n")
                both += block.count(b"\r\n") + (before == b"\r" and block.startswith(b"\n"))
            else:
                bare = bare or b"\n" in block
            before = block[-1:]
    return returns == 0 or (feeds == returns == both and not bare)


def _mend(path: Path, mended: Path, dialect: Dialect, width: int) -> list[tuple[int, str]]:
    """Copy the file as UTF-8 with line feeds between records, and blank lines for those that do not close a quote.

    Blank, so that the lines after keep their numbers. Bytes that are no letters stay what they are, for the reader to
    refuse. Returns: numbers and text of the lines that do not close a quote.
    """
    unclosed = []
    encoding = "utf-8-sig" if dialect.encoding == "utf-8" else dialect.encoding
    with (
        path.open(encoding=encoding, errors="surrogateescape", newline="") as file,
        mended.open("w", encoding="utf-8", errors="surrogateescape", newline="") as out,
    ):
        ahead = deque(islice(file, MULTILINE))
        number = 1
        while ahead:
            length = 1
            if dialect.quote and dialect.quote in ahead[0]:
                length = next(
                    (n for n in range(1, len(ahead) + 1) if _closes(list(islice(ahead, n)), dialect, width)), 0
                )
            if not length:
                unclosed.append((number, ahead.popleft().strip()))
                out.write("\n")
            for _ in range(length - 1):
                out.write(ahead.popleft())
            if length:
                out.write(ahead.popleft().rstrip("\r\n") + "\n")
            ahead.extend(islice(file, length or 1))
            number += length or 1
    return unclosed


def _closes(lines: list[str], dialect: Dialect, width: int) -> bool:
    """Whether these lines are one whole record; a single line of another width is left for the reader to refuse."""
    try:
        records = list(csv.reader(lines, delimiter=dialect.delimiter[0], quotechar=dialect.quote, strict=True))
    except csv.Error as error:
        return len(lines) == 1 and "unexpected end" not in str(error)
    return len(lines) == 1 or (len(records) == 1 and len(records[0]) == width)


def _lines_of(
    path: Path, dialect: Dialect, width: int, rows: set[int], records: set[int], lost: set[int]
) -> tuple[dict[int, int], dict[int, int]]:
    """Lines of records and of rows.

    A record may go over several lines; DuckDB counts records (blank ones and the header too), `row` those that are
    rows. Only asked for the few that are shown, as it may have to read the file up to the last of them.
    """
    if _line_by_line(path, dialect, width):
        of_row = {}
        gone = sorted(lost)
        for row in sorted(rows):
            line = row + dialect.header
            for record in gone:
                line += record <= line
            of_row[row] = line
        return {record: record for record in records}, of_row
    of_record, of_row = {}, {}
    row = -1 if dialect.header else 0
    encoding = "utf-8-sig" if dialect.encoding == "utf-8" else dialect.encoding
    with path.open(encoding=encoding, errors="replace", newline="") as file:
        reader = csv.reader(file, delimiter=dialect.delimiter[0], quotechar=dialect.quote) if dialect.quote else None
        start = 1
        try:
            for record, values in enumerate(reader or (line.strip("\r\n") for line in file), 1):
                if record in records:
                    of_record[record] = start
                if (values or width == 1) and record not in lost:  # a blank line is a row only where rows are one value
                    row += 1
                    if row in rows:
                        of_row[row] = start
                if len(of_record) == len(records) and len(of_row) == len(rows):
                    break
                start = reader.line_num + 1 if reader else record + 1
        except csv.Error:
            pass  # A value too long for this reader: its row, and those after it, go by their number.
    return of_record, of_row


def _line_by_line(path: Path, dialect: Dialect, width: int) -> bool:
    """Whether every line is a record: no quotes to run over lines, and no blank lines to be skipped."""
    quote, before = dialect.quote.encode(), b""
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            joined = before + block
            if (quote and quote in joined) or (width > 1 and (b"\n\n" in joined or b"\n\r\n" in joined)):
                return False
            before = joined[-2:]
    return True
