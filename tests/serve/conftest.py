"""A run folder of small real models over the made-up market, and the bundle exported from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient

from penchant.baselines.counted.markov import Markov
from penchant.baselines.counted.popularity import Popularity
from penchant.baselines.ranking.din import DIN
from penchant.baselines.retrieval.sasrec import SASRec
from penchant.data.history import requests_before_events
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.funnel.features import Features
from penchant.funnel.fusion import Fusion
from penchant.funnel.pipeline import ChannelSettings, Funnel, FunnelSettings, save_settings
from penchant.funnel.prerank import LightTwoTower
from penchant.funnel.retrieve import retriever
from penchant.funnel.similarity import similarities
from penchant.models import Sizes, save_model
from penchant.recipes.ranking import fit_inputs
from penchant.serve.app import create_app
from penchant.serve.bundle import Bundle
from penchant.serve.events import EventLog
from penchant.serve.export import export
from penchant.serve.service import Service

NOW_MS = 1_800_000_000_000
"""After every event of the made-up market."""

SETTINGS = FunnelSettings(
    channels=(
        ChannelSettings(name="markov", k=30, quota=15),
        ChannelSettings(name="sasrec", k=30, quota=15),
        ChannelSettings(name="popularity", k=20, quota=10),
    ),
    merge="quota",
    merged_size=40,
    preranked_size=20,
    list_size=10,
    max_history=25,
)


def make_run(store: Store, folder: Path, settings: FunnelSettings = SETTINGS) -> Path:
    """Counted channels and untrained networks: their answers mean nothing and depend on every part."""
    torch.manual_seed(0)
    split = load_split(store, "funnel")
    sizes = Sizes(num_items=store.num_items, num_categories=store.num_categories)
    markov, popularity = Markov(Markov.Config(), sizes), Popularity(Popularity.Config(), sizes)
    markov.fit(store, split)
    popularity.fit(store, split)
    channels = {"markov": markov, "sasrec": SASRec(SASRec.Config(), sizes), "popularity": popularity}
    for name, model in channels.items():
        save_model(model.eval(), folder / "channels" / name)
    plain = Features.fit(store, split, channels=tuple(c.name for c in settings.channels))
    funnel = Funnel([retriever(name, model) for name, model in channels.items()], None, None, settings)
    similar = similarities(funnel.retrievers)["sasrec"]
    requests = requests_before_events(store, split.targets("rank")[:64], settings.max_history)
    merged = funnel.run(requests).merged
    stages = {"prerank": (LightTwoTower, plain), "rank": (DIN, replace(plain, similarity=similar))}
    for stage, (kind, features) in stages.items():
        model = kind(kind.Config(), replace(sizes, num_features=len(features.names)))
        fit_inputs(model, features, [features(requests, merged)])
        save_model(model, folder / stage)
        features.save(folder / stage)
    save_settings(settings, folder, split, Fusion(similar, 0.5, ((0.5, 0.9),)))
    return folder


@pytest.fixture(scope="session")
def run_folder(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(store, tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="session")
def bundle_path(run_folder: Path, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only."""
    out = tmp_path_factory.mktemp("bundle") / "bundle"
    export(run_folder, store, out)
    return out


@pytest.fixture(scope="session")
def bundle(bundle_path: Path) -> Bundle:
    return Bundle.load(bundle_path)


@pytest.fixture
def client(bundle: Bundle, tmp_path: Path) -> Iterator[TestClient]:
    service = Service(bundle, EventLog(tmp_path / "events.sqlite"), now_ms=lambda: NOW_MS)
    with TestClient(create_app(service, workers=1)) as client:
        yield client


def post(client: TestClient, path: str, **body: Any) -> dict[str, Any]:
    answer = client.post(f"/v1/{path}", json=body)
    assert answer.status_code in (200, 201), answer.text
    return answer.json()


def problem(client: TestClient, path: str, **body: Any) -> dict[str, Any]:
    answer = client.post(f"/v1/{path}", json=body)
    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["errors"]
    assert error["problem"]
    assert error["fix"]
    return error
