"""The suite that every retrieval model passes, on T2Diff in its two forms: their guesses are made, not read off."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from penchant.data.store import Store
from penchant.models import Sizes
from penchant.papers.t2diff.model import T2Diff, T2DiffConfig
from penchant.papers.t2diff.objective import T2DiffObjective, T2DiffObjectiveConfig
from penchant.papers.t2diff.samples import SampleBatch
from tests.checkerboard import NUM_ITEMS, requests_of
from tests.test_contracts import (  # noqa: F401  (collected here too, with the model below)
    board,
    test_a_batch_of_one_equals_its_row_of_a_batch,
    test_an_empty_history_gets_the_stated_answer,
    test_item_0_is_never_found_and_no_item_twice,
    test_longer_histories_keep_to_their_colour,
    test_no_requests_give_no_rows,
    test_padding_changes_nothing,
    test_saved_and_loaded_it_answers_bit_for_bit_the_same,
    test_scores_are_finite_or_minus_infinity,
    test_seen_items_are_left_out_and_lists_stay_full,
    test_shapes_are_executed,
    test_the_answer_known_by_hand_is_found,
)


@pytest.fixture(params=["onestep", "chain", "zero"])
def model(request: pytest.FixtureRequest, board: Store) -> Any:  # noqa: F811
    if request.param != "chain":
        return _trained(request.param, board)
    # The weights of the other form, served by T steps.
    learned = _trained("onestep", board)
    served = T2Diff(replace(learned.config, xhat="chain"), learned.sizes)
    served.load_state_dict(learned.state_dict())
    return served.eval()


@cache
def _trained(xhat: Any, board: Store) -> T2Diff:  # noqa: F811
    torch.manual_seed(0)
    config = T2DiffConfig(xhat=xhat, width=16, channels=8, steps=8, dropout=0.0)
    model = T2Diff(config, Sizes(num_items=board.num_items)).train()
    objective = T2DiffObjective(T2DiffObjectiveConfig(), torch.ones(NUM_ITEMS + 1, dtype=torch.int64))
    walks = [board.event_item[start : start + 3].tolist() for start in range(0, 40 * 5, 5)]
    prefixes = [*([one] for one, _, _ in walks), *([one, two] for one, two, _ in walks)]
    targets = [*(two for _, two, _ in walks), *(three for _, _, three in walks)]
    batch = SampleBatch(requests_of(*prefixes), torch.tensor(targets))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(90):
        torch.stack(list(objective(model, batch).values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def test_sampled_item_vectors_are_those_of_the_catalogue_here_too(model: T2Diff) -> None:
    items = torch.tensor([3, 10, 3])
    torch.testing.assert_close(model.embed_items(items), model.item_vectors()[items])
