"""SimTier, UniSRec, LRD and DIMO against loops in NumPy, what they learn beside clicks, and what may not matter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from penchant.baselines.ranking.auxiliary import (
    DIMOObjective,
    DIMOObjectiveConfig,
    LRDObjective,
    LRDObjectiveConfig,
    UniSRecObjective,
    UniSRecObjectiveConfig,
    in_batch_contrast,
)
from penchant.baselines.ranking.content import ContentRankerConfig, VectorRankerConfig
from penchant.baselines.ranking.dimo import DIMO
from penchant.baselines.ranking.din import DIN, ActivationUnit
from penchant.baselines.ranking.lrd import LRD, LRDConfig
from penchant.baselines.ranking.objective import pointwise
from penchant.baselines.ranking.parts import RankerBody, RankerConfig
from penchant.baselines.ranking.simtier import SimTier, SimTierConfig
from penchant.baselines.ranking.unisrec import UniSRec, UniSRecConfig
from penchant.errors import ConfigError
from penchant.funnel.features import Features, RankInputs
from penchant.models import load_model, save_model
from penchant.recipes.ranking import ranker_objective
from penchant.training.impressions import RankBatch
from tests.baselines.ranking.test_id_based import affine, embedded, network, of, scaled, softmax
from tests.baselines.ranking.test_rankers import CONFIG, SIZES, labelled, tables_of, taken
from tests.baselines.ranking.test_rankers import some_inputs as random_inputs

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
    model.fit_inputs(Features(torch.zeros(21), torch.arange(21) % 5), [some_inputs(seed=7)])
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


@dataclass(frozen=True)
class Slot:
    history: list[int]
    item: int
    features: np.ndarray
    logit: float


def slots(model: Ranker, inputs: RankInputs) -> Iterator[Slot]:
    """Every candidate as the model scores it."""
    logits = of(model(inputs))
    for b, k in np.ndindex(logits.shape):
        history = [i for i in inputs.requests.history[b].tolist() if i]
        yield Slot(history, int(inputs.items[b, k]), inputs.features[b, k].numpy(), logits[b, k].item())


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
        requests = replace(
            inputs.requests,
            history=F.pad(inputs.requests.history, (0, 3)),
            history_times_ms=F.pad(inputs.requests.history_times_ms, (0, 3)),
        )
        padded = RankInputs(requests, F.pad(inputs.items, (0, 2)), F.pad(inputs.features, (0, 0, 0, 2)))
        torch.testing.assert_close(model(padded)[:, :4], model(inputs))

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


OBJECTIVES: dict[str, Any] = {
    "unisrec": UniSRecObjectiveConfig(),
    "unisrec of both": UniSRecObjectiveConfig(contrast=0.3),
    "lrd": LRDObjectiveConfig(),
    "lrd of both": LRDObjectiveConfig(reconstruct=0.3, entropy=0.5),
    "dimo": DIMOObjectiveConfig(),
    "dimo of raw text": DIMOObjectiveConfig(cooccurrence=0.2, disentangle=0.3),
}
TERMS = {
    "unisrec": {"contrast"},
    "lrd": {"reconstruct"},
    "dimo": {"cooccurrence", "similarity", "disentangle"},
}
LEARNED = pytest.mark.parametrize("name", OBJECTIVES)


def beside(name: str, batch: RankBatch, **changed: Any) -> tuple[Any, dict[str, float]]:
    """The model and the objective's terms, before their weights."""
    model, config = made(name), replace(OBJECTIVES[name], **changed)
    torch.manual_seed(3)
    objective = ranker_objective(config, model)
    terms = {term: float(value.detach()) for term, value in objective(model, batch).items()}
    return (model, objective), {term: v / getattr(config, term, 1.0) for term, v in terms.items()}


def clicks(batch: RankBatch) -> list[tuple[int, int]]:
    """(row, item) of what was clicked."""
    return [(b, int(batch.inputs.items[b, k])) for b, k in np.argwhere((batch.labels * batch.mask).numpy() > 0)]


def history_of(batch: RankBatch, b: int) -> list[int]:
    return [i for i in batch.inputs.requests.history[b].tolist() if i]


def contrasted(pairs: list[tuple[np.ndarray, np.ndarray, int]], temperature: float) -> float:
    losses = []
    for n, (asked, told, item) in enumerate(pairs):
        others = [t for m, (_, t, other) in enumerate(pairs) if m == n or other != item]
        exponents = [np.exp(cosine(asked, t) / temperature) for t in others]
        losses.append(-np.log(np.exp(cosine(asked, told) / temperature) / sum(exponents)))
    return float(np.mean(losses))


def some_batch() -> RankBatch:
    """Four clicks: two of the same item, which is in the history of the first; one without any history."""
    batch = labelled(some_inputs())
    batch.inputs.items[3, 3] = batch.inputs.items[0, 0] = batch.inputs.requests.history[0, 4] = 9
    return batch


@pytest.mark.parametrize("name", ["unisrec", "unisrec of both"])
def test_unisrec_contrast_is_its_formula(name: str) -> None:
    batch = some_batch()
    (model, _), terms = beside(name, batch)
    x = np.sum([v.any(1) for v in frozen(model.config)], axis=0)
    pairs = []
    for b, item in clicks(batch):
        past = [i for i in history_of(batch, b) if x[i]]
        if past and x[item]:
            pairs.append((np.mean([adapted(model, i) for i in past], axis=0), adapted(model, item), item))
    assert len(pairs) == 3
    assert terms["contrast"] == pytest.approx(contrasted(pairs, 0.07), rel=1e-3)


@pytest.mark.parametrize("name", ["lrd", "lrd of both"])
def test_lrd_reconstruction_is_its_formula(name: str) -> None:
    batch = some_batch()
    (model, objective), terms = beside(name, batch)
    decoder, entropy = of(objective.decoder), OBJECTIVES[name].entropy
    pairs = [(item, past) for b, item in clicks(batch) for past in history_of(batch, b)]
    assert (9, 9) in pairs
    pairs = [pair for pair in pairs if relation(model, *pair).any() and pair[0] != pair[1]]
    items = sorted({i for pair in pairs for i in pair})
    vectors = {i: embedded(model.body.embed, i) for i in items}
    losses = []
    for pair in pairs:
        q = relation(model, *pair)
        loss = -entropy * -(q @ np.log(q))
        for wanted, given in (pair, pair[::-1]):
            for r, share in enumerate(q):
                asked = vectors[given] * (1 + decoder @ of(model.relation)[r])
                others = [i for i in items if i != given]
                told = softmax(np.array([cosine(asked, vectors[i]) for i in others]) / 0.1)
                loss -= share * np.log(told[others.index(wanted)])
        losses.append(loss)
    assert len(losses) >= 6
    assert terms["reconstruct"] == pytest.approx(np.mean(losses), rel=1e-3)


def test_no_more_pairs_are_reconstructed_than_allowed() -> None:
    batch = some_batch()
    values = {beside("lrd", batch, pairs=pairs)[1]["reconstruct"] for pairs in (1, 2, 256, 1000)}
    assert len(values) == 3  # there are fewer than 256


@pytest.mark.parametrize("name", ["dimo", "dimo of raw text"])
def test_dimo_terms_are_their_formulas(name: str) -> None:
    batch = some_batch()
    (model, _), terms = beside(name, batch)
    x = frozen(model.config)

    def by_id(item: int) -> np.ndarray:
        return embedded(model.body.embed, item)

    def by_content(item: int) -> np.ndarray:
        return projected(model.project.of_modality, model.config, item)

    pairs = [
        (np.sum([by_id(i) for i in history_of(batch, b)], axis=0), by_id(item), item)
        for b, item in clicks(batch)
        if history_of(batch, b)
    ]
    assert terms["cooccurrence"] == pytest.approx(contrasted(pairs, 0.1), rel=1e-3)

    squares, apart = [], []
    for b, k in np.argwhere(batch.mask.numpy()):
        item, history = int(batch.inputs.items[b, k]), history_of(batch, b)
        for past in history:
            alike = [cosine(of_m[item], of_m[past]) for of_m in x if of_m[item].any() and of_m[past].any()]
            if alike:
                squares.append((cosine(by_content(item), by_content(past)) - np.mean(alike)) ** 2)
        if any(of_m[past].any() for of_m in x for past in history):
            views = [(model.unit, by_id), (model.content_unit, by_content)]
            interests = [attended(unit, [view(i) for i in history], view(item)) for unit, view in views]
            proxies = [np.sum([view(i) for i in history], axis=0) for _, view in views]
            apart.append(
                sum(
                    np.log1p(np.exp(cosine(v, other) - cosine(v, own)))
                    for v, own, other in zip(interests, proxies, proxies[::-1], strict=True)
                )
            )
    assert len(squares) > 15
    assert len(apart) > 6
    assert terms["similarity"] == pytest.approx(np.mean(squares), rel=1e-3)
    assert terms["disentangle"] == pytest.approx(np.mean(apart), rel=1e-3)


@LEARNED
@pytest.mark.parametrize("lists", [False, True])
def test_one_batch_is_learned_by_heart_and_every_term_goes_down(name: str, lists: bool) -> None:
    model, batch = built(name), labelled(some_inputs())
    objective = ranker_objective(OBJECTIVES[name], model, lists=lists)
    assert isinstance(objective, nn.Module)
    optimizer = torch.optim.Adam([*model.parameters(), *objective.parameters()], lr=0.02)
    first: dict[str, float] = {}
    terms: dict[str, Tensor] = {}
    for _ in range(120):
        terms = objective(model, batch)
        first = first or {term: float(value.detach()) for term, value in terms.items()}
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
    click = "target" if lists else "click"
    assert set(terms) == {click} | TERMS[name.split()[0]]
    assert float(terms[click].detach()) < 0.1
    for term in set(terms) - {click}:
        assert float(terms[term].detach()) < 0.7 * first[term], term


@LEARNED
def test_a_loss_of_weight_zero_is_not_there_and_clicks_count_as_ever(name: str) -> None:
    model, batch, config = made(name), some_batch(), OBJECTIVES[name]
    without = ranker_objective(replace(config, **dict.fromkeys(TERMS[name.split()[0]], 0.0)), model)
    assert isinstance(without, nn.Module)
    assert not list(without.parameters())
    terms = without(model, batch)
    assert set(terms) == {"click"}
    torch.testing.assert_close(terms["click"], pointwise(model, batch)["click"])


@LEARNED
def test_without_anything_known_what_needs_content_is_zero_and_gradients_are_finite(name: str) -> None:
    for batch in (some_batch(), labelled(some_inputs(lengths=(0, 0, 0, 0)))):
        model = made(name)
        for m in range(len(model.config.modalities)):
            model.content.get_buffer(f"vectors_{m}").zero_()
        model.content.present[:] = False
        terms = ranker_objective(OBJECTIVES[name], model)(model, batch)
        of_content = TERMS[name.split()[0]] - {"cooccurrence"}
        assert {term: float(terms[term].detach()) for term in of_content} == dict.fromkeys(of_content, 0.0)
        torch.stack(list(terms.values())).sum().backward()
        assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


@LEARNED
def test_gradients_are_finite_where_some_content_is_missing_and_padding_gets_none(name: str) -> None:
    model = made(name)
    objective = ranker_objective(OBJECTIVES[name], model)
    torch.stack(list(objective(model, some_batch()).values())).sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all()
        assert parameter.grad.any(), parameter_name
    for table in tables_of(model):
        assert table.weight.grad is not None
        assert not table.weight.grad[0].any()


@pytest.mark.parametrize(
    ("name", "term", "reached"),
    [
        ("unisrec", "contrast", {"adaptors.0.shift", "adaptors.0.whiten", "adaptors.0.gate.weight"}),
        (
            "lrd",
            "reconstruct",
            {"encoder.project.of_modality.0.weight", "encoder.classify.weight", "encoder.classify.bias"}
            | {"relation.weight", "body.embed.item.weight", "body.embed.category.weight"},
        ),
        ("dimo", "cooccurrence", {"body.embed.item.weight", "body.embed.category.weight"}),
        ("dimo", "similarity", {"project.of_modality.0.weight", "project.of_modality.1.weight"}),
    ],
)
def test_each_loss_teaches_what_it_is_for(name: str, term: str, reached: set[str]) -> None:
    model = made(name)
    ranker_objective(OBJECTIVES[name], model)(model, some_batch())[term].backward()
    assert {key for key, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())} == reached


@LEARNED
def test_what_is_saved_holds_nothing_that_only_trains(name: str, tmp_path: Path) -> None:
    model, batch = made(name), some_batch()
    objective = ranker_objective(OBJECTIVES[name], model)
    assert isinstance(objective, nn.Module)
    before = model(batch.inputs)
    objective(model, batch)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert set(loaded.state_dict()) == set(built(name).state_dict())
    assert torch.equal(loaded(batch.inputs), before)


def test_without_a_row_there_is_no_contrast_and_alone_there_is_nothing_to_tell() -> None:
    asked, told = torch.randn(1, 4), torch.randn(1, 4)
    assert float(in_batch_contrast(asked[:0], told[:0], torch.zeros(0).long(), 0.1)) == 0.0
    assert float(in_batch_contrast(asked, told, torch.ones(1).long(), 0.1)) == 0.0


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (SimTierConfig, {"tiers": 0}, "tiers is 0. Set tiers to 1 or more"),
        (SimTierConfig, {"slices": 0}, "slices is 0. Set slices to 1 or more"),
        (UniSRecConfig, {"experts": 0}, "experts is 0. Set experts to 1 or more"),
        (LRDConfig, {"relations": 0}, "relations is 0. Set relations to 1 or more"),
        (LRDConfig, {"relation_hidden": -1}, "relation_hidden is -1. Set relation_hidden to 1 or more"),
        (UniSRecObjectiveConfig, {"contrast": -1.0}, "contrast is -1.0. Set contrast to 0 or more"),
        (UniSRecObjectiveConfig, {"temperature": 0.0}, "temperature is 0.0. Set temperature to above 0"),
        (LRDObjectiveConfig, {"entropy": float("inf")}, "entropy is inf. Set entropy to 0 or more"),
        (LRDObjectiveConfig, {"pairs": 0}, "pairs is 0. Set pairs to 1 or more"),
        (DIMOObjectiveConfig, {"disentangle": float("nan")}, "disentangle is nan. Set disentangle to 0 or more"),
    ],
)
def test_impossible_settings_are_refused(config: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**values)


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name in TERMS])
def test_each_config_has_its_objective(name: str) -> None:
    expected = {"unisrec": UniSRecObjective, "lrd": LRDObjective, "dimo": DIMOObjective}[name]
    assert type(ranker_objective(OBJECTIVES[name], made(name))) is expected
