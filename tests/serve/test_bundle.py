"""Loading a bundle: whole, or not at all."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from penchant.data.history import requests_before_times
from penchant.data.store import Store, fingerprint
from penchant.errors import BundleError
from penchant.funnel.pipeline import load_funnel
from penchant.serve.bundle import Bundle
from tests.serve.conftest import NOW_MS


def test_a_flipped_byte_in_any_file_is_refused_by_its_name(bundle_path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(bundle_path, copy)
    files = [p for p in sorted(copy.rglob("*")) if p.is_file()]
    assert len(files) > 15
    for file in files:
        whole = file.read_bytes()
        damaged = bytearray(whole)
        damaged[len(whole) // 2] ^= 1
        file.write_bytes(damaged)
        with pytest.raises(BundleError, match=str(file.relative_to(copy)).replace(".", r"\.")):
            Bundle.load(copy)
        file.write_bytes(whole)
    assert Bundle.load(copy).num_items == 80


@pytest.mark.parametrize("name", ["items.parquet", "rank/model.safetensors", "manifest.json"])
def test_a_missing_or_cut_file_is_refused(bundle_path: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(bundle_path, copy)
    whole = (copy / name).read_bytes()
    (copy / name).write_bytes(whole[:-1] if name != "manifest.json" else whole[: len(whole) // 2])
    with pytest.raises(BundleError, match=name):
        Bundle.load(copy)
    (copy / name).unlink()
    with pytest.raises(BundleError, match="no bundle here" if name == "manifest.json" else name):
        Bundle.load(copy)


def test_a_bundle_of_another_format_is_refused(bundle_path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(bundle_path, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["sha256"]
    manifest["format"] = 99
    (copy / "manifest.json").write_text(json.dumps({**manifest, "sha256": fingerprint(manifest)}))
    with pytest.raises(BundleError, match="format 99"):
        Bundle.load(copy)


def test_a_bundle_that_does_not_say_whether_it_has_times_is_taken_to_have_them(bundle: Bundle) -> None:
    older = {name: value for name, value in bundle.manifest.items() if name != "has_time"}
    assert replace(bundle, manifest=older).has_time


def test_the_bundles_funnel_answers_as_the_runs(bundle: Bundle, run_folder: Path, store: Store) -> None:
    users = torch.arange(store.num_users + 1).numpy()
    requests = requests_before_times(store, users, users * 0 + NOW_MS, 50)
    ours, theirs = bundle.funnel.recommend(requests), load_funnel(run_folder).recommend(requests)
    assert torch.equal(ours.items, theirs.items)
    assert torch.equal(ours.scores, theirs.scores)
    assert torch.equal(ours.ranks, theirs.ranks)


def test_excluding_seen_items_shares_the_models_and_excludes(bundle: Bundle, store: Store) -> None:
    users = torch.arange(1, store.num_users + 1).numpy()
    requests = requests_before_times(store, users, users * 0 + NOW_MS, 25)
    without = bundle.funnel.with_exclude_seen(True)
    assert without.rank is bundle.funnel.rank
    assert bundle.funnel.with_exclude_seen(False) is bundle.funnel

    def seen(items: torch.Tensor) -> torch.Tensor:
        return ((items[:, :, None] == requests.history[:, None]) & (items > 0)[:, :, None]).any()

    assert seen(bundle.funnel.recommend(requests).items)
    assert not seen(without.recommend(requests).items)
