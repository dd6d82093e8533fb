"""The same rows in every format and compression are the same table."""

from __future__ import annotations

import gzip
import json
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penchant.data.sources.formats import open_file
from penchant.data.sources.raw import Workspace
from penchant.errors import DataError

ROWS = [("é1", 10), ("u 2", 20), ("u3", 30)]
TABLE = pa.table({"user id": [r[0] for r in ROWS], "n": [r[1] for r in ROWS]})


def stream(path: Path) -> None:
    with pa.ipc.new_stream(path, TABLE.schema) as writer:
        writer.write_table(TABLE)


def delimited(by: str, encoding: str = "utf-8") -> bytes:
    return "\n".join([f"user id{by}n", *(f"{u}{by}{n}" for u, n in ROWS)]).encode(encoding)


def zstd(content: bytes) -> bytes:
    return pa.Codec("zstd").compress(content, asbytes=True)


def zipped(path: Path, *names: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in (*names, "__MACOSX/._inside.csv"):
            archive.writestr(name, delimited(","))


JSON_LINES = "\n".join(json.dumps({"user id": u, "n": n}) for u, n in ROWS).encode()

FILES: dict[str, Callable[[Path], object]] = {
    "x.csv": lambda p: p.write_bytes(delimited(",")),
    "semicolons.csv": lambda p: p.write_bytes(delimited(";")),
    "x.tsv": lambda p: p.write_bytes(delimited("\t")),
    "pipes.txt": lambda p: p.write_bytes(delimited("|")),
    "latin.csv": lambda p: p.write_bytes(delimited(",", "latin-1")),
    "bom.csv": lambda p: p.write_bytes(b"\xef\xbb\xbf" + delimited(",").replace(b"\n", b"\r\n")),
    "x.csv.gz": lambda p: p.write_bytes(gzip.compress(delimited(","))),
    "x.tsv.zst": lambda p: p.write_bytes(zstd(delimited("\t"))),
    "x.csv.xz": lambda p: p.write_bytes(lzma.compress(delimited(","))),
    "x.csv.zip": lambda p: zipped(p, "inside.csv"),
    "x.jsonl": lambda p: p.write_bytes(JSON_LINES),
    "x.ndjson.gz": lambda p: p.write_bytes(gzip.compress(JSON_LINES)),
    "x.jsonl.zst": lambda p: p.write_bytes(zstd(JSON_LINES)),
    "x.parquet": lambda p: pq.write_table(TABLE, p, row_group_size=2),
    "parquet-by-content": lambda p: pq.write_table(TABLE, p),
    "x.arrow": lambda p: pyarrow.feather.write_feather(TABLE, str(p)),
    "x.arrows": stream,
}


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    FILES[name](tmp_path / name)
    work = Workspace()
    opened = open_file(work, tmp_path / name, "t")
    users, numbers = opened.columns["user id"], opened.columns["n"]
    rows = work.rows(f"SELECT {users}, CAST({numbers} AS BIGINT), row FROM t ORDER BY row")
    assert rows == [(*r, i) for i, r in enumerate(ROWS, 1)]
    assert opened.refused == []
    line = {"jsonl": 2, "ndjson": 2, "parquet": None, "arrow": None, "arrows": None, "parquet-by-content": None}
    offset = line.get(name.split(".")[1] if "." in name else name, 3)
    assert opened.locate([2]) == [f"{name} line {offset}" if offset else f"{name} row 2"]
    assert bool(opened.notes) == (name == "latin.csv")


def test_a_csv_without_header_numbers_its_columns(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,1\nb,2\n")
    work = Workspace()
    opened = open_file(work, tmp_path / "x.csv", "t", header=False)
    assert list(opened.columns) == ["1", "2"]
    assert work.rows("SELECT c0, c1 FROM t ORDER BY row") == [("a", "1"), ("b", "2")]


def test_broken_json_lines_are_refused_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b'{"a": 1}\n\n{"a"\n[1]\n\xff\xfe\n{"a": 2, "b.c": [1, 2]}\nnull\n')
    work = Workspace()
    opened = open_file(work, tmp_path / "x.jsonl", "t")
    a, b = opened.columns["a"], opened.columns["b.c"]
    assert work.rows(f"SELECT {a}, {b} FROM t ORDER BY row") == [("1", None), ("2", "[1,2]")]
    by_reason = {r.reason: r for r in opened.refused}
    assert by_reason["not a JSON object"].count == 3
    assert by_reason["not a JSON object"].samples == (
        "x.jsonl line 3: '{\"a\"'",
        "x.jsonl line 4: '[1]'",
        "x.jsonl line 7: 'null'",
    )
    assert by_reason["broken line: letters that are not UTF-8"].samples[0].startswith("x.jsonl line 5: ")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", b"", "x.csv: the file is empty"),
        ("x.csv", b"a,b,a\n1,2,3\n", r"x\.csv line 1: column 'a' occurs twice"),
        ("x.parquet", b"a,b\n", r"x\.parquet: not a Parquet file"),
        ("x.parquet", b"PAR1 and then nothing", r"x\.parquet: cannot be read"),
        ("x.arrow", b"ARROW1 and then nothing", r"x\.arrow: cannot be read"),
        ("x.csv.gz", b"\x1f\x8b\x08 and then nothing", r"x\.csv\.gz: cannot be decompressed"),
        ("x.csv.zst", zstd(b"a,b\n1,2\n" * 99)[:-9], r"x\.csv\.zst: cannot be decompressed"),
        ("x.csv", "a,b\n".encode("utf-16"), r"x\.csv: is UTF-16 text\. Save it as UTF-8"),
        ("x.json", b'[\n{"a": 1}\n]\n', r"x\.json: is one JSON array\. Write one object a line"),
    ],
)
def test_a_file_that_is_not_what_it_says_is_one_clear_line(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        open_file(Workspace(), tmp_path / name, "t")
    assert "\n" not in str(error.value)


def test_an_archive_of_several_files_is_not_guessed_at(tmp_path: Path) -> None:
    zipped(tmp_path / "x.zip", "a.csv", "b.csv")
    with pytest.raises(DataError, match=r"x\.zip: holds 2 files\. Unpack it and give the one that is meant\."):
        open_file(Workspace(), tmp_path / "x.zip", "t")


def test_a_workbook_is_named_as_one(tmp_path: Path) -> None:
    message = r"is an Excel workbook\. Save the sheet as CSV \(UTF-8\) and give that\."
    for name in ("log.xlsx", "log"):
        zipped(tmp_path / name, "[Content_Types].xml", "xl/workbook.xml", "xl/worksheets/sheet1.xml")
        with pytest.raises(DataError, match=rf"{name}: {message}"):
            open_file(Workspace(), tmp_path / name, "t")
    (tmp_path / "cut.xlsx").write_bytes((tmp_path / "log.xlsx").read_bytes()[:50])
    with pytest.raises(DataError, match=rf"cut\.xlsx: {message}"):
        open_file(Workspace(), tmp_path / "cut.xlsx", "t")
    (tmp_path / "log.xls").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99))
    with pytest.raises(DataError, match=rf"log\.xls: {message}"):
        open_file(Workspace(), tmp_path / "log.xls", "t")


def test_a_missing_file_is_named_with_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "clicks.csv").write_text("x")
    with pytest.raises(DataError, match=r"click\.csv: no such file\. The folder has: clicks\.csv"):
        open_file(Workspace(), tmp_path / "click.csv", "t")


@settings(deadline=None, max_examples=8)
@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8))
@example("*")
@example('a"b')
@example("back\\slash")
@example("a/b~c.d'")
def test_any_key_of_json_is_a_column(tmp_path_factory: pytest.TempPathFactory, key: str) -> None:
    path = tmp_path_factory.mktemp("json") / "x.jsonl"
    path.write_text(json.dumps({key: "v", "z": 1}) + "\n")
    work = Workspace()
    opened = open_file(work, path, "t")
    assert work.rows(f"SELECT {opened.columns[key]} FROM t") == [("v" if key != "z" else "1",)]
    work.close()


def test_a_key_that_first_comes_late_is_a_column_too(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"a":1}\n' * 100_001 + '{"a":1,"late":"v"}\n')
    work = Workspace()
    opened = open_file(work, path, "t")
    assert list(opened.columns) == ["a", "late"]
    assert work.rows(f"SELECT count({opened.columns['late']}) FROM t") == [(1,)]
    work.close()
