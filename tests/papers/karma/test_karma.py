"""KARMA: each equation against a plain reading of it, what may not be seen, where gradients go, what is not saved."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from penchant.data.batch import SequenceBatch
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.encoders.backbone import Backbone, load_backbone
from penchant.errors import ConfigError, StoreError
from penchant.models import load_model, save_model
from penchant.papers.karma.model import Karma, KarmaConfig
from penchant.papers.karma.objective import (
    KarmaObjective,
    KarmaObjectiveConfig,
    hardest,
    pairwise,
    softmax,
)
from penchant.recipes import karma as recipe
from penchant.recipes.karma import KarmaRun, WarmUpConfig, build_karma, read_texts
from penchant.recipes.runs import load_run, sizes_of, train_run
from penchant.training.loop import TrainConfig
from tests.checkerboard import requests_of
from tests.factories import make_store
from tests.tiny_models import save_language_model

BOTH = KarmaObjectiveConfig(act="pairwise", generate=1.0, reconstruct=1.0, max_words=5)


class Parts(NamedTuple):
    """A model with random projections, its objective, and the language model both come from."""

    model: Karma
    objective: KarmaObjective
    backbone: Backbone


def parts(store: Store, folder: Path, objective: KarmaObjectiveConfig = BOTH, **config: Any) -> Parts:
    backbone = load_backbone(str(folder), num_layers=2, device="cpu")
    torch.manual_seed(1)
    model = build_karma(KarmaConfig(backbone=str(folder), width=8, **config), backbone, store, sizes_of(store))
    words, head = backbone.model.model.embed_tokens.weight.detach(), backbone.model.lm_head.weight.detach()
    shares = torch.full((store.num_items + 1,), 1 / store.num_items)
    texts = read_texts(store, backbone, objective.max_words)
    return Parts(model, KarmaObjective(objective, texts, words, head, shares, warms_up=True), backbone)


@pytest.fixture
def karma(market: Store, language_folder: Path) -> Parts:
    return parts(market, language_folder)


def batch_of(*rows: tuple[list[int], list[int]], shown: Tensor | None = None) -> SequenceBatch:
    """Histories and targets, right-padded."""
    width = max(len(history) for history, _ in rows)
    history, targets = ([[*row[i], *[0] * (width - len(row[i]))] for row in rows] for i in (0, 1))
    return SequenceBatch(torch.tensor(history), torch.tensor(targets), shown)


BATCH = batch_of(([1, 2, 3], [2, 3, 4]), ([5], [6]), ([7, 8], [8, 1]))


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_the_decoder_is_the_language_models_layers_over_item_vectors(
    market: Store, tmp_path: Path, family: str
) -> None:
    model, _, backbone = parts(market, save_language_model(tmp_path / family, family))
    tokens = model.tokens(torch.tensor([[3, 1, 2]]))
    expected = backbone.model.model(inputs_embeds=tokens).last_hidden_state
    torch.testing.assert_close(model.states(tokens), expected)


def test_no_position_sees_what_comes_after_it(karma: Parts) -> None:
    model = karma.model
    whole = model.hidden(torch.tensor([[1, 2, 3, 4]]))
    torch.testing.assert_close(model.hidden(torch.tensor([[1, 2, 9, 0]]))[:, :2], whole[:, :2])
    vectors = model.user_vectors(requests_of([1, 2, 3, 4], [1, 2], []))
    torch.testing.assert_close(vectors[:2], whole[0, [3, 1]])
    assert not vectors[2].any()
    assert not model.item_vectors()[0].any()


@pytest.mark.parametrize("scaled", [True, False])
def test_the_score_is_a_dot_product(market: Store, language_folder: Path, scaled: bool) -> None:
    model = parts(market, language_folder, scaled=scaled).model
    state = model.states(model.tokens(torch.tensor([[1, 2]])))[:, -1]
    user, item = model.to_user(state), model.to_item(model.tokens(torch.arange(1, market.num_items + 1)))
    if scaled:
        user = user / (user.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * 8**-0.5
        item = item / (item.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
    expected = (user @ item.T)[0]
    scores = model.user_vectors(requests_of([1, 2])) @ model.item_vectors().T
    torch.testing.assert_close(scores[0, 1:], expected)


def test_eq_5_is_the_mean_over_negatives_then_over_positions() -> None:
    scores = torch.tensor([[1.0, 0.5, -1.0], [0.2, 0.0, 2.0], [0.0, 0.0, 0.0]])
    right = torch.tensor([0, 1, 2])
    negatives = torch.tensor([[False, True, True], [True, False, False], [False, False, False]])
    told = [[(0, 1), (0, 2)], [(1, 0)]]
    losses = [[-np.log(1 / (1 + np.exp(-float(scores[r, r] - scores[r, c])))) for r, c in row] for row in told]
    assert float(pairwise(scores, right, negatives)) == pytest.approx(np.mean([np.mean(row) for row in losses]))
    assert float(hardest(scores, right, negatives)) == pytest.approx(np.mean([max(row) for row in losses]))
    some = torch.tensor([True, True, False])
    expected = np.mean([np.log(np.exp(1) + np.exp(0.5) + np.exp(-1)) - 1, np.log(np.exp(0.2) + 1)])
    assert float(softmax(scores[some], right[some], negatives[some])) == pytest.approx(expected)


@pytest.mark.parametrize("act", ["pairwise", "infonce", "sampled_softmax", "hardest"])
def test_the_next_item_is_learned_by_every_action_loss(market: Store, language_folder: Path, act: Any) -> None:
    config = KarmaObjectiveConfig(act=act)
    model, objective, _ = parts(market, language_folder, config)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        objective(model, BATCH)["act"].backward()
        optimizer.step()
    logits = model.hidden(BATCH.history)[BATCH.mask] @ model.embed_items(BATCH.targets[BATCH.mask]).T
    same = BATCH.targets[BATCH.mask][:, None] == BATCH.targets[BATCH.mask]
    assert bool(same[torch.arange(len(logits)), logits.argmax(1)].all())


def test_what_was_shown_with_one_target_is_no_other_targets_negative(karma: Parts) -> None:
    """Item 20 is shown with the first row's only target: the loss of the other row does not know of it."""
    model = karma.model
    objective = KarmaObjective(
        KarmaObjectiveConfig(act="pairwise"),
        read_texts_of(karma),
        karma.objective.words.weight.detach(),
        karma.objective.words.weight.detach(),
        karma.objective.shares,
    )
    users = model.hidden(torch.tensor([[1], [5]]))[:, 0]
    scores = users @ model.item_vectors().T
    shown = torch.tensor([[[20, 2]], [[0, 0]]])  # 2 is the target itself
    batch = batch_of(([1], [2]), ([5], [6]), shown=shown)
    first = (F.softplus(scores[0, 6] - scores[0, 2]) + F.softplus(scores[0, 20] - scores[0, 2])) / 2
    second = F.softplus(scores[1, 2] - scores[1, 6])
    torch.testing.assert_close(objective(model, batch)["act"], (first + second) / 2)


def read_texts_of(karma: Parts) -> Any:
    from penchant.papers.karma.objective import Texts

    return Texts(karma.objective.texts, 0, karma.objective.begin)


def test_an_equal_item_elsewhere_in_the_batch_is_no_negative(karma: Parts) -> None:
    loss = karma.objective(karma.model, batch_of(([1], [2]), ([5], [2])))["act"]
    assert float(loss.detach()) == 0.0


def test_eq_6_is_the_text_after_the_history_word_by_word(karma: Parts) -> None:
    model, objective, backbone = karma
    nll: list[Tensor] = []
    for history, target in ([1, 2, 3], 4), ([5], 6), ([7, 8], 1):
        words = [int(w) for w in objective.texts[target] if w >= 0]
        for n, word in enumerate(words):
            read = backbone.model.model.embed_tokens(torch.tensor([words[:n]], dtype=torch.int64))
            x = torch.cat([model.tokens(torch.tensor([history])), objective.separator[None, None], read], 1)
            nll.append(F.cross_entropy(backbone.model(inputs_embeds=x).logits[:, -1], torch.tensor([word])))
    torch.testing.assert_close(objective(model, BATCH)["generate"], torch.stack(nll).mean(), rtol=1e-4, atol=1e-5)


def test_eq_7_is_the_text_from_h_alone_word_by_word(karma: Parts) -> None:
    model, objective, backbone = karma
    nll: list[Tensor] = []
    for history, target in ([1, 2, 3], 4), ([5], 6), ([7, 8], 1):
        h = model.states(model.tokens(torch.tensor([history])))[:, -1]
        prompt = objective.adapted(objective.adapter(h))[:, None]
        words = [int(w) for w in objective.texts[target] if w >= 0]
        for n, word in enumerate(words):
            read = backbone.model.model.embed_tokens(torch.tensor([[objective.begin, *words[:n]]]))
            logits = backbone.model(inputs_embeds=torch.cat([prompt, read], 1)).logits[:, -1]
            nll.append(F.cross_entropy(logits, torch.tensor([word])))
    torch.testing.assert_close(objective(model, BATCH)["reconstruct"], torch.stack(nll).mean(), rtol=1e-4, atol=1e-5)


def test_h_does_not_move_when_the_targets_text_does(karma: Parts) -> None:
    model, objective, _ = karma
    before = objective(model, BATCH)
    with torch.no_grad():
        objective.texts[[4, 6, 1]] = objective.texts[[10, 11, 12]]
    after = objective(model, BATCH)
    assert torch.equal(before["act"], after["act"])
    assert not torch.equal(before["generate"], after["generate"])


def test_gradients_reach_the_item_encoder_and_only_what_each_task_needs(karma: Parts) -> None:
    model, objective, _ = karma
    named = {**dict(model.named_parameters()), **{f"objective.{k}": v for k, v in objective.named_parameters()}}

    def reached(term: str) -> set[str]:
        model.zero_grad()
        objective.zero_grad()
        objective(model, BATCH)[term].backward()
        return {k.split(".weight")[0] for k, p in named.items() if p.grad is not None and bool(p.grad.any())}

    item_encoder = {"skip", "bend.0", "bend.3", "norm"}
    assert item_encoder < reached("act")
    assert item_encoder | {"objective.words", "objective.separator"} < reached("generate")
    assert item_encoder | {"objective.words", "objective.adapted"} < reached("reconstruct")
    assert not {"to_user", "to_item"} & reached("reconstruct"), "the served projections act, they do not decode"
    assert "objective.separator" not in reached("reconstruct"), "no history, and so no end of it, is there"


def test_a_saved_model_is_whole_without_the_language_model_and_cannot_decode(market: Store, tmp_path: Path) -> None:
    folder = save_language_model(tmp_path / "language")
    model = parts(market, folder).model.eval()
    save_model(model, tmp_path / "saved")
    for file in folder.iterdir():
        file.unlink()
    loaded = load_model(tmp_path / "saved")
    assert torch.equal(loaded.item_vectors(), model.item_vectors())
    requests = requests_of([1, 2, 3], [4])
    assert torch.equal(loaded.user_vectors(requests), model.user_vectors(requests))
    shapes = {k: v.shape for k, v in load_file(tmp_path / "saved" / "model.safetensors").items()}
    assert not [k for k in shapes if any(part in k for part in ("embed", "head", "words", "separator", "adapt"))]


RUN = KarmaRun(
    model=KarmaConfig(layers=2, width=8),
    objective=KarmaObjectiveConfig(generate=0.1, reconstruct=0.1, max_words=5),
    warm_up=WarmUpConfig(steps=6, items=16),
    train=TrainConfig(epochs=1, tensorboard=False, device="cpu", checkpoint_every_s=0.0),
)


def run_on(folder: Path, **changes: Any) -> KarmaRun:
    return replace(RUN, model=replace(RUN.model, backbone=str(folder)), **changes)


def test_a_run_that_was_cut_goes_on_to_the_same_weights_and_warms_up_once(
    market: Store, language_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, run = load_split(market, "loo"), run_on(language_folder)
    train_run(run, market, split, tmp_path / "whole")
    fit = recipe.fit

    def cut(*args: Any, **options: Any) -> Any:
        joint = options["title"] == "karma"
        result = fit(*args, **options, should_stop=(lambda step: joint and step == 1))
        if joint:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(recipe, "fit", cut)
    with pytest.raises(KeyboardInterrupt):
        train_run(run, market, split, tmp_path / "cut")
    monkeypatch.setattr(recipe, "fit", fit)
    warm = tmp_path / "cut" / "warm-up" / "full" / "metrics.jsonl"
    logged = warm.read_text()
    train_run(run, market, split, tmp_path / "cut")
    assert warm.read_text() == logged
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)
    assert load_run(tmp_path / "cut", device="cpu").model.kind == "karma"


def test_warm_up_moves_what_its_part_says(market: Store, language_folder: Path, tmp_path: Path) -> None:
    counts = load_split(market, "loo").item_counts(market)
    for part in ("projector", "full"):
        model, objective, _ = parts(market, language_folder)
        before = {k: v.clone() for k, v in model.state_dict().items()}
        run = run_on(language_folder, warm_up=WarmUpConfig(part=part, steps=4, items=16))
        recipe.warm_up(model, objective, run, counts, tmp_path / part)
        moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
        assert {"skip.weight", "norm.weight"} <= moved
        assert any(k.startswith("body") for k in moved) == (part == "full")
        assert not {"to_user.weight", "to_item.weight", "content"} & moved
        assert all(p.requires_grad for p in model.parameters())


def test_a_frozen_backbone_stays_what_it_was(market: Store, language_folder: Path, tmp_path: Path) -> None:
    run = run_on(language_folder)
    run = replace(run, model=replace(run.model, freeze_backbone=True))
    train_run(run, market, load_split(market, "loo"), tmp_path / "run")
    body = load_backbone(str(language_folder), num_layers=2, device="cpu").model.model.state_dict()
    saved = load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(saved[f"body.{k}"], v) for k, v in body.items() if "embed_tokens" not in k)


def test_without_texts_or_their_vectors_the_run_is_refused_by_name(
    market: Store, language_folder: Path, tmp_path: Path
) -> None:
    bare = make_store(tmp_path / "bare")
    with pytest.raises(StoreError, match=r"no content vectors named 'text'.*penchant encode"):
        train_run(run_on(language_folder), bare, load_split(bare, "loo"), tmp_path / "run")
    run = run_on(language_folder)
    changed = replace(run, model=replace(run.model, max_len=20))
    with pytest.raises(ConfigError, match=r"data\.max_len is 50, model\.max_len 20"):
        train_run(changed, market, load_split(market, "loo"), tmp_path / "other")


def test_texts_are_cut_ended_and_counted(market: Store, language_folder: Path) -> None:
    backbone = load_backbone(str(language_folder), device="cpu")
    texts = read_texts(market, backbone, 5)
    whole = read_texts(market, backbone, 40)
    end = backbone.tokenizer.eos_token_id
    lengths = (whole.words >= 0).sum(1)
    assert texts.cut == int((lengths > 5).sum()) > 0
    assert whole.cut == 0
    last = whole.words[torch.arange(1, len(lengths)), lengths[1:] - 1]
    assert bool((last == end).all())
    assert torch.equal(texts.words, whole.words[:, :5])
    assert not (texts.words[0] >= 0).any()


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (KarmaConfig, {"width": 129}, "width is 129"),
        (KarmaConfig, {"layers": 0}, "layers is 0"),
        (KarmaConfig, {"max_len": 0}, "max_len is 0"),
        (KarmaConfig, {"pretrained_rate": 2.0}, "pretrained_rate is 2.0"),
        (KarmaObjectiveConfig, {"generate": -0.1}, "generate is -0.1"),
        (KarmaObjectiveConfig, {"max_words": 0}, "max_words is 0"),
    ],
)
def test_impossible_settings_are_refused(cls: type, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cls(**values)


def test_the_architecture_is_kept_as_json(karma: Parts) -> None:
    described = json.loads(karma.model.config.architecture)
    assert described["num_hidden_layers"] == 2
    assert described["model_type"] == "llama"
