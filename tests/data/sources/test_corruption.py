"""Text of any letters is kept as it is, and whatever random damage does to a file, no row of it goes uncounted."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console

from penchant.data.prepare import prepare
from penchant.data.sources.table import Table, read
from penchant.data.store import Store
from penchant.errors import PenchantError

QUIET = Console(quiet=True)
DAY = 1_704_067_200
LOG = f"user_id,item_id,timestamp\nu,a,{DAY}\n"

cells = st.text(st.one_of(st.sampled_from(" \"',;|\t\r\n\\"), st.characters(exclude_categories=["Cs"])), max_size=12)


@settings(deadline=None, max_examples=8)
@given(st.lists(cells, min_size=1, max_size=6), st.sampled_from(",;|\t"), st.sampled_from(["\r\n", "\n"]))
@example(['"', '""', "\n", "\r", "\r\n", "a\r\n\r\nb", ' " ', "\0", "\ufeff"], ",", "\r\n")
@example(["x\ny", "z\r"], ",", "\n")
def test_any_text_is_kept_exactly(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], delimiter: str, end: str
) -> None:
    folder = tmp_path_factory.mktemp("text")
    with (folder / "items.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
        writer.writerow(["item_id", "title", "note", "last"])
        writer.writerows([f"i{n}", text, text, "x"] for n, text in enumerate(texts))
        writer.writerow(["last", "", "no number", "x"])  # so that the notes are text, whatever the others are
    (folder / "log.csv").write_text(LOG.replace(",a,", ",i0,"))
    raw = read(Table(events=folder / "log.csv", items=folder / "items.csv"))
    store = prepare(raw, folder / "store", console=QUIET)
    assert store.manifest["refused"] == []
    assert store.table("items")["note"].to_pylist() == [*(text or None for text in texts), "no number"]
    assert store.table("items")["title"].to_pylist() == [*(text.strip() or None for text in texts), None]


ROWS = [(f"u{n % 5}", f"é{n % 7}" if n % 3 else f"i{n % 4}", DAY + 60 * n) for n in range(24)]
TABLE = pa.table({"user_id": [r[0] for r in ROWS], "item_id": [r[1] for r in ROWS], "timestamp": [r[2] for r in ROWS]})


def delimited(delimiter: str, quoting: int = csv.QUOTE_MINIMAL, end: str = "\n") -> bytes:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=delimiter, quoting=quoting, lineterminator=end)  # type: ignore[arg-type]
    writer.writerows([TABLE.column_names, *ROWS])
    return buffer.getvalue().encode()


def json_lines() -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in TABLE.to_pylist()).encode()


def parquet() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(TABLE, buffer, row_group_size=10)
    return buffer.getvalue()


def arrow() -> bytes:
    buffer = io.BytesIO()
    pyarrow.feather.write_feather(TABLE, buffer, compression="uncompressed")
    return buffer.getvalue()


def lines(content: bytes) -> list[bytes]:
    return [line for line in re.split(rb"\r\n|\r|\n", content.removeprefix(b"\xef\xbb\xbf")) if line]


def rows_of_arrow(content: bytes) -> int:
    return pyarrow.feather.read_table(io.BytesIO(content)).num_rows


def at_most(content: bytes) -> range:
    """A quoted value may hold lines, so there may be fewer rows."""
    return range(len(lines(content)))


def exactly(count: Callable[[bytes], int]) -> Callable[[bytes], range]:
    return lambda content: range(count(content), count(content) + 1)


FORMATS: dict[str, tuple[bytes, Callable[[bytes], range]]] = {
    "x.csv": (delimited(","), at_most),
    "ends.csv": (delimited(",", end="\r\n"), at_most),
    "quoted.csv": (delimited(";", csv.QUOTE_ALL), at_most),
    "x.tsv": (delimited("\t"), at_most),
    "x.jsonl": (json_lines(), exactly(lambda content: len(lines(content)))),
    "x.csv.gz": (gzip.compress(delimited(",")), lambda content: at_most(gzip.decompress(content))),
    "x.parquet": (parquet(), exactly(lambda content: pq.read_metadata(io.BytesIO(content)).num_rows)),
    "x.arrow": (arrow(), exactly(rows_of_arrow)),
}
"""Name -> a whole file, and how many rows a damaged one may have."""

BINARY = ("x.csv.gz", "x.parquet", "x.arrow")


def damage(content: bytes, random: Random) -> bytes:
    """One to four times: bits turned over, a cut, a piece or a line left out, doubled, or put in."""
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(content) + 1)
        to = min(len(content), at + random.choice((1, 1, 2, 8, 60)))
        kind = random.randrange(7)
        if kind == 0:
            content = content[:at] + bytes(b ^ (1 << random.randrange(8)) for b in content[at:to]) + content[to:]
        elif kind == 1:
            content = content[:at]
        elif kind == 2:
            content = content[:at] + content[to:]
        elif kind == 3:
            content = content[:to] + content[at:]
        elif kind == 4:
            content = content[:at] + random.randbytes(to - at) + content[to:]
        elif kind == 5:
            piece = random.choice(
                (b'"', b",", b"\n", b"\r", b"\r\n", b"\0", b"\xff", b"\xef\xbb\xbf", b"\xc3", b"[", b"{", b"nan", b"\\")
            )
            content = content[:at] + piece * random.choice((1, 1, 2, 99)) + content[at:]
        else:
            parts = content.split(b"\n")
            random.shuffle(parts)
            content = b"\n".join(parts[random.randrange(2) :])
    return content


def check(name: str, content: bytes, folder: Path) -> Store | None:
    """Prepare it. Raises: AssertionError: rows are lost; whatever is no PenchantError."""
    (folder / name).write_bytes(content)
    try:
        store = prepare(read(Table(events=folder / name)), folder / "store", console=QUIET)
    except PenchantError as error:
        return None if "\n" not in str(error) else pytest.fail(f"not one line: {error}")
    counted = store.num_events + sum(r["count"] for r in store.manifest["refused"])
    assert counted in FORMATS[name][1](content), f"{counted} rows of {FORMATS[name][1](content)}"
    return store


def rounds(seed: int, count: int, folder: Path) -> dict[str, int]:
    """Damage each format in turn; returns how many of each still became a Store."""
    random = Random(seed)
    kept = dict.fromkeys(FORMATS, 0)
    for number in range(count):
        name = list(FORMATS)[number % len(FORMATS)]
        content = damage(FORMATS[name][0], random)
        try:
            kept[name] += check(name, content, folder) is not None
        except Exception as error:
            error.add_note(f"seed {seed}, round {number}: {name} of {content!r}")
            raise
        shutil.rmtree(folder / "store", ignore_errors=True)
    return kept


def test_damaged_files_lose_no_row_in_silence(tmp_path: Path) -> None:
    assert sum(rounds(0, 16, tmp_path).values()) > 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(1, 5))
def test_thousands_of_damaged_files_lose_no_row_in_silence(seed: int, tmp_path: Path) -> None:
    kept = rounds(seed, 500, tmp_path)
    # A binary file seldom survives; of lines of text most do, so that some must.
    assert all(count > 3 for name, count in kept.items() if name not in BINARY), kept
