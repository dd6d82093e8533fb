"""Delimited text files into the workspace: every value as text, every line that cannot be read counted and shown."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from penchant.data.sources.raw import SAMPLES, Locate, Refused, Workspace, name, text


@dataclass(frozen=True)
class Dialect:
    """How a text file is written.

    Attributes:
        delimiter: between values; may be longer than one character ("::").
        quote: around values that hold the delimiter; "" where nothing is quoted.
        header: whether the first line names the columns.
        encoding: "utf-8" (a byte order mark is skipped) or "latin-1".
    """

    delimiter: str = ","
    quote: str = '"'
    header: bool = True
    encoding: str = "utf-8"


def read_delimited(
    work: Workspace, path: Path, table: str, columns: Sequence[str], dialect: Dialect, label: str
) -> tuple[list[Refused], Locate]:
    """Create `table` of VARCHAR columns and `row` (from 1, in the file's order); empty values are NULL.

    Args:
        columns: names of the columns, all of them, in the file's order.
        label: how messages name the file.
    Returns: lines that are no rows (too few or too many values, broken quotes, wrong encoding), and where rows are.
    """
    db = work.db
    db.execute("DROP TABLE IF EXISTS reject_errors; DROP TABLE IF EXISTS reject_scans")
    types = ", ".join(f"{text(c)}: 'VARCHAR'" for c in columns)
    options = (
        f"auto_detect=false, columns={{{types}}}, header={str(dialect.header).lower()}, delim={text(dialect.delimiter)}, "
        f"quote={text(dialect.quote)}, escape={text(dialect.quote)}, nullstr='', encoding={text(dialect.encoding)}, "
        "store_rejects=true, rejects_limit=0"
    )
    db.execute(
        f"CREATE OR REPLACE TABLE {name(table)} AS SELECT row_number() OVER () AS row, * "
        f"FROM read_csv({text(path)}, {options})"
    )
    broken = work.rows(
        "SELECT line, any_value(error_type), any_value(csv_line) FROM reject_errors GROUP BY line ORDER BY line"
    )
    refused = []
    for kind in dict.fromkeys(str(b[1]) for b in broken):
        of_kind = [(line, content) for line, error, content in broken if str(error) == kind]
        shown = tuple(f"{label} line {line}: {(content or '').strip()[:80]!r}" for line, content in of_kind[:SAMPLES])
        reason = f"broken line ({kind.lower().replace('_', ' ')})"
        refused.append(Refused(reason, len(of_kind), shown, f"Each line needs {len(columns)} values."))
    lost = {int(b[0]) for b in broken}

    def locate(rows: Sequence[int]) -> list[str]:
        lines = _lines_of(path, dialect, set(rows), lost)
        return [f"{label} line {lines[row]}" if row in lines else f"{label} row {row}" for row in rows]

    return refused, locate


def _lines_of(path: Path, dialect: Dialect, rows: set[int], lost: set[int]) -> dict[int, int]:
    """Line of each row. Only asked for the few that are shown: it reads the file up to the last of them."""
    found: dict[int, int] = {}
    row = -1 if dialect.header else 0
    with _open_text(path, dialect.encoding) as file:
        start = 1
        reader = csv.reader(file, delimiter=dialect.delimiter[0], quotechar=dialect.quote) if dialect.quote else None
        for values in reader or ((line.strip("\r\n"),) for line in file):
            end = reader.line_num if reader else start
            if any(values) and start not in lost:
                row += 1
                if row in rows:
                    found[row] = start
                    if len(found) == len(rows):
                        break
            start = end + 1
    return found


def _open_text(path: Path, encoding: str) -> IO[str]:
    return path.open(encoding="utf-8-sig" if encoding == "utf-8" else encoding, errors="replace", newline="")
