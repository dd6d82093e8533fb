"""What the disk refuses ends as one line: no space left, no permission, a folder where a file should be."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from penchant.errors import DataError, disk_fix


@contextmanager
def disk_errors(out: Path | None = None) -> Iterator[None]:
    """Raise what the system refuses to read or write as one of ours.

    Args:
        out: what is named where the system names no file, as when it is full; the folder of temporary files if None.

    Raises:
        DataError: in place of an OSError, or of DuckDB's own for its temporary files.
    """
    temporary = os.environ.get("TMPDIR") or "/tmp"
    try:
        yield
    except OSError as error:
        where = error.filename or out or temporary
        raise DataError(error.strerror or str(error), where=where, fix=disk_fix(error)) from error
    except duckdb.OutOfMemoryException as error:
        # Its memory, or the disk it goes to beyond that.
        full = "max_temp_directory_size" in str(error)
        fix = "Free space there, or set TMPDIR to a folder with more." if full else "Give it more with --memory."
        raise DataError(_said(error), where=temporary if full else "sorting and joining", fix=fix) from error
    except duckdb.IOException as error:
        fix = "Free space there, or set TMPDIR to a folder with more."
        raise DataError(_said(error), where=temporary, fix=fix) from error


def _said(error: duckdb.Error) -> str:
    return f"DuckDB cannot go on ({str(error).splitlines()[0]})"
