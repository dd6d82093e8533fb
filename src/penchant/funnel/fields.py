"""What is known of users, items and the moment beside histories: columns of the Store, as a ranker reads them.

A field is named by a line of text, so that a shop's own columns need no code:

    user.gender                  a column of the users' table
    item.price                   a column of the items' table
    item.genres:list             several values: a list column, or text divided by "|"
    user.zip_code:hash1000       by a hash into 1,000 rows: no vocabulary, any value
    item.year:category           a number that is a name
    time.hour, time.weekday      of the request, in UTC

Without a kind, numbers are numbers and all else are categories. A category or list becomes codes that a model embeds:
the values that users and items of the train window have, and one code for all others and for none. A number becomes a
dense feature, with the mean where it is missing.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from penchant.data.history import Requests
from penchant.data.output import whole
from penchant.data.schema import TABLES
from penchant.data.split import Split
from penchant.data.store import Store, write_json
from penchant.errors import ConfigError

MOST_VALUES = 16
"""Of a list; further ones are cut, and counted."""
HOUR_MS = 3_600_000
MOMENTS = {"hour": 24, "weekday": 7}
PLAIN = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?")
"""A number as text; 007 is a code."""
FILES = ("fields.safetensors", "fields.json")

Kind = Literal["category", "number", "list"]


@dataclass(frozen=True)
class Field:
    """One column.

    Attributes:
        table: "user", "item" or "time".
        kind: None = by the column's type.
        rows: of a hash; 0 = a vocabulary.
    """

    table: Literal["user", "item", "time"]
    column: str
    kind: Kind | None = None
    rows: int = 0

    @property
    def name(self) -> str:
        return f"{self.table}.{self.column}"

    @classmethod
    def parse(cls, text: str) -> Field:
        """From its line.

        Raises:
            ConfigError: it is none.
        """
        name, _, kind = text.partition(":")
        table, _, column = name.partition(".")
        fix = "Write user.COLUMN, item.COLUMN or time.hour, and perhaps :category, :number, :list or :hash1000."
        hashed = kind.removeprefix("hash") if kind.startswith("hash") else ""
        known = kind in ("", "category", "number", "list") or (hashed.isdigit() and int(hashed) > 0)
        if table not in ("user", "item", "time") or not column or not known:
            raise ConfigError(f"{text!r} is no field", where="fields", fix=fix)
        if table == "time" and (column not in MOMENTS or kind):
            raise ConfigError(f"{text!r} is no field of time", where="fields", fix=f"There are {', '.join(MOMENTS)}.")
        if hashed:
            return cls(table, column, "category", int(hashed))
        return cls(table, column, kind or None)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class Fields:
    """Fields with their values, so that a folder needs no Store.

    Codes are of all fields together: 0 is an empty place of a list; each field has a run of codes, the first of which
    stands for what is missing, or was not seen in the train window.

    Attributes:
        coded: (name, its first code, codes, columns) of each field with codes: users' first, then items', then time's.
        numbers: names of the numbers, users' first.
        user_codes, item_codes: by user and item; row 0 (anonymous, padding) is missing everywhere.
        user_numbers, item_numbers: likewise.
        moments: time's fields.
        notes: what was cut or could not be read, one line each.
    """

    coded: tuple[tuple[str, int, int, int], ...]
    numbers: tuple[str, ...]
    user_codes: Int[Tensor, "U u"]
    item_codes: Int[Tensor, "I i"]
    user_numbers: Float[Tensor, "U m"]
    item_numbers: Float[Tensor, "I n"]
    moments: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def num_codes(self) -> int:
        """Codes are 1..num_codes."""
        return sum(count for _, _, count, _ in self.coded)

    @property
    def columns(self) -> tuple[int, ...]:
        """How many columns of `codes` each field has."""
        return tuple(columns for *_, columns in self.coded)

    @classmethod
    def fit(cls, texts: Sequence[str], store: Store, split: Split) -> Fields:
        """Values of every user and item; vocabularies and means of those that the train window has.

        Raises:
            ConfigError: a line is no field, there is no such column, or it does not hold what the field says.
        """
        given = [Field.parse(text) for text in texts]
        names = [one.name for one in given]
        if len(set(names)) < len(names):
            raise ConfigError(f"fields are {', '.join(names)}", where="fields", fix="Name each once.")
        known = {
            "user": split.stops("train") > split.starts("train"),
            "item": split.item_counts(store, "train") > 0,
        }
        build = _Builder()
        for table, plural in (("user", "users"), ("item", "items")):
            for one in given:
                if one.table == table:
                    build.add(one, _column(store, plural, one), known[table])
        for one in given:
            if one.table == "time":
                build.run(one.name, MOMENTS[one.column], 1)
        count = {"user": store.num_users + 1, "item": store.num_items + 1}
        return cls(
            coded=tuple(build.coded),
            numbers=tuple(name for table in ("user", "item") for name in build.names[table]),
            user_codes=build.stacked("user", count["user"]),
            item_codes=build.stacked("item", count["item"]),
            user_numbers=build.numbered("user", count["user"]),
            item_numbers=build.numbered("item", count["item"]),
            moments=tuple(one.column for one in given if one.table == "time"),
            notes=tuple(build.notes),
        )

    def codes(self, requests: Requests, items: Int[Tensor, "B K"]) -> Int[Tensor, "B K v"]:
        """Codes of each (request, candidate), columns as `columns` says."""
        shape = (*items.shape, -1)
        of_user = self.user_codes[self._users(requests)][:, None].expand(shape).long()
        hours = requests.times_ms // HOUR_MS
        moments = {"hour": hours % 24, "weekday": (hours // 24 + 3) % 7}  # 1970 began on a Thursday; Monday is 0
        first = {name: at for name, at, _, _ in self.coded}
        of_time = [first[f"time.{name}"] + 1 + moments[name] for name in self.moments]
        time = torch.stack(of_time, 1) if of_time else items.new_zeros(len(items), 0)
        return torch.cat([of_user, self.item_codes[items].long(), time[:, None].expand(shape)], dim=2)

    def values(self, requests: Requests, items: Int[Tensor, "B K"]) -> Float[Tensor, "B K n"]:
        """Numbers of each (request, candidate), as `numbers` lists them."""
        of_user = self.user_numbers[self._users(requests)][:, None].expand(*items.shape, -1)
        return torch.cat([of_user, self.item_numbers[items]], dim=2)

    def _users(self, requests: Requests) -> Int[Tensor, " B"]:
        """Users of the Store; one that came later is nobody."""
        return torch.where(requests.users < len(self.user_codes), requests.users, 0)

    def save(self, folder: Path) -> None:
        """Write `fields.safetensors` and `fields.json`."""
        tensors = {
            name: getattr(self, name).contiguous()
            for name in ("user_codes", "item_codes", "user_numbers", "item_numbers")
        }
        with whole(folder / FILES[0]) as temporary:
            save_file(tensors, temporary)
        write_json(folder / FILES[1], {"coded": self.coded, "numbers": self.numbers, "moments": self.moments})

    @classmethod
    def load(cls, folder: Path) -> Fields:
        """What `save` wrote."""
        said: dict[str, Any] = json.loads((folder / FILES[1]).read_text())
        held = load_file(folder / FILES[0])
        return cls(
            coded=tuple((str(n), int(a), int(c), int(k)) for n, a, c, k in said["coded"]),
            numbers=tuple(said["numbers"]),
            user_codes=held["user_codes"],
            item_codes=held["item_codes"],
            user_numbers=held["user_numbers"],
            item_numbers=held["item_numbers"],
            moments=tuple(said["moments"]),
        )


class _Builder:
    """Collects fields one after the other."""

    def __init__(self) -> None:
        self.coded: list[tuple[str, int, int, int]] = []
        self.notes: list[str] = []
        self.names: dict[str, list[str]] = {"user": [], "item": []}
        self._codes: dict[str, list[np.ndarray]] = {"user": [], "item": []}
        self._numbers: dict[str, list[np.ndarray]] = {"user": [], "item": []}

    def run(self, name: str, values: int, columns: int) -> int:
        """Take a run of codes for so many values and the missing one; returns the first."""
        first = 1 + sum(count for _, _, count, _ in self.coded)
        self.coded.append((name, first, values + 1, columns))
        return first

    def add(self, one: Field, column: pa.ChunkedArray, known: np.ndarray) -> None:
        kind = one.kind or ("number" if _is_number(column.type) else "list" if _is_list(column.type) else "category")
        if kind == "number":
            self._number(one, column, known)
            return
        rows = [_values(value, kind) for value in column.to_pylist()]
        longest = max(map(len, rows), default=1)
        if longest > MOST_VALUES:
            cut = sum(len(row) > MOST_VALUES for row in rows)
            self.notes.append(f"{one.name}: {cut:,} lists of more than {MOST_VALUES} values are cut.")
        width = min(max(longest, 1), MOST_VALUES)
        seen = {v for row, there in zip(rows, known[1:], strict=True) if there for v in row[:width]}
        number = {value: n for n, value in enumerate(sorted(seen))}
        first = self.run(one.name, one.rows or len(number), width)
        codes = np.zeros((len(rows) + 1, width), dtype=np.int32)
        codes[:, 0] = first  # missing, unless something is known
        unseen = 0
        for i, row in enumerate(rows, 1):
            if one.rows:
                found = [first + 1 + zlib.crc32(value.encode()) % one.rows for value in row[:width]]
            else:
                found = [first + 1 + number[value] for value in row[:width] if value in number]
                unseen += len(row[:width]) - len(found)
            codes[i, : len(found)] = found
        if unseen:
            self.notes.append(f"{one.name}: {unseen:,} values are of nobody in the train window, so unknown.")
        self._codes[one.table].append(codes)

    def _number(self, one: Field, column: pa.ChunkedArray, known: np.ndarray) -> None:
        if not _is_number(column.type):
            values = [v for v in column.to_pylist() if v is not None]
            wrong = [v for v in values if not PLAIN.fullmatch(str(v))] or values
            sample = next(iter(wrong), None)
            what = f"{one.name} holds {column.type}, such as {sample!r}, and is no number"
            raise ConfigError(what, where="fields", fix=f"Write {one.name}:category, or make every value a number.")
        values = np.concatenate([[np.nan], column.cast(pa.float64()).to_numpy().astype(np.float64)])
        there = np.isfinite(values)
        of_train = values[there & known]
        if missing := int((~there[1:]).sum()):
            self.notes.append(f"{one.name}: {missing:,} values are missing or not finite; the mean stands for them.")
        mean = float(of_train.mean()) if len(of_train) else 0.0
        self.names[one.table].append(one.name)
        self._numbers[one.table].append(np.where(there, values, mean).astype(np.float32))
        if missing:
            self.names[one.table].append(f"{one.name} missing")
            self._numbers[one.table].append((~there).astype(np.float32))

    def stacked(self, table: str, count: int) -> Int[Tensor, "N v"]:
        parts = self._codes[table]
        return torch.from_numpy(np.concatenate(parts, axis=1) if parts else np.zeros((count, 0), np.int32))

    def numbered(self, table: str, count: int) -> Float[Tensor, "N n"]:
        parts = self._numbers[table]
        return torch.from_numpy(np.stack(parts, axis=1) if parts else np.zeros((count, 0), np.float32))


def _column(store: Store, table: str, one: Field) -> pa.ChunkedArray:
    """One column of a table.

    Raises:
        ConfigError: there is none of that name.
    """
    names = store.columns(table)
    own = [name for name in names if name not in TABLES[table].names or name in ("category_path", "title")]
    if one.column not in names:
        fix = f"There are {', '.join(f'{one.table}.{name}' for name in own) or 'none'}."
        raise ConfigError(f"the Store's {table} have no column {one.column!r}", where="fields", fix=fix)
    return store.table(table, [one.column])[one.column]


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _values(value: object, kind: str) -> list[str]:
    """A cell's values as text, each once."""
    if value is None:
        return []
    if isinstance(value, list):
        parts = [str(part) for part in value if part is not None]
    else:
        parts = str(value).split("|") if kind == "list" else [str(value)]
    return list(dict.fromkeys(part.strip() for part in parts if part.strip()))
