"""DMAE: each equation against a plain reading of it, in loops; what may not matter; what is not served."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from penchant.baselines.ranking.din import DIN
from penchant.data.history import Requests
from penchant.errors import ConfigError
from penchant.funnel.features import Features, RankInputs
from penchant.models import Sizes, load_model, save_model
from penchant.papers.dmae.model import DMAE, DMAEConfig, InterestEncoding, WindowAttention, banded_attention
from penchant.papers.dmae.objective import DMAEObjective, DMAEObjectiveConfig
from penchant.recipes.ranking import fit_inputs
from tests.rank_inputs import labelled, padded, some_inputs

SIZES = Sizes(num_items=20, num_categories=4, num_features=3)
SMALL: dict[str, Any] = {
    "width": 6,
    "category_width": 2,
    "hidden": 16,
    "hidden_second": 8,
    "attention": 5,
    "interest": 4,
    "buckets": 7,
    "window": 4,
    "max_len": 8,
    "content_widths": (5, 3),
}
LACKING = {"text": 3, "image": 11}
"""An item that has no text, one that has no image."""


def content(widths: tuple[int, ...] = (5, 3)) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(3)
    found = []
    for width, lacking in zip(widths, LACKING.values(), strict=False):
        present = np.ones(21, dtype=bool)
        present[[0, lacking]] = False
        found.append((rng.normal(size=(21, width)) * present[:, None], present))
    return found


def made(**config: Any) -> DMAE:
    """A model in evaluation mode with content, categories and a scale, its weights drawn at random."""
    torch.manual_seed(0)
    model = DMAE(DMAEConfig(**SMALL | config), SIZES)
    model.content.fill(content(model.config.content_widths))
    fit_inputs(model, Features(torch.zeros(21), torch.arange(21) % 5), [some_inputs(seed=7)])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
        for table in (model.body.embed.item, model.body.embed.category):
            table.weight[0] = 0
    return model.eval()


def linear(layer: nn.Linear, x: np.ndarray) -> np.ndarray:
    out = layer.weight.detach().double().numpy() @ x
    return out if layer.bias is None else out + layer.bias.detach().double().numpy()


@pytest.mark.parametrize("encoding", ["both", "buckets"])
@pytest.mark.parametrize("wave", ["buckets", "one"])
@pytest.mark.parametrize("places", [True, False])
def test_eq_1_to_4_number_by_number(encoding: Any, wave: Any, places: bool) -> None:
    torch.manual_seed(1)
    config = DMAEConfig(**SMALL | {"encoding": encoding, "wave": wave, "places": places})
    unit = InterestEncoding(config)
    with torch.no_grad():
        unit.w.fill_(1.3)
        unit.b.fill_(-0.2)
    r = torch.tensor([[[0.0, 0.49, 1.0, 0.5, 0.83]]])
    ago = torch.tensor([[9, 3, 2, 1, 0]])  # older than max_len: its last place
    got = unit(r, ago)[0, 0].detach().numpy()
    for s, value in enumerate(r[0, 0].double().tolist()):
        bucket = unit.bucket.weight[math.floor(value * 6 + 1e-9)].detach().double().numpy()
        x = value * 6 if wave == "buckets" else value
        sc = [f(x / 10 ** (2 * i / 4)) for i in range(2) for f in (math.sin, math.cos)]
        read = np.concatenate([(1.3 * value - 0.2) * bucket, sc]) if encoding == "both" else bucket
        inner = np.maximum(linear(unit.first, read), 0)
        if unit.place is not None:
            inner = np.concatenate([inner, unit.place.weight[min(int(ago[0, s]), 7)].detach().double().numpy()])
        np.testing.assert_allclose(got[s], np.maximum(linear(unit.second, inner), 0), atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 200), st.integers(1, 9), st.integers(0, 1000))
def test_the_window_attention_is_a_softmax_over_known_neighbours(length: int, reach: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(3, 2, length, 4, generator=generator)
    known = torch.rand(2, length, generator=generator) < 0.7
    got = banded_attention(q, k, v, known, reach)
    assert got.shape == (2, length, 4)
    for n in range(2):
        for s in range(length):
            near = [t for t in range(length) if abs(t - s) <= reach and known[n, t]]
            if known[n, s]:
                weights = (k[n, near] @ q[n, s] / 2).softmax(0)
                torch.testing.assert_close(got[n, s], weights @ v[n, near], atol=1e-5, rtol=1e-5)
    assert torch.isfinite(got).all()


def test_the_window_costs_no_more_than_the_length() -> None:
    """Anything that grew with the square of the history would show: twice the length, twice the numbers."""

    def largest(length: int) -> int:
        sizes = []
        x, known = torch.randn(1, length, 4), torch.ones(1, length, dtype=torch.bool)
        attention = WindowAttention(4, 10, True)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            attention(x.requires_grad_(), known)
        return max(sizes)

    assert largest(2000) < 2.2 * largest(1000)


@pytest.mark.parametrize("query", ["other", "own", "both"])
@pytest.mark.parametrize("residual", [True, False])
def test_eq_5_to_9_and_14_to_15_candidate_by_candidate(query: Any, residual: bool) -> None:
    model, inputs = made(query=query, residual=residual), some_inputs()
    got = model(inputs).detach()
    for b in range(len(inputs.items)):
        history = inputs.requests.history[b]
        length = int((history > 0).sum())
        for k in range(inputs.items.shape[1]):
            item = inputs.items[b, k]
            similar = model.content(history[None], item[None, None])
            pooled, sequences, known = [], [], []
            for m in range(2):
                has = [s for s in range(length) if similar.known[0, 0, m, s]]
                ago = torch.tensor([[length - 1 - s for s in has]], dtype=torch.int64)
                x = model.encoders[m](similar.r[0, :, m, has][:, None], ago)[0, 0]
                # Neighbours are those at most 2 places away in the history, known or not.
                full = torch.zeros(1, max(length, 1), 4)
                full[0, has] = x
                mask = torch.zeros(1, max(length, 1), dtype=torch.bool)
                mask[0, has] = True
                x = model.windows[m](full, mask)[0, has]
                sequences.append(x)
                known.append(has)
                pooled.append(x.mean(0) if has else torch.zeros(4))
            fused = []
            for m in range(2):
                other = pooled[1 - m]
                asked = {"other": other, "own": pooled[m], "both": torch.cat([other, pooled[m]])}[query]
                cross: Any = model.crosses[m]
                if known[m]:
                    keys, values = cross.key(sequences[m]), cross.value(sequences[m])
                    fused.append((keys @ cross.query(asked) / 2).softmax(0) @ values)
                else:
                    fused.append(torch.zeros(4))
            e, h = model.body.embed(item), model.body.embed(history[:length])
            v = (model.unit(h[None], e[None, None], torch.ones(1, length, dtype=torch.bool))[0] @ h)[0]
            scaled = (inputs.features[b, k] - model.body.scale.mean) / model.body.scale.std
            logit = model.body.mlp(torch.cat([v, e, v * e, scaled.clamp(-5, 5), *fused]))
            assert got[b, k].item() == pytest.approx(logit.item(), abs=1e-4)


def test_without_fusion_each_sequence_is_its_mean() -> None:
    model, inputs = made(fusion=False), some_inputs()
    interests = model.interests(inputs)
    known = interests.similarities.known[:, :, 1].flatten(0, 1)
    mean = (interests.sequences[1] * known[..., None]).sum(1) / known.sum(1, keepdim=True).clamp(min=1)
    torch.testing.assert_close(interests.fused.flatten(0, 1)[:, 4:], mean)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"modalities": ("text",), "content_widths": (5,)},
        {"fusion": False},
        {"encoding": "buckets"},
        {"calibration": "none"},
        {"calibration": "whiten"},
    ],
    ids=str,
)
class TestWhatMustNotMatter:
    def test_padding(self, config: dict[str, Any]) -> None:
        model, inputs = made(**config), some_inputs()
        torch.testing.assert_close(model(padded(inputs))[:, :4], model(inputs))

    def test_the_other_candidates_and_one_that_is_there_twice(self, config: dict[str, Any]) -> None:
        model, inputs = made(**config), some_inputs()
        order = torch.tensor([[2, 0, 3, 1, 2]]).expand(4, -1)
        features = inputs.features.gather(1, order[..., None].expand(-1, -1, 3))
        again = RankInputs(inputs.requests, inputs.items.gather(1, order), features)
        torch.testing.assert_close(model(again), model(inputs).gather(1, order))

    def test_no_history_at_all(self, config: dict[str, Any]) -> None:
        model = made(**config)
        assert torch.isfinite(model(some_inputs(lengths=(0, 0)))).all()

    def test_saving(self, config: dict[str, Any], tmp_path: Path) -> None:
        model, inputs = made(**config), some_inputs()
        save_model(model, tmp_path)
        loaded = load_model(tmp_path)
        assert loaded.config == model.config
        assert torch.equal(loaded(inputs), model(inputs))


def test_an_item_without_a_modality_says_nothing_in_it_and_goes_on_in_the_other() -> None:
    model = made()
    history = torch.tensor([[5, LACKING["text"], 7]])
    requests = Requests(torch.zeros(1).long(), torch.full((1,), 9000), history, history * 100)
    inputs = RankInputs(requests, torch.tensor([[2, LACKING["image"]]]), torch.zeros(1, 2, 3))
    interests = model.interests(inputs)
    known = interests.similarities.known[0]
    assert known[0].tolist() == [[True, False, True], [True, True, True]]
    assert known[1].tolist() == [[True, False, True], [False, False, False]]
    assert not interests.fused[0, 1, 4:].any()
    assert interests.fused[0, 1, :4].any()
    assert torch.isfinite(model(inputs)).all()


def test_with_nothing_known_dmae_is_din_with_zeros_beside_it() -> None:
    model, inputs = made(), some_inputs()
    model.content.present[:] = False
    din = DIN(replace_config(model), SIZES)
    state = {k: v for k, v in model.state_dict().items() if k.startswith(("body.", "unit."))}
    first = state["body.mlp.0.weight"]
    state["body.mlp.0.weight"] = first[:, : first.shape[1] - 8]
    din.load_state_dict(state)
    torch.testing.assert_close(model(inputs), din.eval()(inputs))


def replace_config(model: DMAE) -> Any:
    names = ("width", "category_width", "hidden", "hidden_second", "attention", "dropout", "embedding_dropout")
    return DIN.Config(**{name: getattr(model.config, name) for name in names})


def test_what_is_served_holds_nothing_of_iddu_and_scores_the_same_without_it(tmp_path: Path) -> None:
    model, batch = made(), labelled(some_inputs())
    objective = DMAEObjective(DMAEObjectiveConfig(), ("text", "image"), 4).eval()
    before = model(batch.inputs)
    objective(model, batch)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert torch.equal(loaded(batch.inputs), before)
    assert not [name for name in loaded.state_dict() if "decod" in name]


@pytest.mark.parametrize("listwise", [False, True])
@pytest.mark.parametrize("decode", [0.0, 0.5])
def test_one_batch_can_be_learned_by_heart(listwise: bool, decode: float) -> None:
    torch.manual_seed(0)
    model = DMAE(DMAEConfig(**SMALL), SIZES).eval()  # no dropout
    model.content.fill(content())
    fit_inputs(model, Features(torch.zeros(21), torch.arange(21) % 5), [some_inputs(seed=7)])
    objective = DMAEObjective(DMAEObjectiveConfig(decode=decode, slices=2, bins=3), ("text", "image"), 4, listwise)
    batch = labelled(some_inputs())
    optimizer = torch.optim.Adam([*model.parameters(), *objective.parameters()], lr=0.02)
    first: dict[str, float] = {}
    terms: dict[str, Tensor] = {}
    for _ in range(150):
        terms = objective(model, batch)
        first = first or {name: float(term.detach()) for name, term in terms.items()}
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
    assert float(terms["target" if listwise else "click"].detach()) < 0.1
    assert set(terms) == {"target" if listwise else "click"} | ({"decode_text", "decode_image"} if decode else set())
    for name in set(terms) - {"target", "click"}:
        assert float(terms[name].detach()) < 0.6 * first[name]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"interest": 3}, "interest is 3. Set interest to an even number"),
        ({"buckets": 1}, "buckets is 1. Set buckets to 2 or more"),
        ({"modalities": ()}, "Name one or more, each once"),
        ({"modalities": ("text", "text")}, "Name one or more, each once"),
        ({"window": 0}, "window is 0"),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DMAEConfig(**values)
