"""What UniSRec, LRD and DIMO learn beside clicks: each term against its formula in NumPy, and what it teaches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
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
from penchant.baselines.ranking.lrd import LRDConfig
from penchant.baselines.ranking.objective import pointwise
from penchant.baselines.ranking.simtier import SimTierConfig
from penchant.baselines.ranking.unisrec import UniSRecConfig
from penchant.errors import ConfigError
from penchant.models import load_model, save_model
from penchant.recipes.ranking import ranker_objective
from penchant.training.impressions import RankBatch
from tests.baselines.ranking.test_id_based import embedded, of, softmax
from tests.baselines.ranking.test_multimodal import (
    adapted,
    attended,
    built,
    cosine,
    frozen,
    made,
    projected,
    relation,
    some_inputs,
)
from tests.baselines.ranking.test_rankers import tables_of
from tests.rank_inputs import labelled

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
