"""The bundle: what serving loads, and nothing more.

bundle/
  manifest.json             format, sha256 and size of every file, what it was made from, versions, synthetic or not,
                            with times or with an order alone
  funnel.json  channels/<name>/  prerank/  rank/      the funnel (funnel/pipeline.py)
  calibration.json          how a score becomes a chance; absent unless asked for
  items.parquet             item_id, title, text, category_path of items 1..num_items, in order
  users.parquet             user_id of users 1..num_users, in order
  history_indptr.npy        int64 [U+2]  user u's actions are rows history_indptr[u]:history_indptr[u+1]
  history_items.npy         int32 [H]    oldest first
  history_ts_ms.npy         int64 [H]
  thumbnail_indptr.npy      int64 [I+2]  item i's picture is bytes thumbnail_indptr[i]:thumbnail_indptr[i+1]
  thumbnails.npy            uint8 [N]    JPEG after JPEG; both files are absent where no item has a picture
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penchant.data.store import fingerprint, sha256
from penchant.errors import BundleError, RunError
from penchant.funnel.calibration import ScoreCalibration
from penchant.funnel.pipeline import Funnel, load_funnel
from penchant.index.lexical import LexicalIndex

FORMAT = 1
"""Version of the layout; a bundle of another version is refused."""

MANIFEST = "manifest.json"
READERS = "readers"
"""In a bundle: a folder for each channel whose vectors can be told in words; loaded where asked for alone."""
CALIBRATION = "calibration.json"


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle. Histories and thumbnails are mapped, not read.

    Attributes:
        manifest: what `export` wrote.
        item_ids, titles, category_paths, texts: of items 0..num_items; entry 0 (padding) is "" or None.
        user_ids: of users 0..num_users; entry 0 is "".
    """

    path: Path
    manifest: dict[str, Any]
    funnel: Funnel
    item_ids: list[str]
    titles: list[str | None]
    category_paths: list[str | None]
    texts: list[str | None]
    user_ids: list[str]
    history_indptr: np.ndarray
    history_items: np.ndarray
    history_ts_ms: np.ndarray
    thumbnail_indptr: np.ndarray | None
    thumbnails: np.ndarray | None
    calibration: ScoreCalibration | None = None

    @classmethod
    def load(cls, path: str | Path) -> Bundle:
        """Verify every file against the manifest, then load.

        Raises:
            BundleError: no bundle here, one of another format, or a missing or damaged file; the message names it.
        """
        path = Path(path)
        manifest = read_manifest(path)
        for name, entry in manifest["files"].items():
            file = path / name
            if not file.is_file():
                raise BundleError("is missing", where=file, fix="Export the run again.")
            if file.stat().st_size != entry["bytes"] or sha256(file) != entry["sha256"]:
                raise BundleError("its bytes are not those that were exported", where=file, fix="Export the run again.")
        items = _table(path / "items.parquet")
        has_pictures = "thumbnails.npy" in manifest["files"]
        try:
            funnel = load_funnel(path)
            calibration = _calibration(path / CALIBRATION)
        except (RunError, ValueError, TypeError) as error:  # whole, yet not to be loaded: written by another version
            raise BundleError(str(error), fix="Export the run again with this version.") from error
        return cls(
            path=path,
            manifest=manifest,
            funnel=funnel,
            item_ids=["", *items["item_id"].to_pylist()],
            titles=[None, *items["title"].to_pylist()],
            category_paths=[None, *items["category_path"].to_pylist()],
            texts=[None, *items["text"].to_pylist()],
            user_ids=["", *_table(path / "users.parquet")["user_id"].to_pylist()],
            history_indptr=_mapped(path / "history_indptr.npy"),
            history_items=_mapped(path / "history_items.npy"),
            history_ts_ms=_mapped(path / "history_ts_ms.npy"),
            thumbnail_indptr=_mapped(path / "thumbnail_indptr.npy") if has_pictures else None,
            thumbnails=_mapped(path / "thumbnails.npy") if has_pictures else None,
            calibration=calibration,
        )

    @property
    def num_items(self) -> int:
        return len(self.item_ids) - 1

    @property
    def num_users(self) -> int:
        return len(self.user_ids) - 1

    @property
    def is_synthetic(self) -> bool:
        """True where the data were generated; every page says so."""
        return self.manifest["synthetic"]

    @property
    def has_time(self) -> bool:
        """False where the history's times are places in an order; bundles that do not say are taken to have times."""
        return self.manifest.get("has_time", True)

    @property
    def has_pictures(self) -> bool:
        """Whether any item has one."""
        return self.thumbnails is not None

    @cached_property
    def lexical(self) -> LexicalIndex:
        """Text search over the catalogue; built when first asked for."""
        return LexicalIndex(self.titles[1:], self.category_paths[1:], self.texts[1:])

    @cached_property
    def _items(self) -> dict[str, int]:
        return {item_id: item for item, item_id in enumerate(self.item_ids) if item}

    @cached_property
    def _users(self) -> dict[str, int]:
        return {user_id: user for user, user_id in enumerate(self.user_ids) if user}

    def item_of(self, item_id: str) -> int:
        """Dense item; 0 = not in the catalogue."""
        return self._items.get(item_id, 0)

    def user_of(self, user_id: str) -> int:
        """Dense user; 0 = unknown."""
        return self._users.get(user_id, 0)

    def history(self, user: int) -> tuple[np.ndarray, np.ndarray]:
        """Items and times of a user's actions at export, oldest first; empty for 0."""
        rows = slice(self.history_indptr[user], self.history_indptr[user + 1])
        return self.history_items[rows], self.history_ts_ms[rows]

    def has_thumbnail(self, item: int) -> bool:
        return self.thumbnail_indptr is not None and bool(self.thumbnail_indptr[item + 1] > self.thumbnail_indptr[item])

    def thumbnail(self, item: int) -> bytes | None:
        """The item's picture as JPEG, at most 96 x 144; None where it has none."""
        if self.thumbnail_indptr is None or self.thumbnails is None or not self.has_thumbnail(item):
            return None
        return self.thumbnails[self.thumbnail_indptr[item] : self.thumbnail_indptr[item + 1]].tobytes()


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a bundle, checked against its own hash.

    Raises:
        BundleError: missing, damaged, or of another format.
    """
    file = path / MANIFEST
    if not file.is_file():
        raise BundleError("no bundle here", where=path, fix="Make one with `penchant export RUN --out BUNDLE`.")
    try:
        manifest = json.loads(file.read_bytes())
        stated = manifest.pop("sha256")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"cannot be read ({error})", where=file, fix="Export the run again.") from error
    if fingerprint(manifest) != stated:
        raise BundleError("its bytes are not those that were exported", where=file, fix="Export the run again.")
    if manifest["format"] != FORMAT:
        raise BundleError(
            f"bundle format {manifest['format']!r}, this version reads {FORMAT}",
            where=file,
            fix="Export the run again.",
        )
    return manifest


def _calibration(file: Path) -> ScoreCalibration | None:
    return ScoreCalibration.from_json(json.loads(file.read_text())) if file.is_file() else None


def _table(path: Path) -> pa.Table:
    with pq.ParquetFile(path) as file:  # read_table would import pandas where it is installed
        return file.read()


def _mapped(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r")
