"""One suite over every retrieval model, on a checkerboard catalogue whose answers are known by hand."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError

from penchant.baselines.counted.markov import MarkovConfig
from penchant.baselines.retrieval.auxiliary import (
    ClozeConfig,
    ContrastVAEObjectiveConfig,
    DATObjectiveConfig,
    DiffuRecObjectiveConfig,
    sequence_objective,
)
from penchant.baselines.retrieval.objective import PrefixSoftmaxConfig, PrefixSoftmaxObjective, SoftmaxConfig
from penchant.data.batch import SequenceBatch
from penchant.data.category_batch import CategoryBatches, CategoryDataConfig, TargetBatches, TargetDataConfig
from penchant.data.history import Requests
from penchant.data.prefix_batch import PrefixBatch
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.funnel.retrieve import retriever
from penchant.models import KINDS, Sizes, build_model, load_model, save_model
from penchant.papers.ulim.model import ULIM
from penchant.papers.ulim.objective import PGINObjective, ULIMObjective, ULIMObjectiveConfig
from tests.checkerboard import NUM_ITEMS, make_checkerboard, requests_of, same_colour

# A weight of popularity that lets no item of the other colour pass the transitions seen.
CONFIGS: dict[str, dict[str, Any]] = {
    "markov": {"neighbours": MarkovConfig().neighbours, "smoothing": 1.0},
    "ulim": {"short_len": 2},  # so short that something is earlier
}
IMPERSONAL = {"popularity"}
SILENT = {"item_knn", "mind", "comirec_sa", "comirec_dr", "t2diff_union"}
"""Those whose every score is -inf where they can say nothing; the others have vectors, which are zero then."""
# What learns by more than the next item at every position; the others by SoftmaxConfig.
OBJECTIVES = {
    "bert4rec": ClozeConfig(newest_only=0.5),
    "contrast_vae": ContrastVAEObjectiveConfig(),
    "diffurec": DiffuRecObjectiveConfig(),
    "dat": DATObjectiveConfig(),
}

# Steps and learning rate, where 150 at 0.01 are too few or too fast.
TRAINING = {"stosa": (150, 3e-3), "dat": (450, 1e-2)}


def _exists(kind: str) -> bool:
    module, name = KINDS[kind].split(":")
    try:
        return hasattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if not module.startswith(str(error.name)):
            raise  # something the model needs is missing, not the model
        return False


RANKING = (".baselines.ranking.", ".papers.dmae.", ".funnel.prerank")
"""Where the models are that rank what they are given."""
ELSEWHERE = {
    "karma": "begins with a language model's weights: tests/papers/karma/",
    "t2diff": "learns from sessions and their times, which the checkerboard has not: tests/papers/t2diff/",
}
RETRIEVAL = [
    kind
    for kind, where in KINDS.items()
    if kind not in ELSEWHERE and not any(room in where for room in RANKING) and _exists(kind)
]


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_checkerboard(tmp_path_factory.mktemp("checkerboard") / "store")


@pytest.fixture(params=RETRIEVAL)
def model(request: pytest.FixtureRequest, board: Store) -> Any:
    """A trained model of each kind, in evaluation mode."""
    return _trained(request.param, board)


@cache
def _trained(kind: str, board: Store) -> Any:
    split = load_split(board, "loo")
    sizes = Sizes(num_items=board.num_items, num_categories=board.num_categories)
    torch.manual_seed(0)
    model = build_model(kind, CONFIGS.get(kind, {}), sizes)
    if hasattr(model, "fit"):
        model.fit(board, split)
        return model.eval()
    if hasattr(model, "set_categories"):
        model.set_categories(torch.tensor(board.item_category))
    if kind == "ulim":
        return _trained_by_category(model, board).eval()
    rows = torch.from_numpy(split.events("train")).view(-1)
    walks = torch.from_numpy(board.event_item[rows].astype("int64"))[: 40 * 3].view(40, 3)
    prefixes = torch.cat([walks[:, :2] * torch.tensor([1, 0]), walks[:, :2]])
    whole = PrefixBatch(prefixes, torch.cat([walks[:, 1], walks[:, 2]]))
    by_prefix = PrefixSoftmaxObjective(PrefixSoftmaxConfig(), torch.ones(NUM_ITEMS + 1, dtype=torch.int64))
    if kind == "bert4rec":  # the piece's length tells a mask's place: some must be as short as requests may be
        walks = torch.cat([walks, walks * torch.tensor([1, 1, 0])])
    batch = SequenceBatch(walks[:, :-1] * (walks[:, 1:] > 0), walks[:, 1:])
    objective = sequence_objective(OBJECTIVES.get(kind, SoftmaxConfig()), torch.from_numpy(split.item_counts(board)))
    steps, rate = TRAINING.get(kind, (150, 1e-2))
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for _ in range(steps):
        terms = by_prefix(model, whole) if hasattr(model, "interests") else objective(model, batch)
        loss = torch.stack(list(terms.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def _trained_by_category(model: ULIM, board: Store) -> ULIM:
    """ULIM has no state after each action: its targets come one by one, and the category's prediction apart."""
    split = load_split(board, "loo")
    counts, category = torch.from_numpy(split.item_counts(board)), torch.tensor(board.item_category)
    config = ULIMObjectiveConfig(empty="learned")
    pairs: list[tuple[Any, Any, Any]] = [
        (
            model,
            ULIMObjective(config, counts, category),
            CategoryBatches(board, split, CategoryDataConfig(), model.config, 0),
        ),
        (model.pgin, PGINObjective(), TargetBatches(board, split, TargetDataConfig(), 50, 0)),
    ]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(120):
        optimizer.zero_grad()
        for part, objective, batches in pairs:
            torch.stack(list(objective(part, batches.batch(step)).values())).sum().backward()
        optimizer.step()
    return model


@torch.no_grad()
def all_scores(model: Any, requests: Requests) -> torch.Tensor:
    """Scores of the whole catalogue, column 0 (padding) left out."""
    if hasattr(model, "score_items"):
        return model.score_items(requests)[:, 1:]
    return (model.user_vectors(requests) @ model.item_vectors().T)[:, 1:]


HISTORIES = ([1, 3], [2], [4, 8, 6], [9, 5, 1, 7])


def test_every_model_is_found_by_its_kind() -> None:
    assert {"popularity", "sasrec", "comirec_dr", "ulim", "t2diff_union"} <= set(RETRIEVAL)
    assert not {"din", "dmae", "light_two_tower"} & set(RETRIEVAL)


def test_the_answer_known_by_hand_is_found(model: Any) -> None:
    after_one = [[item] for item in range(1, NUM_ITEMS + 1)]
    # One of several interests may be the action itself: ComiRec-SA's are means of actions.
    channel = retriever("x", model, exclude_seen=hasattr(model, "interest_vectors"))
    found = channel.retrieve(requests_of(*after_one), NUM_ITEMS).items.tolist()
    if model.kind in IMPERSONAL:
        # In the train window every item occurs 12 times, item 10 twice more, item 9 once more; ties, the smaller first.
        assert found == [[10, 9, 1, 2, 3, 4, 5, 6, 7, 8]] * NUM_ITEMS
        return
    for (item,), items in zip(after_one, found, strict=True):
        assert set(items[:4]) == same_colour(item) - {item}, "all four follow it equally often, and nothing else does"


def test_longer_histories_keep_to_their_colour(model: Any) -> None:
    if model.kind in IMPERSONAL:
        pytest.skip("knows no history")
    walks = [[1, 3], [9, 5], [2, 6], [8, 6]]
    found = retriever("x", model).retrieve(requests_of(*walks), 1).items[:, 0].tolist()
    assert all(item in same_colour(walk[0]) for item, walk in zip(found, walks, strict=True))


def test_nothing_of_the_other_colour_is_a_neighbour(board: Store) -> None:
    found = retriever("x", _trained("item_knn", board)).retrieve(requests_of([1], [2, 4]), NUM_ITEMS)
    assert [sorted(set(row) - {0}) for row in found.items.tolist()] == [[3, 5, 7, 9], [2, 4, 6, 8, 10]]


def test_saved_and_loaded_it_answers_bit_for_bit_the_same(model: Any, tmp_path: Path) -> None:
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.config == model.config
    assert loaded.sizes == model.sizes
    requests = requests_of(*HISTORIES, [])
    assert torch.equal(all_scores(loaded, requests), all_scores(model, requests))


@pytest.mark.parametrize("padding", [1, 7])
def test_padding_changes_nothing(model: Any, padding: int) -> None:
    torch.testing.assert_close(
        all_scores(model, requests_of(*HISTORIES, [], padding=padding)),
        all_scores(model, requests_of(*HISTORIES, [])),
        rtol=1e-6,
        atol=1e-6,
    )


def test_hidden_states_do_not_depend_on_padding_or_on_the_future(model: Any) -> None:
    if not hasattr(model, "hidden"):
        pytest.skip("has no vector after each action")
    whole = requests_of([1, 3, 5, 7], [2, 4])
    with torch.no_grad():
        hidden = model.hidden(whole.history)
        assert hidden.shape == (2, 4, model.item_vectors().shape[1])
        torch.testing.assert_close(hidden[:1, :2], model.hidden(whole.history[:1, :2]), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(hidden[1:, :2], model.hidden(whole.history[1:, :2]), rtol=1e-5, atol=1e-5)


def test_the_served_vector_is_the_trained_one_at_the_last_action(model: Any) -> None:
    if not hasattr(model, "hidden"):
        pytest.skip("has no vector after each action")
    requests = requests_of(*HISTORIES)
    with torch.no_grad():
        hidden = model.hidden(requests.history)
        last = hidden[torch.arange(len(requests)), requests.lengths - 1]
        torch.testing.assert_close(model.user_vectors(requests), last, rtol=1e-5, atol=1e-5)


def test_sampled_item_vectors_are_those_of_the_catalogue(model: Any) -> None:
    if not hasattr(model, "embed_items"):
        pytest.skip("scores the catalogue directly")
    items = torch.tensor([3, 10, 3])
    torch.testing.assert_close(model.embed_items(items), model.item_vectors()[items])


def test_a_batch_of_one_equals_its_row_of_a_batch(model: Any) -> None:
    together = all_scores(model, requests_of(*HISTORIES, []))
    alone = torch.cat([all_scores(model, requests_of(h)) for h in (*HISTORIES, [])])
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("padding", [0, 3])
def test_an_empty_history_gets_the_stated_answer(model: Any, padding: int) -> None:
    anonymous = requests_of([], [], padding=padding)
    found = retriever("x", model).retrieve(anonymous, 4)
    if model.kind in ("popularity", "markov"):
        assert found.items.tolist() == [[10, 9, 1, 2]] * 2
    else:
        assert not found.mask.any()
    if model.kind in SILENT | {"ulim"}:
        assert torch.isneginf(all_scores(model, anonymous)).all()
    if hasattr(model, "user_vectors"):
        assert not model.user_vectors(anonymous).any()


def test_scores_are_finite_or_minus_infinity(model: Any) -> None:
    scores = all_scores(model, requests_of(*HISTORIES, []))
    assert scores.shape == (len(HISTORIES) + 1, NUM_ITEMS)
    assert (torch.isfinite(scores) | torch.isneginf(scores)).all()
    if model.kind not in SILENT | {"ulim"}:
        assert torch.isfinite(scores).all()
    elif model.kind != "item_knn":
        assert torch.isfinite(scores[:-1]).all(), "only without a history it says nothing"


def test_item_0_is_never_found_and_no_item_twice(model: Any) -> None:
    found = retriever("x", model).retrieve(requests_of(*HISTORIES, []), NUM_ITEMS + 5)
    assert found.items.shape == (len(HISTORIES) + 1, NUM_ITEMS + 5)
    for items, scores in zip(found.items.tolist(), found.scores, strict=True):
        real = [i for i in items if i]
        assert len(set(real)) == len(real) <= NUM_ITEMS
        assert items[len(real) :] == [0] * (len(items) - len(real))
        assert torch.isfinite(scores[: len(real)]).all()
        assert torch.isneginf(scores[len(real) :]).all()


def test_no_requests_give_no_rows(model: Any) -> None:
    assert retriever("x", model).retrieve(requests_of(), 3).items.shape == (0, 3)


def test_seen_items_are_left_out_and_lists_stay_full(model: Any) -> None:
    found = retriever("x", model, exclude_seen=True).retrieve(requests_of(*HISTORIES), 1)
    assert found.mask.all()
    assert all(i not in h for h, row in zip(HISTORIES, found.items.tolist(), strict=True) for i in row)


def test_shapes_are_executed(model: Any) -> None:
    with pytest.raises(TypeCheckError):
        model.score_items("no requests") if hasattr(model, "score_items") else model.user_vectors("no requests")
