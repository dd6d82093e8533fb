"""SimTier, UniSRec, LRD and DIMO against loops in NumPy, and what may not matter."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from penchant.baselines.ranking.content import ContentRankerConfig, VectorRankerConfig
from penchant.baselines.ranking.dimo import DIMO
from penchant.baselines.ranking.din import DIN, ActivationUnit
from penchant.baselines.ranking.lrd import LRD, LRDConfig
from penchant.baselines.ranking.parts import RankerBody, RankerConfig
from penchant.baselines.ranking.simtier import SimTier, SimTierConfig
from penchant.baselines.ranking.unisrec import UniSRec, UniSRecConfig
from penchant.funnel.features import Features, RankInputs
from penchant.models import load_model, save_model
from penchant.recipes.ranking import fit_inputs
from tests.baselines.ranking.test_id_based import affine, embedded, network, of, scaled, softmax
from tests.baselines.ranking.test_rankers import CONFIG, SIZES, tables_of
from tests.rank_inputs import padded, slots, taken
from tests.rank_inputs import some_inputs as random_inputs

BOTH = {"modalities": ("text", "image"), "content_widths": (5, 3)}
TEXT = {"modalities": ("text",), "content_widths": (5,)}
LACKING = (3, 11)
"""An item that has no text, one that has no image; the latter's category is another item's too."""

Ranker = SimTier | UniSRec | LRD | DIMO
RANKERS: dict[str, tuple[type[Any], type[ContentRankerConfig], dict[str, Any]]] = {
    "simtier": (SimTier, SimTierConfig, {**BOTH, "tiers": 4}),
    "simtier of text": (SimTier, SimTierConfig, {**TEXT, "tiers": 4}),
    "simtier by slices": (SimTier, SimTierConfig, {**BOTH, "tiers": 3, "slices": 2, "cells": "share"}),
    "simtier uncalibrated": (SimTier, SimTierConfig, {**BOTH, "tiers": 5, "slices": 3, "calibration": "none"}),
    "unisrec": (UniSRec, UniSRecConfig, {**TEXT, "experts": 3}),
    "unisrec of both": (UniSRec, UniSRecConfig, {**BOTH, "experts": 2}),
    "lrd": (LRD, LRDConfig, {**TEXT, "relations": 3, "relation_hidden": 4}),
    "lrd of both": (LRD, LRDConfig, {**BOTH, "relations": 4, "relation_hidden": 3}),
    "dimo": (DIMO, VectorRankerConfig, BOTH),
    "dimo of raw text": (DIMO, VectorRankerConfig, {**TEXT, "calibration": "none"}),
}
EVERY = pytest.mark.parametrize("name", RANKERS)


def some_inputs(*, seed: int = 0, lengths: tuple[int, ...] = (5, 0, 3, 1)) -> RankInputs:
    """Random ones, among them items that lack a modality: candidates and actions."""
    inputs = random_inputs(seed=seed, lengths=lengths)
    history, items = inputs.requests.history, inputs.items
    if max(lengths):
        history[0, 1], history[2, 0], history[2, 1] = LACKING[1], LACKING[0], 7
    items[0, 0], items[1, 1] = LACKING
    return inputs


def content() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(3)
    found = []
    for width, lacking in zip((5, 3), LACKING, strict=True):
        present = np.ones(21, dtype=bool)
        present[[0, lacking]] = False
        found.append((rng.normal(size=(21, width)) * present[:, None], present))
    return found


def frozen(config: ContentRankerConfig) -> list[np.ndarray]:
    """Vectors of each modality as a model should hold them; zero where an item has none."""
    found = []
    for (values, present), _ in zip(content(), config.modalities, strict=False):
        x = values.copy()
        if config.calibration == "whiten":
            x = (x - x[present].mean(0)) / x[present].std(0)
        found.append(x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-9) * present[:, None])
    return found


def built(name: str, **changed: Any) -> Ranker:
    """With content, categories and a scale, in evaluation mode."""
    torch.manual_seed(0)
    cls, config, settings = RANKERS[name]
    given: dict[str, Any] = {**asdict(CONFIG), **settings, "precision": "float32", **changed}
    model = cls(config(**given), SIZES)
    model.content.fill(content()[: len(model.config.modalities)])
    fit_inputs(model, Features(torch.zeros(21), torch.arange(21) % 5), [some_inputs(seed=7)])
    return model.eval()


def made(name: str, **changed: Any) -> Ranker:
    """The same with all weights drawn at random."""
    model = built(name, **changed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
        for table in tables_of(model):
            table.weight[0] = 0
    return model


def from_body(body: RankerBody, v: np.ndarray, e: np.ndarray, features: np.ndarray, *further: np.ndarray) -> float:
    return network(body.mlp, np.concatenate([v, e, v * e, scaled(body.scale, features), *further]))


def weight(unit: ActivationUnit, h: np.ndarray, e: np.ndarray) -> float:
    """DIN's a(h, e)."""
    x = affine(unit.inner, np.concatenate([h, e, h - e, h * e]))
    return affine(unit.out, np.where(x > 0, x, of(unit.act.weight) * x)).item()


def attended(unit: ActivationUnit, history: list[np.ndarray], e: np.ndarray) -> np.ndarray:
    return sum((weight(unit, h, e) * h for h in history), np.zeros(len(e)))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def entry(cells: str, count: int, known: int) -> float:
    return float(np.log1p(count)) if cells == "log" else count / max(known, 1)


@pytest.mark.parametrize("name", ["simtier uncalibrated", "simtier by slices", "simtier of text"])
def test_simtier_counts_actions_by_similarity_and_slice_beside_din(name: str) -> None:
    model = made(name, calibration="none")
    assert isinstance(model, SimTier)
    config, filled = model.config, 0
    for slot in slots(model, some_inputs()):
        cells: list[float] = []
        for x in frozen(config):
            counts: Counter[tuple[int, int]] = Counter()
            for s, item in enumerate(slot.history):
                if x[item].any() and x[slot.item].any():
                    r = (cosine(x[item], x[slot.item]) + 1) / 2
                    tier = next(n for n in range(config.tiers) if r <= (n + 1) / config.tiers + 1e-6)
                    counts[(len(slot.history) - 1 - s) * config.slices // len(slot.history), tier] += 1
            known = sum(counts.values())
            filled += known
            cells += [
                entry(config.cells, counts[part, tier], known)
                for part in range(config.slices)
                for tier in range(config.tiers)
            ]
        e = embedded(model.body.embed, slot.item)
        v = attended(model.unit, [embedded(model.body.embed, item) for item in slot.history], e)
        assert slot.logit == pytest.approx(from_body(model.body, v, e, slot.features, np.array(cells)), abs=1e-4)
    assert filled > 20


def test_calibrated_tiers_hold_alike_many_training_pairs() -> None:
    """What quantiles are for: raw similarities leave most tiers empty."""
    model = made("simtier", tiers=5)
    assert isinstance(model, SimTier)
    inputs = some_inputs(seed=7)  # those it was calibrated with
    counts = of(model.histograms(inputs).expm1()).reshape(-1, 2, 5).sum(0)
    assert counts.sum(1).min() >= 25
    np.testing.assert_allclose(counts / counts.sum(1, keepdims=True), 0.2, atol=0.06)


def adapted(model: UniSRec, item: int) -> np.ndarray:
    total = np.zeros(8)
    for adaptor, x in zip(model.adaptors, frozen(model.config), strict=True):
        assert isinstance(adaptor, nn.Module)
        if x[item].any():
            gates = softmax(affine(adaptor.get_submodule("gate"), x[item]))
            shift, whiten = of(adaptor.get_parameter("shift")), of(adaptor.get_parameter("whiten"))
            total = total + sum(g * ((x[item] - b) @ w) for g, b, w in zip(gates, shift, whiten, strict=True))
    return total


@pytest.mark.parametrize("name", ["unisrec", "unisrec of both"])
def test_unisrec_is_din_over_ids_and_a_mixture_of_whitened_texts(name: str) -> None:
    model = made(name)
    assert isinstance(model, UniSRec)
    for slot in slots(model, some_inputs()):
        z, *history = [embedded(model.body.embed, i) + adapted(model, i) for i in (slot.item, *slot.history)]
        expected = from_body(model.body, attended(model.unit, history, z), z, slot.features)
        assert slot.logit == pytest.approx(expected, abs=1e-4)


def projected(layers: nn.ModuleList, config: ContentRankerConfig, item: int) -> np.ndarray:
    return np.sum([affine(w, x[item]) for w, x in zip(layers, frozen(config), strict=True)], axis=0)


def relation(model: LRD, item: int, past: int) -> np.ndarray:
    """q(r | candidate, action); zero where one of them has no content."""
    g, g_s = (projected(model.encoder.project.of_modality, model.config, i) for i in (item, past))
    if not g.any() or not g_s.any():
        return np.zeros(model.config.relations)
    return softmax(affine(model.encoder.classify, np.concatenate([g, g_s, g * g_s])))


@pytest.mark.parametrize("name", ["lrd", "lrd of both"])
def test_lrd_weighs_and_pools_the_history_with_its_relations(name: str) -> None:
    model = made(name)
    assert isinstance(model, LRD)
    related = 0
    for slot in slots(model, some_inputs()):
        e, v = embedded(model.body.embed, slot.item), np.zeros(8)
        for past in slot.history:
            h, q = embedded(model.body.embed, past), relation(model, slot.item, past)
            rho = sum((share * of(model.relation)[r] for r, share in enumerate(q)), np.zeros(8))
            v = v + (weight(model.unit, h, e) + rho @ e) * (h + rho)
            related += q.any()
        assert slot.logit == pytest.approx(from_body(model.body, v, e, slot.features), abs=1e-4)
    assert related > 20


@pytest.mark.parametrize("name", ["dimo", "dimo of raw text"])
def test_dimo_reads_an_interest_of_ids_and_one_of_content(name: str) -> None:
    model = made(name)
    assert isinstance(model, DIMO)
    for slot in slots(model, some_inputs()):
        e, *h = [embedded(model.body.embed, i) for i in (slot.item, *slot.history)]
        g, *g_s = [projected(model.project.of_modality, model.config, i) for i in (slot.item, *slot.history)]
        v_id, v_mo = attended(model.unit, h, e), attended(model.content_unit, g_s, g)
        expected = from_body(model.body, v_id, e, slot.features, np.concatenate([v_mo, g, v_mo * g]))
        assert slot.logit == pytest.approx(expected, abs=1e-4)


@EVERY
class TestWhatMustNotMatter:
    def test_padding(self, name: str) -> None:
        model, inputs = made(name), some_inputs()
        torch.testing.assert_close(model(padded(inputs))[:, :4], model(inputs))

    def test_the_other_candidates_one_that_is_there_twice_and_an_empty_slot(self, name: str) -> None:
        model, inputs = made(name), some_inputs()
        order = torch.tensor([[2, 0, 3, 1, 2]]).expand(4, -1)
        several = taken(inputs, order)
        several.items[:, 1], several.features[:, 1] = 0, 0
        got, wanted = model(several), model(inputs).gather(1, order)
        assert torch.isfinite(got).all()
        torch.testing.assert_close(got[:, [0, 2, 3, 4]], wanted[:, [0, 2, 3, 4]])

    def test_a_history_of_padding_alone_or_none_at_all(self, name: str) -> None:
        model, inputs = made(name), some_inputs(lengths=(0, 0))
        nothing = torch.zeros(2, 3, dtype=torch.int64)
        padded = replace(inputs, requests=replace(inputs.requests, history=nothing, history_times_ms=nothing))
        assert torch.isfinite(model(inputs)).all()
        torch.testing.assert_close(model(padded), model(inputs))
        assert model(taken(inputs, torch.zeros(2, 0).long())).shape == (2, 0)

    def test_saving(self, name: str, tmp_path: Path) -> None:
        model, inputs = made(name), some_inputs()
        save_model(model, tmp_path)
        loaded = load_model(tmp_path)
        assert (type(loaded), loaded.config) == (type(model), model.config)
        assert torch.equal(loaded(inputs), model(inputs))

    def test_content_that_is_all_missing(self, name: str) -> None:
        """What remains is DIN, its last network reading zeros where the content was."""
        model, inputs = made(name), some_inputs()
        for m in range(len(model.config.modalities)):
            model.content.get_buffer(f"vectors_{m}").zero_()
        model.content.present[:] = False
        if isinstance(model, DIMO):  # g and g_s are zero, so v_mo is
            model.content_unit.out.weight.data.zero_()
        names = RankerConfig.__dataclass_fields__
        din = DIN(RankerConfig(**{field: getattr(model.config, field) for field in names}), SIZES)
        state = {key: value for key, value in model.state_dict().items() if key.startswith(("body.", "unit."))}
        first = din.body.mlp[0].get_parameter("weight")
        state["body.mlp.0.weight"] = state["body.mlp.0.weight"][:, : first.shape[1]]
        din.load_state_dict(state)
        torch.testing.assert_close(model(inputs), din.eval()(inputs))


@EVERY
def test_content_reaches_the_logit_and_the_placebo_has_another_one(name: str) -> None:
    inputs = some_inputs()
    plain, shuffled = made(name)(inputs), made(name, shuffled=True)(inputs)
    assert int((plain - shuffled).abs().gt(1e-3).sum()) > 6
    without_history = slice(1, 2)
    if name.startswith(("simtier", "lrd")):  # those read content by comparing it alone
        torch.testing.assert_close(plain[without_history], shuffled[without_history])
