"""KARMA in a funnel, from training to the served list: a channel, fused into the pre-ranker, features of the ranker."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from safetensors.torch import load_file

from penchant.data.history import requests_before_events
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.funnel.features import SIMILARITY_FEATURES
from penchant.funnel.rank import ModelScorer
from penchant.papers.dmae.model import DMAE
from penchant.papers.karma.model import Karma, KarmaConfig
from penchant.papers.karma.objective import KarmaObjectiveConfig
from penchant.recipes import controls, runs
from penchant.recipes.funnel.plan import FunnelRun, funnel_of, shortened
from penchant.recipes.funnel.run import TrainedFunnel, run_funnel
from penchant.recipes.karma.run import LEARNER, KarmaRun
from penchant.recipes.karma.stages import ContinuationConfig, WarmUpConfig
from penchant.serve.app import create_app
from penchant.serve.bundle import Bundle
from penchant.serve.events import EventLog
from penchant.serve.export import export
from penchant.serve.service import Service
from penchant.training.candidates import CandidateArrays, CandidateBatches
from penchant.training.loop import TrainConfig
from tests.factories import make_store
from tests.tiny_models import encoded, save_language_model

NOW_MS = 1_800_000_000_000


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """With text vectors, which KARMA reads."""
    folder = tmp_path_factory.mktemp("places")
    return encoded(make_store(folder / "store", num_users=100), folder)


def karma_funnel(language: Path) -> FunnelRun:
    karma = KarmaRun(
        model=KarmaConfig(backbone=str(language), layers=2, width=8),
        continuation=ContinuationConfig(steps=0),
        warm_up=WarmUpConfig(steps=6, items=16),
        objective=KarmaObjectiveConfig(generate=0.1, reconstruct=0.1),
        train=TrainConfig(epochs=2, tensorboard=False, device="cpu"),
    )
    run = shortened(funnel_of({"karma": karma, "popularity": controls.popularity()}, k=30), 2.0)
    settings = replace(run.settings, merged_size=40, preranked_size=15, list_size=10)
    return replace(run, settings=settings, fuse="karma", features_from="karma")


@pytest.fixture(scope="module")
def trained(market: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainedFunnel, Path]:
    folder = tmp_path_factory.mktemp("karma-funnel")
    run = karma_funnel(save_language_model(folder / "language"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PENCHANT_CACHE", str(folder / "cache"))
        patch.setattr(runs, "drop_checkpoints", lambda folder: None)  # a test reads what decodes from one
        return run_funnel(run, market, load_split(market, "funnel"), folder / "run"), folder / "run"


@pytest.fixture(scope="module")
def bundle(market: Store, trained: tuple[TrainedFunnel, Path]) -> Bundle:
    return export(trained[1], market, trained[1].with_name("bundle"))


def test_karma_retrieves_and_is_fused_and_is_read_by_the_ranker(
    market: Store, trained: tuple[TrainedFunnel, Path], bundle: Bundle
) -> None:
    requests = requests_before_events(market, load_split(market, "funnel").targets("test")[:30], 50)
    ours, theirs = trained[0].funnel.run(requests), bundle.funnel.run(requests)
    assert bool(ours.lists[0].mask.all())
    assert torch.equal(ours.ranked.items, theirs.ranked.items)
    torch.testing.assert_close(ours.ranked.scores, theirs.ranked.scores)
    fusion, rank = bundle.funnel.fusion, bundle.funnel.rank
    assert fusion is not None
    assert isinstance(rank, ModelScorer)
    assert fusion.weight == json.loads((bundle.path / "funnel.json").read_text())["fusion"]["weight"]
    assert isinstance(fusion.similarity.model, Karma)
    assert rank.features.similarity is fusion.similarity, "one model, one memory of what it read"
    # The channel's own score, for what it found and what it did not.
    both = ours.merged
    scores = fusion.similarity.scores(requests, both.items)
    found = both.ranks[..., 0] > 0
    assert bool((~found & both.mask).any())
    torch.testing.assert_close(scores[found], both.channel_scores[..., 0][found], rtol=1e-4, atol=1e-5)


def test_the_ranker_is_dmae_where_the_store_has_content_and_no_decoder_is_served(bundle: Bundle) -> None:
    rank = bundle.funnel.rank
    assert isinstance(rank, ModelScorer)
    assert isinstance(rank.model, DMAE)
    assert rank.model.config.modalities == ("text",)
    assert not [name for name in rank.model.state_dict() if "decod" in name]


def test_a_bundle_holds_karma_once(bundle: Bundle) -> None:
    with_karma = [p for p in bundle.path.rglob("model.json") if json.loads(p.read_text())["kind"] == "karma"]
    assert [p.parent.relative_to(bundle.path).as_posix() for p in with_karma] == ["channels/karma"]
    for file in ("rank/features.safetensors", "prerank/features.safetensors"):
        assert (bundle.path / file).stat().st_size < 10_000


def test_no_weight_of_an_objective_is_in_a_bundle(bundle: Bundle, trained: tuple[TrainedFunnel, Path]) -> None:
    """What decodes was trained and is in the checkpoint; no tensor of it, by name or by value, is served."""
    (checkpoint,) = (trained[1] / "channels" / "karma" / LEARNER).glob("checkpoint-*")
    learned = load_file(checkpoint / "model.safetensors")
    decodes = {name: value for name, value in learned.items() if name.startswith("objective.")}
    assert {name.split(".")[1] for name in decodes} == {"language", "separator", "adapter", "adapted"}
    served = {(p, n): v for p in bundle.path.rglob("*.safetensors") for n, v in load_file(p).items()}
    assert served
    for (path, name), value in served.items():
        assert not any(v.shape == value.shape and torch.equal(v, value) for v in decodes.values()), (path, name)
    names = [name for path, name in served if path.parent.name == "karma"]
    assert names
    forbidden = ("objective", "language", "separator", "adapt", "head", "embed")
    assert not [name for name in names if any(part in name for part in forbidden)]


def test_a_request_has_the_features_in_the_bundle_that_the_ranker_was_trained_on(
    market: Store, trained: tuple[TrainedFunnel, Path], bundle: Bundle
) -> None:
    learned, served = trained[0].funnel.rank, bundle.funnel.rank
    assert isinstance(learned, ModelScorer)
    assert isinstance(served, ModelScorer)
    similar = torch.tensor([name.split(":")[-1] in SIMILARITY_FEATURES for name in learned.features.names])
    assert int(similar.sum()) == len(SIMILARITY_FEATURES)
    arrays = CandidateArrays.load(trained[1] / "candidates" / "preranked-odd")
    batch = CandidateBatches(market, learned.features, arrays).batch(0)
    rows = {(int(market.event_user[e]), int(market.event_ts_ms[e])): row for row, e in enumerate(arrays.events)}
    checked = 0
    for b in range(len(batch.inputs.requests)):
        learned_of = batch.inputs.requests.rows(slice(b, b + 1)).last(50)
        one = np.array([rows[int(learned_of.users), int(learned_of.times_ms)]])
        requests = requests_before_events(market, arrays.events[one], 200)
        if not torch.equal(requests.last(50).history, learned_of.history):
            continue  # another event of the same user and time
        inputs = served.features(requests, arrays.candidates(one))
        torch.testing.assert_close(inputs.features[0], batch.inputs.features[b], rtol=1e-4, atol=1e-4)
        assert inputs.features[0][:, similar].any()
        checked += 1
    assert checked > 5


def test_a_bundle_with_karma_is_served(bundle: Bundle, market: Store, tmp_path: Path) -> None:
    service = Service(bundle, EventLog(tmp_path / "events.sqlite"), now_ms=lambda: NOW_MS)
    with TestClient(create_app(service, workers=1)) as client:
        for body in ({"user_id": "u1"}, {"history": ["i3", "i9"]}, {}):
            answer = client.post("/v1/recommend", json={**body, "explain": True}).json()
            assert len(answer["items"]) == 10
            assert answer["served"] == ("personal" if body else "popular (new user)")
            assert "fuse" in answer["timing_ms"]
        title = market.table("items")["title"][4].as_py()
        assert client.post("/v1/search", json={"query": title, "user_id": "u1"}).json()["items"]
