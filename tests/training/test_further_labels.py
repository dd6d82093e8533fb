"""Further labels: read from the events of an impression's request, learned beside the click, and never served."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F

from penchant.baselines.ranking.objective import FurtherLabels, PositionEffect, pointwise
from penchant.data.split import load_split
from penchant.data.store import MANIFEST, Store, sha256
from penchant.errors import ConfigError, StoreError
from penchant.funnel.features import Features
from penchant.models import build_model, sizes_of
from penchant.recipes import controls
from penchant.recipes.judge import judge_run
from penchant.recipes.runs import load_run, train_run
from penchant.training.impressions import ImpressionBatches
from tests.factories import make_store

ACTIONS = ("cart", "order")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Every event is made that of the request that showed it, if one did; some are orders, some carts."""

    store = make_store(tmp_path_factory.mktemp("labels") / "store")
    events = store.table("events")
    clicked = {}
    row = np.repeat(np.arange(1, store.num_requests + 1), np.diff(store.request_indptr))
    for request, item, label in zip(row, store.impression_item, store.impression_label, strict=True):
        if label:
            clicked[int(store.request_user[request]), int(item), int(store.request_ts_ms[request])] = int(request)
    keys = zip(*(events[name].to_pylist() for name in ("user", "item", "ts_ms")), strict=True)
    request = [clicked.get(key, 0) for key in keys]
    action = [("click", "cart", "order")[n % 3] for n in range(len(request))]
    for name, values in (("request", pa.array(request, pa.int64())), ("action", pa.array(action))):
        events = events.set_column(events.column_names.index(name), events.schema.field(name), values)
    path = store.path / "events.parquet"
    pq.write_table(events, path)
    described = json.loads((store.path / MANIFEST).read_text())
    described["files"][path.name] |= {"bytes": path.stat().st_size, "sha256": sha256(path)}
    (store.path / MANIFEST).write_text(json.dumps(described))
    return Store(store.path)


def batches_of(store: Store) -> ImpressionBatches:
    split = load_split(store, "temporal-successive")
    return ImpressionBatches(store, split, "train", Features.fit(store, split, None), actions=ACTIONS)


def test_an_impression_has_the_label_of_each_action_of_its_request_and_item(shop: Store) -> None:
    events = shop.table("events").to_pydict()
    expected = {(r, i, a) for r, i, a in zip(events["request"], events["item"], events["action"], strict=True) if r > 0}
    row = np.repeat(np.arange(1, shop.num_requests + 1), np.diff(shop.request_indptr))
    seen = set[str]()
    for batch, shown in batches_of(shop).in_order():
        assert batch.further is not None
        for b, k in zip(*np.nonzero(shown >= 0), strict=True):
            at = shown[b, k]
            for n, action in enumerate(ACTIONS):
                holds = (int(row[at]), int(shop.impression_item[at]), action) in expected
                assert bool(batch.further[b, k, n]) == holds
                seen |= {action} if holds else set()
        assert not batch.further[torch.from_numpy(shown < 0)].any()
    assert seen == set(ACTIONS)


def test_each_label_has_a_head_on_what_the_last_layer_reads(shop: Store) -> None:
    torch.manual_seed(0)
    batch = batches_of(shop).batch(0)
    model = build_model("din", {}, sizes_of(shop, batch.inputs.features.shape[2])).eval()
    objective = FurtherLabels(pointwise, model, ACTIONS, 0.5)
    terms = objective(model, batch)
    assert list(terms) == ["click", "cart", "order"]
    assert torch.equal(terms["click"], pointwise(model, batch)["click"])
    read: list[torch.Tensor] = []
    hook = model.body.mlp[-1].register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    model(batch.inputs)
    hook.remove()
    assert batch.further is not None
    for n, action in enumerate(ACTIONS):
        logit = objective.heads(read[0])[..., n][batch.mask]
        expected = 0.5 * F.binary_cross_entropy_with_logits(logit, batch.further[..., n][batch.mask])
        torch.testing.assert_close(terms[action], expected)
    terms["order"].backward()
    assert model.body.mlp[0].weight.grad.any()
    assert model.body.mlp[-1].weight.grad is None  # the click's own
    assert not model.body.mlp[-1]._forward_pre_hooks


@pytest.mark.parametrize("ranker", [controls.din, controls.wide_deep])
def test_a_ranker_with_further_labels_is_trained_and_served_without_them(
    shop: Store, tmp_path: Path, ranker: type
) -> None:
    split = load_split(shop, "temporal-successive")
    run = ranker()
    train = replace(run.train, epochs=0.5, tensorboard=False, device="cpu")
    run = replace(run, actions=ACTIONS, data=replace(run.data, positions="estimated"), train=train)
    train_run(run, shop, split, tmp_path)
    loaded = load_run(tmp_path, device="cpu")
    assert not [name for name in loaded.model.state_dict() if "head" in name]
    assert 0 < judge_run(loaded, tmp_path).metrics()["AUC"] <= 1
    assert '"order"' in (tmp_path / "metrics.jsonl").read_text()


def test_they_go_together_with_an_effect_of_places(shop: Store) -> None:
    split = load_split(shop, "temporal-successive")
    features = Features.fit(shop, split, None)
    batches = ImpressionBatches(shop, split, "train", features, actions=ACTIONS, positions="estimated")
    model = build_model("mean_pooling", {}, sizes_of(shop, len(features.names)))
    both = PositionEffect(FurtherLabels(pointwise, model, ACTIONS, 1.0), batches.most_positions)
    assert list(both(model, batches.batch(0))) == ["click", "cart", "order"]


def test_an_action_that_nobody_did_is_refused_by_name(shop: Store) -> None:
    split = load_split(shop, "temporal-successive")
    features = Features.fit(shop, split, None)
    with pytest.raises(StoreError, match=r"no event of action 'gift' .* those that do: cart, click, order"):
        ImpressionBatches(shop, split, "train", features, actions=("gift",))


def test_a_weight_below_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"actions_weight is -1\.0\. Set actions_weight to 0 or more"):
        replace(controls.din(), actions_weight=-1.0)


def test_a_ranker_without_a_last_network_is_refused(shop: Store) -> None:
    model = build_model("frnet", {}, sizes_of(shop, 3))
    with pytest.raises(ConfigError, match="frnet has no last network"):
        FurtherLabels(pointwise, model, ACTIONS, 1.0)
