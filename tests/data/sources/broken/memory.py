"""Broken tables in memory (pandas, polars, Arrow), and files of a user's own split."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
from rich.console import Console

from penchant.data.prepare import prepare
from penchant.data.sources.table import from_tables
from penchant.data.user_split import read_split
from tests.data.sources.broken.case import DAY, Case

QUIET = Console(quiet=True)
EVENTS = {"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": [DAY, DAY + 1]}
NO_TABLE = r"events: is no table of columns of one type each \(.*\)\. Name each column once and give it one type"


def memory(name: str, make: Callable[[], Any], **expected: Any) -> Case:
    """A log in memory."""
    return Case(name, {}, make=lambda out: prepare(from_tables(make()), out, console=QUIET), **expected)


def with_items(name: str, make: Callable[[], Any], **expected: Any) -> Case:
    """A catalogue in memory, beside a good log."""
    return Case(name, {}, make=lambda out: prepare(from_tables(EVENTS_TABLE, make()), out, console=QUIET), **expected)


EVENTS_TABLE = pa.table(EVENTS)
BROKEN_LETTERS = pa.Array.from_buffers(pa.string(), 2, pa.array([b"\xff\xfe", b"a"]).buffers())
UNION = pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1])])

TABLES = [
    memory("a dict for a table", lambda: EVENTS, error=r"events: is a dict\. Give a pandas, polars or Arrow table"),
    memory("a plan for a table", lambda: pl.LazyFrame(EVENTS), error=r"events: is a LazyFrame\. Give a pandas"),
    memory("numbers and text in a column", lambda: pd.DataFrame({**EVENTS, "item_id": ["a", 1]}), error=NO_TABLE),
    memory("Python objects in pandas", lambda: pd.DataFrame({**EVENTS, "item_id": [object(), 1]}), error=NO_TABLE),
    memory(
        "Python objects in polars",
        lambda: pl.DataFrame({"user_id": ["u"], "item_id": pl.Series([object()], dtype=pl.Object)}),
        error=r"events: column 'item_id' holds Python objects\. Make it text",
    ),
    memory("complex numbers", lambda: pd.DataFrame({**EVENTS, "user_id": [1j, 2]}), error=NO_TABLE),
    memory(
        "a column twice in pandas",
        lambda: pd.DataFrame([["u", "a", "b", DAY]], columns=["user_id", "item_id", "item_id", "timestamp"]),
        error=NO_TABLE,
    ),
    memory(
        "a column twice in Arrow",
        lambda: EVENTS_TABLE.append_column("item_id", EVENTS_TABLE["item_id"]),
        error=r"events: column 'item_id' occurs twice\. Name each column once",
    ),
    memory(
        "numbers for names of columns",
        lambda: pd.DataFrame([["u", "a", DAY]]),
        error=r"events: no column user_id; the columns are: 0, 1, 2\. Say which",
    ),
    memory("a table of nothing", lambda: pa.table({}), error=r"events: no column user_id; the columns are: none"),
    memory(
        "a table of no rows",
        lambda: EVENTS_TABLE.slice(0, 0),
        error=r"events row 1: no usable event \(there are no rows\)\. Give",
    ),
    memory(
        "gaps that pandas makes floats of",
        lambda: pd.DataFrame({**EVENTS, "user_id": [7, None]}),
        refused={"user_id is missing": 1},
        sample="events row 2: user_id = None",
        rows=2,
        holds={"users.user_id": ["7"]},
    ),
    memory(
        "times that are none in pandas",
        lambda: pd.DataFrame({**EVENTS, "timestamp": [pd.NaT, pd.Timestamp("2024-01-01")]}),
        refused={"time is missing": 1},
        sample="events row 1: time = None",
        rows=2,
    ),
    memory(
        "a column of nulls",
        lambda: pl.DataFrame({**EVENTS, "item_id": [None, None]}),
        error=r"events row 1: item_id = None: no usable event \(item_id is missing: 2\)\. Every event",
    ),
    memory(
        "durations for times",
        lambda: pl.DataFrame({**EVENTS, "timestamp": [datetime.timedelta(1)] * 2}),
        error=r"events row 1: time = '24:00:00': no usable event \(time is not understood: 2\)",
    ),
    memory(
        "truth for times",
        lambda: pl.DataFrame({**EVENTS, "timestamp": [True, False]}),
        error=r"events row 1: time = 'true': no usable event",
    ),
    memory(
        "infinite numbers in a column of floats",
        lambda: pl.DataFrame({**EVENTS, "timestamp": [float(DAY), float("-inf")]}),
        refused={"time is before 1990 or after 2100": 1},
        sample=r"events row 2: time = '-inf'",
        rows=2,
    ),
    memory(
        "half floats",
        lambda: pa.table({**EVENTS, "timestamp": pa.array([1.0, 2.0], pa.float16())}),
        error=r"events: column 'timestamp' of type halffloat cannot be read \(.*\)\. Make it text or numbers",
    ),
    memory(
        "decimals of 256 bits",
        lambda: pa.table({**EVENTS, "user_id": pa.array([Decimal(1), Decimal(2)], pa.decimal256(50))}),
        error=r"events: column 'user_id' of type decimal256",
    ),
    memory(
        "a time beyond all time",
        lambda: pa.table({**EVENTS, "timestamp": pa.array([2**62, DAY], pa.timestamp("s"))}),
        error=r"events: column 'timestamp' of type timestamp\[s\] cannot be read \(.*4611686018427387904\)",
    ),
    memory(
        "the last microsecond there is",
        lambda: pa.table({**EVENTS, "timestamp": pa.array([2**63 - 1, DAY * 10**6], pa.timestamp("us"))}),
        refused={"time is not understood": 1},
        sample=r"events row 1: time = 'infinity'",
        rows=2,
    ),
    memory(
        "text that is not UTF-8 in Arrow",
        lambda: pa.table({**EVENTS, "item_id": BROKEN_LETTERS}),
        error=r"events: column 'item_id' of type string cannot be read \(.*UTF8.*\)",
    ),
    memory(
        "categories and negative numbers for ids",
        lambda: pl.DataFrame({**EVENTS, "user_id": [-1, 0]}, schema_overrides={"item_id": pl.Categorical}),
        rows=2,
        holds={"users.user_id": ["-1", "0"]},
    ),
    with_items(
        "a union for a column",
        lambda: pa.table({"item_id": ["a"], "x": UNION}),
        error=r"items: column 'x' of type sparse_union.* cannot be kept\. Make it text or numbers, or leave it out",
    ),
    with_items(
        "an interval for a column",
        lambda: pa.table({"item_id": ["a"], "x": pa.array([(1, 2, 3)], pa.month_day_nano_interval())}),
        error=r"items: column 'x' of type month_day_nano_interval cannot be kept",
    ),
    with_items(
        "bytes and records for titles",
        lambda: pa.table({"item_id": ["a", "b"], "title": [{"en": "x"}, None]}),
        holds={"items.item_id": ["a", "b"]},
    ),
]

WINDOWS = f"user_id,item_id,timestamp,window\nu,a,{DAY},train\nu,b,{DAY + 1},test\n"


def split(name: str, content: str, error: str) -> Case:
    """A file of a user's own split, which must be whole."""

    def make(out: Path) -> None:
        store = prepare(from_tables(EVENTS_TABLE), out.with_name("made"), console=QUIET)
        Path("split.csv").write_text(content)
        try:
            read_split(store, "split.csv")
        finally:
            Path("split.csv").unlink()
            for path in sorted(store.path.rglob("*"), reverse=True):
                path.unlink() if path.is_file() else path.rmdir()

    return Case(name, {}, make=make, error=error)


SPLITS = [
    split("no file for a split", "", r"split\.csv: the file is empty"),
    split("a split without windows", "user_id,item_id,timestamp\n", r"split\.csv: no column window; the columns are"),
    split(
        "a split without times",
        "user_id,item_id,window\nu,a,train\n",
        r"split\.csv: no column timestamp; .*\. Give each row the time",
    ),
    split(
        "an unknown window",
        WINDOWS.replace("test", "holdout"),
        r"split\.csv line 3: 'holdout' is not a window\. Windows are train, valid, test",
    ),
    split("no window", WINDOWS.replace("test", ""), r"split\.csv line 3: None is not a window\. Windows are"),
    split(
        "a row of a split that is no event",
        WINDOWS.replace(",a,", ",z,"),
        rf"split\.csv line 2: 'u, z, {DAY}' is no event of the Store\. Make the file",
    ),
    split(
        "an event of a split twice", f"{WINDOWS}u,b,{DAY + 1},test\n", r"split\.csv line 4: .* is no event of the Store"
    ),
    split(
        "a broken line in a split",
        f"{WINDOWS}u,b\n",
        r"split\.csv line 4: 'u,b': broken line: too few values\. Each line needs 4",
    ),
    split(
        "windows in the wrong order",
        WINDOWS.replace("train", "x").replace("test", "train").replace("x", "test"),
        r"split\.csv: user 'u', item 'b': its window comes before .*\. Windows follow",
    ),
    split(
        "an absurd time in a split",
        WINDOWS.replace(str(DAY), "soon"),
        r"split\.csv line 2: 'u, a, soon' is no event of the Store",
    ),
]

CASES = [*TABLES, *SPLITS]
