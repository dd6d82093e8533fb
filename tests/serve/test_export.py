"""What an export writes, and what it refuses."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from penchant.data.history import requests_before_times
from penchant.data.output import alone
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.data.writer import write_store
from penchant.errors import BundleError, RunError
from penchant.funnel.pipeline import load_funnel
from penchant.serve.bundle import Bundle
from penchant.serve.export import export
from tests.factories import make_store
from tests.serve.conftest import NOW_MS, SETTINGS, make_run


def test_histories_are_each_users_last_actions(bundle: Bundle, store: Store) -> None:
    for user in range(1, store.num_users + 1):
        rows = np.arange(store.user_indptr[user], store.user_indptr[user + 1])[-SETTINGS.max_history :]
        items, times = bundle.history(user)
        assert items.tolist() == store.event_item[rows].tolist()
        assert times.tolist() == store.event_ts_ms[rows].tolist()
    assert len(bundle.history(0)[0]) == 0


def test_ids_and_texts_are_the_stores(bundle: Bundle, store: Store) -> None:
    assert bundle.item_ids == store.item_ids
    assert bundle.user_ids == store.user_ids
    assert bundle.titles[1:] == store.table("items")["title"].to_pylist()
    assert bundle.item_of("i7") == store.item_ids.index("i7")
    assert bundle.item_of("nothing") == bundle.item_of("") == bundle.user_of("nobody") == 0


def test_thumbnails_are_small_pictures_of_their_own_items(bundle: Bundle, store: Store) -> None:
    for item, encoded in enumerate(store.table("items")["image"].to_pylist(), start=1):
        small = bundle.thumbnail(item)
        assert bundle.has_thumbnail(item) == (encoded is not None) == (small is not None)
        if small is not None:
            was = np.array(Image.open(io.BytesIO(encoded)).convert("RGB"))[12, 12].astype(int)
            now = np.array(Image.open(io.BytesIO(small)))[12, 12].astype(int)
            assert np.abs(was - now).max() < 12


def test_the_manifest_names_where_it_all_came_from(bundle: Bundle, store: Store) -> None:
    manifest = bundle.manifest
    assert manifest["store"] == {"name": "made-up", "fingerprint": store.fingerprint}
    assert manifest["split"] == {"split": "funnel", "fingerprint": load_split(store, "funnel").fingerprint}
    assert manifest["synthetic"] is False
    assert manifest["has_time"] is True
    on_disk = {p.relative_to(bundle.path).as_posix() for p in bundle.path.rglob("*") if p.is_file()}
    assert on_disk == {*manifest["files"], "manifest.json"}


def test_a_synthetic_store_makes_a_synthetic_bundle(run_folder: Path, store: Store, tmp_path: Path) -> None:
    shutil.copytree(store.path, tmp_path / "store")
    manifest = json.loads((tmp_path / "store" / "manifest.json").read_text())
    (tmp_path / "store" / "manifest.json").write_text(json.dumps({**manifest, "synthetic": True}))
    assert export(run_folder, Store(tmp_path / "store"), tmp_path / "bundle").is_synthetic


def test_a_store_without_times_makes_a_bundle_that_says_so(run_folder: Path, store: Store, tmp_path: Path) -> None:
    shutil.copytree(store.path, tmp_path / "store")
    manifest = json.loads((tmp_path / "store" / "manifest.json").read_text())
    (tmp_path / "store" / "manifest.json").write_text(json.dumps({**manifest, "has_time": False}))
    assert not export(run_folder, Store(tmp_path / "store"), tmp_path / "bundle").has_time


def test_a_bundle_holds_the_models_weights_and_nothing_of_training(
    run_folder: Path, store: Store, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(run_folder, run)
    save_file({"decoder": torch.ones(3)}, run / "channels" / "sasrec" / "objective.safetensors")
    save_file({"exp_avg": torch.ones(3)}, run / "rank" / "optimizer.safetensors")
    (run / "checkpoints").mkdir()
    (run / "metrics.jsonl").write_text("{}")
    out = tmp_path / "bundle"
    export(run, store, out)
    models = [f"channels/{c.name}" for c in SETTINGS.channels] + ["prerank", "rank"]
    expected = {f"{m}/{f}" for m in models for f in ("model.json", "model.safetensors")}
    expected |= {f"{s}/{f}" for s in ("prerank", "rank") for f in ("features.json", "features.safetensors")}
    assert {p.relative_to(out).as_posix() for p in out.rglob("*/*") if p.is_file()} == expected
    for model in models:
        saved, shipped = (load_file(f / model / "model.safetensors") for f in (run_folder, out))
        assert saved.keys() == shipped.keys()
        assert all(torch.equal(saved[name], shipped[name]) for name in saved)


def test_a_bundle_fuses_as_the_run_did(run_folder: Path, bundle: Bundle, store: Store) -> None:
    ours, theirs = bundle.funnel.fusion, load_funnel(run_folder).fusion
    assert ours is not None
    assert theirs is not None
    assert (ours.similarity.channel, ours.weight, ours.tried) == ("sasrec", 0.5, ((0.5, 0.9),))
    requests = requests_before_times(store, np.array([1, 2]), np.full(2, NOW_MS), 25)
    given = bundle.funnel.run(requests).merged
    assert torch.equal(ours.score(requests, given).scores, theirs.score(requests, given).scores)
    assert not torch.equal(ours.score(requests, given).items, given.items)


def test_two_exports_differ_in_nothing(run_folder: Path, bundle: Bundle, store: Store, tmp_path: Path) -> None:
    assert export(run_folder, store, tmp_path / "again").manifest == bundle.manifest


def test_a_second_export_to_the_same_folder_is_refused(run_folder: Path, store: Store, tmp_path: Path) -> None:
    with alone(tmp_path / "bundle", BundleError):
        with pytest.raises(BundleError, match=r"bundle: another process is at work on it"):
            export(run_folder, store, tmp_path / "bundle")
        assert [p.name for p in tmp_path.iterdir()] == ["bundle.lock"]


def test_an_export_never_writes_over_something(run_folder: Path, store: Store, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    with pytest.raises(BundleError, match="already exists"):
        export(run_folder, store, tmp_path / "bundle")


def test_a_failed_export_leaves_nothing(run_folder: Path, store: Store, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(run_folder, run)
    (run / "rank" / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(RunError, match="rank"):
        export(run, store, tmp_path / "out" / "bundle")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_run_of_another_store_is_refused(run_folder: Path, tmp_path: Path) -> None:
    other = make_store(tmp_path / "store", seed=1)
    with pytest.raises(RunError, match="another Store"):
        export(run_folder, other, tmp_path / "bundle")


def test_a_store_without_pictures_makes_a_bundle_without(store: Store, tmp_path: Path) -> None:
    tables = {name: store.table(name) for name in ("users", "events")}
    plain = write_store(tmp_path / "store", name="plain", items=store.table("items").drop_columns(["image"]), **tables)
    bundle = export(make_run(plain, tmp_path / "run"), plain, tmp_path / "bundle")
    assert bundle.thumbnail(3) is None
    assert not bundle.has_thumbnail(3)
    assert not (tmp_path / "bundle" / "thumbnails.npy").exists()
