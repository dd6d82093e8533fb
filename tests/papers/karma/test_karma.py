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
from torch import Tensor

from penchant.data.batch import SequenceBatch
from penchant.data.store import Store
from penchant.encoders.backbone import Backbone, load_backbone
from penchant.errors import ConfigError
from penchant.models import load_model, save_model, sizes_of
from penchant.papers.karma.language import Language, another_item
from penchant.papers.karma.model import Karma, KarmaConfig
from penchant.papers.karma.objective import (
    KarmaObjective,
    KarmaObjectiveConfig,
    hardest,
    pairwise,
    softmax,
)
from penchant.recipes.karma.build import Beginning, build_karma, read_texts
from tests.checkerboard import requests_of
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
    model = build_karma(
        KarmaConfig(backbone=str(folder), item_backbone=str(folder), width=8, **config),
        Beginning(backbone, "x"),
        store,
        sizes_of(store),
    )
    shares = torch.full((store.num_items + 1,), 1 / store.num_items)
    texts = read_texts(store, backbone.tokenizer, objective.max_words)
    language = Language.of(backbone.model, texts.vocabulary)
    return Parts(model.eval(), KarmaObjective(objective, texts.words, shares, language), backbone)


def hidden(model: Karma, histories: list[list[int]]) -> Tensor:
    """The user's vector after each action."""
    return model.users(model.read(model.tokens(torch.tensor(histories))))


@pytest.fixture
def karma(market: Store, language_folder: Path) -> Parts:
    return parts(market, language_folder)


def test_the_placebo_gives_every_item_another_ones_vector_and_text(market: Store, language_folder: Path) -> None:
    plain, placebo = (parts(market, language_folder, shuffled=shuffled) for shuffled in (False, True))
    mine, given = (p.model.items.get_submodule("trunk").get_buffer("content") for p in (plain, placebo))
    order = another_item(len(mine))
    assert (order[1:] != torch.arange(1, len(mine))).all()
    assert order.sort().values.tolist() == list(range(len(mine)))
    assert torch.equal(given, mine[order])
    assert not torch.equal(given, mine)
    texts = read_texts(market, plain.backbone.tokenizer, 5)
    assert torch.equal(texts.shuffled().words, texts.words[order]), "the text is that of the vector's owner"
    with pytest.raises(ConfigError, match="shuffled with items 'text'"):
        KarmaConfig(items="text", shuffled=True)


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
    whole = hidden(model, [[1, 2, 3, 4]])
    torch.testing.assert_close(hidden(model, [[1, 2, 9, 0]])[:, :2], whole[:, :2])
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
    assert float(pairwise(scores, right, negatives, summed=True)) == pytest.approx(sum(sum(row) for row in losses))
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
    logits = hidden(model, BATCH.history.tolist())[BATCH.mask] @ model.embed_items(BATCH.targets[BATCH.mask]).T
    same = BATCH.targets[BATCH.mask][:, None] == BATCH.targets[BATCH.mask]
    assert bool(same[torch.arange(len(logits)), logits.argmax(1)].all())


def test_what_was_shown_with_one_target_is_no_other_targets_negative(karma: Parts) -> None:
    """Item 20 is shown with the first row's only target: the loss of the other row does not know of it."""
    model = karma.model
    objective = KarmaObjective(
        KarmaObjectiveConfig(act="pairwise"), karma.objective.words, karma.objective.shares, karma.objective.language
    )
    users = hidden(model, [[1], [5]])[:, 0]
    scores = users @ model.item_vectors().T
    shown = torch.tensor([[[20, 2]], [[0, 0]]])  # 2 is the target itself
    batch = batch_of(([1], [2]), ([5], [6]), shown=shown)
    first = (F.softplus(scores[0, 6] - scores[0, 2]) + F.softplus(scores[0, 20] - scores[0, 2])) / 2
    second = F.softplus(scores[1, 2] - scores[1, 6])
    torch.testing.assert_close(objective(model, batch)["act"], (first + second) / 2)


def test_an_equal_item_elsewhere_in_the_batch_is_no_negative(karma: Parts) -> None:
    loss = karma.objective(karma.model, batch_of(([1], [2]), ([5], [2])))["act"]
    assert float(loss.detach()) == 0.0


def vocabulary_of(objective: KarmaObjective) -> tuple[Tensor, int]:
    """The tokenizer's numbers of the catalogue's words, and the word a text begins with."""
    assert objective.language is not None
    vocabulary = objective.language.vocabulary
    return torch.from_numpy(vocabulary.tokens), vocabulary.begin


def test_eq_6_is_the_text_after_the_history_word_by_word(karma: Parts) -> None:
    model, objective, backbone = karma
    tokens = vocabulary_of(objective)[0]
    nll: list[Tensor] = []
    for history, target in ([1, 2, 3], 4), ([5], 6), ([7, 8], 1):
        words = [int(w) for w in objective.words[target] if w >= 0]
        for n, word in enumerate(words):
            read = backbone.model.model.embed_tokens(tokens[torch.tensor([words[:n]], dtype=torch.int64)])
            x = torch.cat([model.tokens(torch.tensor([history])), objective.separator[None, None], read], 1)
            nll.append(F.cross_entropy(backbone.model(inputs_embeds=x).logits[:, -1, tokens], torch.tensor([word])))
    torch.testing.assert_close(objective(model, BATCH)["generate"], torch.stack(nll).mean(), rtol=1e-4, atol=1e-5)


def test_eq_7_is_the_text_from_h_alone_word_by_word(karma: Parts) -> None:
    model, objective, backbone = karma
    tokens, begin = vocabulary_of(objective)
    nll: list[Tensor] = []
    for history, target in ([1, 2, 3], 4), ([5], 6), ([7, 8], 1):
        h = model.states(model.tokens(torch.tensor([history])))[:, -1]
        prompt = objective.adapted(objective.adapter(h))[:, None]
        words = [int(w) for w in objective.words[target] if w >= 0]
        for n, word in enumerate(words):
            read = backbone.model.model.embed_tokens(tokens[torch.tensor([[begin, *words[:n]]])])
            logits = backbone.model(inputs_embeds=torch.cat([prompt, read], 1)).logits[:, -1, tokens]
            nll.append(F.cross_entropy(logits, torch.tensor([word])))
    torch.testing.assert_close(objective(model, BATCH)["reconstruct"], torch.stack(nll).mean(), rtol=1e-4, atol=1e-5)


def test_eq_5_to_7_as_printed_are_sums_pair_by_pair_and_word_by_word(market: Store, language_folder: Path) -> None:
    goals = replace(BOTH, literal=True, generate=0.5, reconstruct=0.25)
    model, objective, backbone = parts(market, language_folder, goals, scaled=False)
    tokens, begin = vocabulary_of(objective)
    items = model.item_vectors().detach().double().numpy()
    embed = backbone.model.model.embed_tokens
    sums = {"act": 0.0, "generate": 0.0, "reconstruct": 0.0}
    with torch.no_grad():
        for history, targets in ([1, 2, 3], [2, 3, 4]), ([5], [6]), ([7, 8], [8, 1]):
            read = model.tokens(torch.tensor([history]))
            states = model.states(read)
            for user, target in zip(model.users(states)[0].double().numpy(), targets, strict=True):
                for other in {2, 3, 4, 6, 8, 1} - {target}:
                    sums["act"] += np.log(1 + np.exp(user @ items[other] - user @ items[target]))
            words = [int(w) for w in objective.words[targets[-1]] if w >= 0]
            for n, word in enumerate(words):
                before = embed(tokens[torch.tensor([[begin, *words[:n]]])])
                prompts = {
                    "generate": torch.cat([read, objective.separator[None, None], before[:, 1:]], 1),
                    "reconstruct": torch.cat([states[:, -1:], before], 1),  # h_t itself, without an adapter
                }
                for name, prompt in prompts.items():
                    logits = backbone.model(inputs_embeds=prompt).logits[0, -1, tokens].double().numpy()
                    sums[name] += getattr(goals, name) * (np.log(np.exp(logits).sum()) - logits[word])
        found = {name: float(loss) for name, loss in objective(model, BATCH).items()}
    assert found == pytest.approx(sums, rel=1e-4)


def test_h_does_not_move_when_the_targets_text_does(karma: Parts) -> None:
    model, objective, _ = karma
    before = objective(model, BATCH)
    with torch.no_grad():
        objective.words[[4, 6, 1]] = objective.words[[10, 11, 12]]
    after = objective(model, BATCH)
    assert torch.equal(before["act"], after["act"])
    assert not torch.equal(before["generate"], after["generate"])


def test_what_is_remembered_is_the_next_items_own_text_from_its_vector_alone(karma: Parts) -> None:
    model, objective, _ = karma
    plain = set(objective(model, BATCH))
    assert "remember" not in plain
    given = objective.config
    objective.config = replace(given, remember=0.5)
    try:
        terms = objective(model, BATCH)
        lengths = BATCH.mask.sum(1)
        following = BATCH.targets[torch.arange(len(lengths)), lengths - 1]
        torch.testing.assert_close(terms["remember"], 0.5 * objective.isolated(model, following))
        cut = SequenceBatch(BATCH.history.clamp(max=2), BATCH.targets)  # other histories before the same items
        torch.testing.assert_close(objective(model, cut)["remember"], terms["remember"], rtol=1e-4, atol=1e-5)
        objective.told_as = objective.told_as.roll(1)
        assert not torch.allclose(objective(model, BATCH)["remember"], terms["remember"])
    finally:
        objective.config, objective.told_as = given, torch.arange(len(objective.words))


def test_gradients_reach_the_item_encoder_and_only_what_each_task_needs(karma: Parts) -> None:
    model, objective, _ = karma
    named = {**dict(model.named_parameters()), **{f"objective.{k}": v for k, v in objective.named_parameters()}}

    def reached(term: str) -> set[str]:
        model.zero_grad()
        objective.zero_grad()
        objective(model, BATCH)[term].backward()
        return {k.split(".weight")[0] for k, p in named.items() if p.grad is not None and bool(p.grad.any())}

    item_encoder = {"items.skip", "items.bend.0", "items.bend.3", "items.norm"}
    assert item_encoder < reached("act")
    assert item_encoder | {"objective.language.words", "objective.separator"} < reached("generate")
    assert item_encoder | {"objective.language.words", "objective.adapted"} < reached("reconstruct")
    assert not {"to_user", "to_item"} & reached("reconstruct"), "the served projections act, they do not decode"
    assert "objective.separator" not in reached("reconstruct"), "no history, and so no end of it, is there"


def test_recomputing_holds_less_and_learns_the_same(karma: Parts) -> None:
    model, objective, _ = karma
    model.train()

    def learned() -> tuple[list[Tensor], int]:
        model.zero_grad()
        held = 0

        def pack(kept: Tensor) -> Tensor:
            nonlocal held
            held += kept.numel()
            return kept

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept):
            loss = torch.stack(list(objective(model, BATCH).values())).sum()
        loss.backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None], held

    expected, usual = learned()
    model.recompute()
    found, less = learned()
    torch.testing.assert_close(found, expected)
    assert less < 0.7 * usual


def test_what_is_served_does_not_depend_on_what_was_trained(market: Store, language_folder: Path) -> None:
    """Names and shapes of the export of a decoded, low-rank model are those of an action-only one."""
    plain = parts(market, language_folder, KarmaObjectiveConfig()).model.exported()
    decoded = parts(market, language_folder, tune="lora").model.exported()
    assert plain.config == decoded.config
    shapes = [{k: v.shape for k, v in model.state_dict().items()} for model in (plain, decoded)]
    assert shapes[0] == shapes[1]
    assert not [k for k in shapes[0] if any(part in k for part in ("embed", "head", "words", "separator", "adapt"))]


def test_what_is_served_computes_the_same_whatever_was_trained(market: Store, language_folder: Path) -> None:
    """The traced graph of the export is that of the action-only one, operation by operation."""

    def graph(model: Karma) -> list[str]:
        class Serving(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.karma = model

            def forward(self, history: Tensor) -> Tensor:
                return self.karma.users(self.karma.states(self.karma.tokens(history)))[:, -1]

        with torch.no_grad():
            traced = torch.export.export(Serving().eval(), (torch.tensor([[1, 2, 3]]),))
        return [f"{node.op} {node.target} {node.args}" for node in traced.graph.nodes]

    plain = parts(market, language_folder, KarmaObjectiveConfig()).model.exported()
    decoded = parts(market, language_folder, tune="lora", items="text").model.exported()
    operations = graph(plain)
    assert len(operations) > 50
    assert operations == graph(decoded)


def test_an_exported_model_is_whole_without_the_language_model_and_answers_as_the_one_that_learned(
    market: Store, tmp_path: Path
) -> None:
    folder = save_language_model(tmp_path / "language")
    model = parts(market, folder).model
    save_model(model.exported(), tmp_path / "saved")
    for file in folder.iterdir():
        file.unlink()
    loaded = load_model(tmp_path / "saved")
    assert torch.equal(loaded.item_vectors(), model.item_vectors())
    requests = requests_of([1, 2, 3], [4])
    assert torch.equal(loaded.user_vectors(requests), model.user_vectors(requests))


def test_low_rank_additions_are_merged_when_exported(market: Store, language_folder: Path) -> None:
    model = parts(market, language_folder, tune="lora", rank=2).model
    learned = [name for name, p in model.body.named_parameters() if p.requires_grad]
    assert learned
    assert all(name.endswith((".0.a", ".0.b")) for name in learned)
    plain = parts(market, language_folder).model
    requests = requests_of([1, 2, 3])
    model.load_state_dict({k: v for k, v in plain.state_dict().items() if not k.startswith("body.")}, strict=False)
    torch.testing.assert_close(model.user_vectors(requests), plain.user_vectors(requests), msg="nothing is added yet")
    with torch.no_grad():
        for name, p in model.body.named_parameters():
            if name.endswith(".0.b"):
                p.normal_()
    assert not torch.allclose(model.user_vectors(requests), plain.user_vectors(requests))
    torch.testing.assert_close(model.exported().user_vectors(requests), model.user_vectors(requests))


def test_a_new_click_is_one_step(market: Store, language_folder: Path) -> None:
    model = parts(market, language_folder, max_len=6).model.exported()
    with torch.no_grad():
        state = model.begin(requests_of([3, 1]))
        for n, more in enumerate(([4], [2, 7]), 1):
            state = model.advance(state, torch.tensor(more))
            whole = [3, 1, 4, 2, 7][: 2 + n * (n + 1) // 2]
            torch.testing.assert_close(state.vector, model.user_vectors(requests_of(whole)))
        assert state.length == 5
        assert not model.begin(requests_of([])).vector.any()
        with pytest.raises(ValueError, match="begin anew"):
            model.advance(state, torch.tensor([1, 2]))


def test_a_new_item_needs_only_its_own_vector(market: Store, language_folder: Path) -> None:
    model = parts(market, language_folder).model
    served = model.exported()
    grown = served.with_items(model.tokens(torch.tensor([5, 9])).detach())
    assert grown.num_items == served.num_items + 2
    vectors = grown.item_vectors()
    assert torch.equal(vectors[:-2], served.item_vectors())
    torch.testing.assert_close(vectors[-2:], served.item_vectors()[[5, 9]])


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (KarmaConfig, {"width": 129}, "width is 129"),
        (KarmaConfig, {"layers": 0}, "layers is 0"),
        (KarmaConfig, {"max_len": 0}, "max_len is 0"),
        (KarmaConfig, {"pretrained_rate": 2.0}, "pretrained_rate is 2.0"),
        (KarmaConfig, {"item_tune": "top", "item_top": 3}, "item_top is 3, item_layers 2"),
        (KarmaConfig, {"rank": 0}, "rank is 0"),
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
