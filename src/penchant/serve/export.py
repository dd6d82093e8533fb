"""From a run folder and its Store to a bundle (bundle.py says what is in one).

Models are loaded and saved anew, so what a run keeps beside them (objectives, optimizer state, checkpoints, metrics)
cannot slip into a bundle. What tells vectors in words comes along where it is asked for, and is loaded where asked for.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penchant.data.output import alone, whole
from penchant.data.sources.images import small_jpeg
from penchant.data.split import load_split
from penchant.data.store import Store, fingerprint, sha256, write_json
from penchant.errors import BundleError, RunError
from penchant.funnel.calibration import ScoreCalibration
from penchant.funnel.pipeline import SETTINGS, Funnel, load_funnel, load_settings
from penchant.funnel.rank import ModelScorer
from penchant.models import READER, save_model
from penchant.serve.bundle import CALIBRATION, FORMAT, MANIFEST, READERS, Bundle

THUMBNAIL = (96, 144)
"""Largest width and height of a picture in a bundle, in pixels."""


def export(
    run: str | Path,
    store: Store,
    out: str | Path,
    calibration: ScoreCalibration | None = None,
    *,
    readers: Callable[[Path, Path], None] | None = None,
) -> Bundle:
    """Write what serving needs of a run to a new folder, complete or not at all, and load it once as a check.

    Histories are the last `max_history` actions of each user in the whole Store: all that was known at export.

    Args:
        run: folder with `funnel.json`, `channels/`, and `prerank/` and `rank/` where the funnel has them.
        store: the Store the run was trained on.
        calibration: with it, served lists also tell each item's chance.
        readers: takes along what tells a channel's vectors in words, from one folder to another.

    Raises:
        BundleError: `out` exists, or another process is exporting to it.
        RunError: the run lacks a file, has a damaged one, or was trained on another Store; readers are wanted, and no
            channel has one.
    """
    run, out = Path(run), Path(out)
    load_settings(run)  # refused before anything is written
    trained_on = _trained_on(run, store)
    with alone(out, BundleError):
        check_new(out)
        with whole(out) as temporary:
            temporary.mkdir()
            if readers:
                _write_readers(run, temporary, readers)
            _write(run, store, temporary, trained_on, calibration)
    return Bundle.load(out)


def check_new(out: Path) -> None:
    """
    Raises:
        BundleError: `out` exists.
    """
    if out.exists():
        raise BundleError("already exists", where=out, fix="Choose another --out, or remove it first.")


def _write(
    run: Path, store: Store, out: Path, trained_on: dict[str, Any] | None, calibration: ScoreCalibration | None
) -> None:
    funnel = load_funnel(run)
    shutil.copy(run / SETTINGS, out / SETTINGS)
    if calibration is not None:
        write_json(out / CALIBRATION, asdict(calibration))
    _write_models(funnel, run, out, store)
    _write_histories(store, out, funnel.settings.max_history)
    pq.write_table(store.table("items", ["item_id", "title", "text", "category_path"]), out / "items.parquet")
    pq.write_table(store.table("users", ["user_id"]), out / "users.parquet")
    num_thumbnails, num_unreadable = _write_thumbnails(store, out)
    manifest = {
        "format": FORMAT,
        "store": {"name": store.name, "fingerprint": store.fingerprint},
        "split": trained_on,
        "synthetic": bool(store.manifest.get("synthetic", False)),
        "has_time": store.has_time,
        "counts": {
            "items": store.num_items,
            "users": store.num_users,
            "thumbnails": num_thumbnails,
            "unreadable_pictures": num_unreadable,
        },
        "versions": {name: version(name) for name in ("penchant", "torch", "numpy", "safetensors", "pyarrow")},
        "files": {
            file.relative_to(out).as_posix(): {"sha256": sha256(file), "bytes": file.stat().st_size}
            for file in sorted(out.rglob("*"))
            if file.is_file()
        },
    }
    write_json(out / MANIFEST, {**manifest, "sha256": fingerprint(manifest)})


def _write_readers(run: Path, out: Path, write: Callable[[Path, Path], None]) -> None:
    folders = {c.name: run / "channels" / c.name / READER for c in load_settings(run).channels}
    found = {name: folder for name, folder in folders.items() if folder.is_dir()}
    if not found:
        fix = "Train a funnel with a KARMA that is kept decodable (`penchant demo --karma` has one), or leave it out."
        raise RunError("no channel was taught to tell its vectors in words", where=run / "channels", fix=fix)
    for name, folder in found.items():
        write(folder, out / READERS / name)


def _trained_on(run: Path, store: Store) -> dict[str, Any] | None:
    """The split the run names, checked to be this Store's."""
    trained_on = json.loads((run / SETTINGS).read_text()).get("trained_on")
    if trained_on is not None and load_split(store, trained_on["split"]).fingerprint != trained_on["fingerprint"]:
        raise RunError(
            f"was trained on another Store than {store.path} (their splits {trained_on['split']!r} differ)",
            where=run,
            fix="Name the Store it was trained on.",
        )
    return trained_on


def _write_models(funnel: Funnel, run: Path, out: Path, store: Store) -> None:
    models: dict[str, Any] = {}
    source: Any
    for source in funnel.retrievers:
        models[f"channels/{source.name}"] = source.model
    for stage, scorer in (("prerank", funnel.prerank), ("rank", funnel.rank)):
        if isinstance(scorer, ModelScorer):
            models[stage] = scorer.model
            scorer.features.save(out / stage)
    for name, model in models.items():
        if model.sizes.num_items != store.num_items:
            raise RunError(
                f"a model of {model.sizes.num_items} items, {store.path} has {store.num_items}",
                where=run / name,
                fix="Name the Store it was trained on.",
            )
        save_model(model, out / name)


def _write_histories(store: Store, out: Path, max_len: int) -> None:
    stops = store.user_indptr[1:]
    starts = np.maximum(store.user_indptr[:-1], stops - max_len)
    lengths = stops - starts
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    rows = np.arange(indptr[-1]) + np.repeat(starts - indptr[:-1], lengths)
    np.save(out / "history_indptr.npy", indptr.astype(np.int64))
    np.save(out / "history_items.npy", store.event_item[rows].astype(np.int32))
    np.save(out / "history_ts_ms.npy", store.event_ts_ms[rows].astype(np.int64))


def _write_thumbnails(store: Store, out: Path) -> tuple[int, int]:
    """Shrink the items' pictures; those that cannot be read are left out. Returns how many were written, left out."""
    sizes, unreadable = [0, 0], 0
    pictures: list[bytes] = []
    for encoded in _pictures(store):
        small = small_jpeg(encoded, THUMBNAIL) if encoded else b""
        unreadable += small is None
        pictures.append(small or b"")
        sizes.append(len(pictures[-1]))
    written = sum(map(bool, pictures))
    if written:
        np.save(out / "thumbnails.npy", np.frombuffer(b"".join(pictures), dtype=np.uint8))
        np.save(out / "thumbnail_indptr.npy", np.cumsum(sizes).astype(np.int64))
    return written, unreadable


def _pictures(store: Store) -> Iterator[bytes | None]:
    """Each item's encoded picture, a few hundred in memory at a time."""
    with pq.ParquetFile(store.path / "items.parquet") as file:
        for batch in file.iter_batches(batch_size=256, columns=["image"]):
            yield from pa.Table.from_batches([batch])["image"].to_pylist()
