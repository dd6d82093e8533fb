"""Delimited text: no line is lost in silence, and a refused one is named by its place in the file."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penchant.data.sources.raw import Refused, Workspace
from penchant.data.sources.reading import Dialect, read_delimited
from penchant.errors import DataError


def load(path: Path, content: bytes, dialect: Dialect | None = None) -> tuple[list[tuple], list[Refused], list[str]]:
    """Rows, refusals and the place of each row of a file with the columns a, b, c."""
    path.write_bytes(content)
    work = Workspace()
    refused, locate = read_delimited(work, path, "t", ["a", "b", "c"], dialect or Dialect(), "x.csv")
    rows = work.rows("SELECT row, a, b, c FROM t ORDER BY row")
    places = locate([r[0] for r in rows])
    work.close()
    return [r[1:] for r in rows], refused, places


def test_empty_values_are_null_and_spaces_are_kept(tmp_path: Path) -> None:
    rows, refused, _ = load(tmp_path / "x", b'a,b,c\n1,,"x, y"\n,,\n" 2",3,4\n')
    assert rows == [("1", None, "x, y"), (None, None, None), (" 2", "3", "4")]
    assert refused == []


def test_windows_files_read_alike(tmp_path: Path) -> None:
    rows, refused, places = load(tmp_path / "x", b"\xef\xbb\xbfa,b,c\r\n1,2,3\r\n\r\n4,5,6")
    assert rows == [("1", "2", "3"), ("4", "5", "6")]
    assert refused == []
    assert places == ["x.csv line 2", "x.csv line 4"]


def test_lines_are_named_as_an_editor_counts_them(tmp_path: Path) -> None:
    rows, refused, places = load(tmp_path / "x", b'a,b,c\n1,"two\nlines",3\n4,5\n\n6,7,8\n9,9,9,9\n10,11,12\n')
    assert [r[0] for r in rows] == ["1", "6", "10"]
    assert places == ["x.csv line 2", "x.csv line 6", "x.csv line 8"]
    assert [(r.reason, r.samples) for r in refused] == [
        ("broken line: too few values", ("x.csv line 4: '4,5'",)),
        ("broken line: too many values", ("x.csv line 7: '9,9,9,9'",)),
    ]


def test_a_quote_that_is_never_closed_costs_its_own_line_only(tmp_path: Path) -> None:
    lines = ["a,b,c"] + [f'{i},"q{i}",{i}' for i in range(2, 3000)]
    lines[10] = '11,"open,11'
    lines[500] = '501,5" nail,501'  # not a quoted value: kept
    lines[2000] = '2001,"two\nlines",2001'
    rows, refused, places = load(tmp_path / "x", "\n".join(lines).encode())
    assert len(rows) == 2997
    assert ("501", '5" nail', "501") in rows
    assert ("2001", "two\nlines", "2001") in rows
    assert [(r.count, r.samples) for r in refused] == [(1, ("x.csv line 11: '11,\"open,11'",))]
    assert places[-1] == "x.csv line 3000"


def test_a_line_in_another_encoding_is_refused(tmp_path: Path) -> None:
    rows, refused, _ = load(tmp_path / "x", b"a,b,c\n1,\xff\xe9,3\n4,\xc3\xa9,6\n")
    assert rows == [("4", "é", "6")]
    assert refused[0].reason == "broken line: letters that are not UTF-8"
    assert refused[0].samples[0].startswith("x.csv line 2: ")


def test_long_delimiters_and_no_quotes(tmp_path: Path) -> None:
    dialect = Dialect("::", "", header=False, encoding="latin-1")
    rows, refused, places = load(tmp_path / "x", '1::"The: é::3\n\n4::5\n6::7::8\n'.encode("latin-1"), dialect)
    assert rows == [("1", '"The: é', "3"), ("6", "7", "8")]
    assert places == ["x.csv line 1", "x.csv line 4"]
    assert refused[0].samples == ("x.csv line 3: '4::5'",)


def test_the_wrong_delimiter_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"x\.csv line 2: most lines do not hold 3 values between ',' \(2,000\): '1;2;3'"
    ):
        load(tmp_path / "x", b"a;b;c\n" + b"1;2;3\n" * 2000)


values = st.text(st.characters(codec="utf-8", exclude_characters="\r\x00", exclude_categories=["Cs"]), max_size=6)


@settings(deadline=None, max_examples=12)
@given(st.lists(st.tuples(values, values, values), min_size=1, max_size=12))
def test_what_a_csv_writer_wrote_is_read_back(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple]) -> None:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([("a", "b", "c"), *rows])
    read, refused, places = load(tmp_path_factory.mktemp("csv") / "x", buffer.getvalue().encode())
    assert read == [tuple(v or None for v in row) for row in rows]
    assert refused == []
    line, expected = 2, []
    for row in rows:
        expected.append(f"x.csv line {line}")
        line += 1 + sum(v.count("\n") for v in row)
    assert places == expected
