"""The Store: an immutable, hashed folder of Parquet tables and memory-mapped arrays.

    store/
      manifest.json            counts, source, what was refused, sha256 of every file, the fingerprint
      items.parquet  users.parquet  events.parquet  impressions.parquet  queries.parquet
      arrays/                  what training reads, as .npy that the operating system pages in
        user_indptr.npy        int64 [U+2]  user u's events are rows user_indptr[u]:user_indptr[u+1] (user 0 has none)
        event_item.npy         int32 [E]    events sorted by (user, time, source row)
        event_ts_ms.npy        int64 [E]
        event_query.npy        int32 [E]
        item_category.npy      int32 [I+1]  row 0 is padding
        request_indptr.npy     int64 [R+1]  request r's impressions are rows request_indptr[r-1]:request_indptr[r]
        request_user.npy       int32 [R+1]  row 0 is padding
        request_ts_ms.npy      int64 [R+1]
        request_query.npy      int32 [R+1]
        impression_item.npy    int32 [N]
        impression_label.npy   int8  [N]
      splits/<name>.json       definitions of the splits, each with its fingerprint (data/split.py)
      vectors/<name>/          frozen content vectors, added later (encoders/)

The fingerprint says what models learn from and are judged on: it is a hash of all the arrays, and of the ids of items
and users, the items' titles and texts, and the queries' texts. It does not cover the Store's name, the items' pictures
(the image vectors' fingerprint does), category paths and further columns, the users' profiles, the events' action,
request and row, or the impressions' position and source: Stores that differ in these alone have the same one. `verify`
compares every byte. Splits and vectors carry fingerprints of their own, made with the Store's.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penchant.data import schema
from penchant.data.output import whole
from penchant.errors import PenchantError, StoreError

MANIFEST = "manifest.json"


def sha256(path: Path) -> str:
    """Hash of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(value: object) -> str:
    """Short hash of anything JSON can say; the same value gives the same 16 hexadecimal digits everywhere."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def cache_root() -> Path:
    """PENCHANT_CACHE, or ~/.cache/penchant: downloads, converted models and vectors, which can all be made again."""
    return Path(os.environ.get("PENCHANT_CACHE") or Path.home() / ".cache" / "penchant").expanduser()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 so that a reader sees the old file or the new one, never half of it."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: object) -> None:
    """Write JSON as `write_text` writes."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def read_json(path: Path, fix: str, error: type[PenchantError] = StoreError) -> dict[str, Any]:
    """The object that `write_json` wrote.

    Raises:
        PenchantError: an `error`: the file is damaged.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"holds a {type(value).__name__}, no object")
    except ValueError as damage:  # also of letters that are not UTF-8
        raise error(f"damaged or cut short ({damage})", where=path, fix=fix) from damage
    return value


@dataclass(frozen=True)
class ContentVectors:
    """Frozen vectors of the items' texts or pictures.

    Attributes:
        values: float16 [I+1, D]; row 0 and rows of items without content are zero.
        present: bool [I+1]; False where an item has no such content.
        fingerprint: hash of encoder and content.
        encoder, encoder_fingerprint: which encoder made them: its name, and the hash of its weights and settings.
    """

    values: np.ndarray
    present: np.ndarray
    fingerprint: str
    encoder: str
    encoder_fingerprint: str

    def standardised(self) -> np.ndarray:
        """float32 [I+1, D]: mean 0 and variance 1 in each dimension over the items that have content.

        The others stay zero, and so does a dimension in which all are alike.
        """
        known = self.values[self.present].astype(np.float32)
        count = max(len(known), 1)
        known -= known.sum(0, dtype=np.float64) / count
        spread = np.sqrt(np.einsum("nd,nd->d", known, known) / count)
        out = np.zeros(self.values.shape, np.float32)
        out[self.present] = known / np.where(spread > 0, spread, 1)
        return out


class Store:
    """A prepared data set. Opening one reads the manifest alone; arrays are mapped when first asked for.

    Raises:
        StoreError: no Store at `path`, one of another format, or one with a missing or cut file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        manifest = self.path / MANIFEST
        if not manifest.is_file():
            raise StoreError(
                "no Store here", where=self.path, fix="Make one with `penchant prepare SOURCE --out STORE`."
            )
        self.manifest = read_json(manifest, "Prepare the Store again.")
        if self.manifest.get("format") != schema.FORMAT:
            raise StoreError(
                f"Store format {self.manifest.get('format')!r}, this version reads {schema.FORMAT}",
                where=self.path,
                fix="Prepare it again.",
            )
        for name, entry in self.manifest["files"].items():
            file = self.path / name
            if not file.is_file() or file.stat().st_size != entry["bytes"]:
                raise StoreError("missing or cut short", where=file, fix="Prepare the Store again.")

    def __repr__(self) -> str:
        return (
            f"Store({str(self.path)!r}: {self.num_users:,} users, {self.num_items:,} items, "
            f"{self.num_events:,} events, {self.fingerprint})"
        )

    @property
    def fingerprint(self) -> str:
        return self.manifest["fingerprint"]

    @property
    def name(self) -> str:
        """The data's name, as in result files: "ml-1m-liked"."""
        return self.manifest["name"]

    @property
    def num_items(self) -> int:
        """Items are 1..num_items."""
        return self.manifest["counts"]["items"]

    @property
    def num_users(self) -> int:
        """Users are 1..num_users."""
        return self.manifest["counts"]["users"]

    @property
    def num_events(self) -> int:
        return self.manifest["counts"]["events"]

    @property
    def num_requests(self) -> int:
        """Requests with impressions are 1..num_requests."""
        return self.manifest["counts"]["requests"]

    @property
    def num_categories(self) -> int:
        """Categories are 1..num_categories."""
        return self.manifest["counts"]["categories"]

    @property
    def num_queries(self) -> int:
        """Distinct queries are 1..num_queries; 0 where nobody searched."""
        return self.manifest["counts"]["queries"]

    @property
    def has_time(self) -> bool:
        """False where the source knows an order but no absolute time: only the `loo` split is possible."""
        return self.manifest["has_time"]

    def table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """One of the tables of `schema.TABLES`, whole or some columns of it."""
        return pq.read_table(self.path / f"{name}.parquet", columns=columns)

    def columns(self, name: str) -> list[str]:
        """Names of a table's columns, the source's own included."""
        return pq.read_schema(self.path / f"{name}.parquet").names

    def _array(self, name: str) -> np.ndarray:
        return np.load(self.path / "arrays" / f"{name}.npy", mmap_mode="r")

    @cached_property
    def user_indptr(self) -> np.ndarray:
        """int64 [U+2]: user u's events are rows user_indptr[u]:user_indptr[u+1]."""
        return np.asarray(self._array("user_indptr"))

    @cached_property
    def event_item(self) -> np.ndarray:
        """int32 [E], mapped."""
        return self._array("event_item")

    @cached_property
    def event_ts_ms(self) -> np.ndarray:
        """int64 [E], mapped."""
        return self._array("event_ts_ms")

    @cached_property
    def event_query(self) -> np.ndarray:
        """int32 [E], mapped; 0 = no query."""
        return self._array("event_query")

    @cached_property
    def item_category(self) -> np.ndarray:
        """int32 [I+1]; 0 = no category."""
        return np.asarray(self._array("item_category"))

    @cached_property
    def request_indptr(self) -> np.ndarray:
        """int64 [R+1]: request r's impressions are rows request_indptr[r-1]:request_indptr[r]."""
        return np.asarray(self._array("request_indptr"))

    @cached_property
    def request_user(self) -> np.ndarray:
        """int32 [R+1]."""
        return self._array("request_user")

    @cached_property
    def request_ts_ms(self) -> np.ndarray:
        """int64 [R+1]."""
        return self._array("request_ts_ms")

    @cached_property
    def request_query(self) -> np.ndarray:
        """int32 [R+1]."""
        return self._array("request_query")

    @cached_property
    def impression_item(self) -> np.ndarray:
        """int32 [N], mapped."""
        return self._array("impression_item")

    @cached_property
    def impression_label(self) -> np.ndarray:
        """int8 [N], mapped."""
        return self._array("impression_label")

    @cached_property
    def item_ids(self) -> list[str]:
        """The shop's id of each item; entry 0 (padding) is the empty string."""
        return ["", *self.table("items", ["item_id"])["item_id"].to_pylist()]

    @cached_property
    def user_ids(self) -> list[str]:
        """The shop's id of each user; entry 0 (anonymous) is the empty string."""
        return ["", *self.table("users", ["user_id"])["user_id"].to_pylist()]

    @cached_property
    def query_texts(self) -> list[str]:
        """The text of each query; entry 0 (none) is the empty string."""
        return ["", *self.table("queries", ["text"])["text"].to_pylist()]

    @cached_property
    def event_user(self) -> np.ndarray:
        """int32 [E]: the user of each event, from user_indptr."""
        return np.repeat(np.arange(self.num_users + 1, dtype=np.int32), np.diff(self.user_indptr))

    @property
    def vector_names(self) -> list[str]:
        """Names of the content vectors that there are."""
        return sorted(path.parent.name for path in self.path.glob(f"vectors/*/{MANIFEST}"))

    def vectors(self, name: str) -> ContentVectors:
        """Frozen content vectors by name ("text", "image"), mapped.

        Raises:
            StoreError: this Store has none of that name, or their manifest is damaged.
        """
        folder = self.path / "vectors" / name
        if not (folder / MANIFEST).is_file():
            raise StoreError(
                f"no content vectors named {name!r}, there are {self.vector_names or 'none'}",
                where=self.path,
                fix=f"Make them with `penchant encode {self.path}`.",
            )
        manifest = read_json(folder / MANIFEST, f"Make them again with `penchant encode {self.path}`.")
        values = np.load(folder / "values.npy", mmap_mode="r")
        present = np.load(folder / "present.npy")
        made_by = manifest.get("encoder", ""), manifest.get("encoder_fingerprint", "")
        return ContentVectors(values, present, manifest["fingerprint"], *made_by)

    def verify(self) -> None:
        """Read every file and compare its hash with the manifest's.

        Raises:
            StoreError: names the first damaged file.
        """
        for name, entry in self.manifest["files"].items():
            if sha256(self.path / name) != entry["sha256"]:
                raise StoreError(
                    "its bytes are not those that were written",
                    where=self.path / name,
                    fix="Prepare it again.",
                )
