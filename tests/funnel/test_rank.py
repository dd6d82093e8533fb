"""The ranker as a stage: order, provenance, blocks, folders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from penchant.baselines.ranking.din import DIN
from penchant.baselines.ranking.parts import RankerConfig
from penchant.errors import RunError
from penchant.funnel.features import RankInputs
from penchant.funnel.prerank import LightTwoTower, LightTwoTowerConfig
from penchant.funnel.rank import ModelScorer
from penchant.models import Sizes, save_model
from tests.funnel.test_features import NUM_ITEMS, candidates_of, requests_of, some_features

FEATURES = some_features()
SIZES = Sizes(num_items=NUM_ITEMS, num_categories=3, num_features=len(FEATURES.names))
REQUESTS = requests_of([[1, 2, 3], [], [4]], [[9, 5, 2], [], [1]])
CANDIDATES = candidates_of([[3, 9, 1, 4], [7, 2, 0, 0], [5, 8, 6, 0]])


class ByItem(nn.Module):
    """The largest item first."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, inputs: RankInputs) -> Tensor:
        return inputs.items * self.weight


def ranker() -> ModelScorer:
    torch.manual_seed(0)
    return ModelScorer(DIN(RankerConfig(), SIZES), FEATURES)


def preranker() -> ModelScorer:
    torch.manual_seed(0)
    return ModelScorer(LightTwoTower(LightTwoTowerConfig(), SIZES), FEATURES)


STAGES = pytest.mark.parametrize("stage", [ranker(), preranker()], ids=["rank", "prerank"])


def test_candidates_come_best_first_with_their_provenance() -> None:
    got = ModelScorer(ByItem(), FEATURES).score(REQUESTS, CANDIDATES)
    assert got.items.tolist() == [[9, 4, 3, 1], [7, 2, 0, 0], [8, 6, 5, 0]]
    assert got.scores[1].tolist() == [7, 2, -torch.inf, -torch.inf]
    for b in range(3):
        for k, item in enumerate(got.items[b]):
            if item:
                before = int((CANDIDATES.items[b] == item).nonzero())
                assert torch.equal(got.ranks[b, k], CANDIDATES.ranks[b, before])
                assert torch.equal(got.channel_scores[b, k], CANDIDATES.channel_scores[b, before])


@STAGES
def test_the_size_of_blocks_changes_no_score(stage: ModelScorer) -> None:
    whole = stage.score(REQUESTS, CANDIDATES)
    for cells in (1, 5, 8):
        blocks = type(stage)(stage.model, stage.features, cells).score(REQUESTS, CANDIDATES)
        assert torch.equal(blocks.items, whole.items)
        torch.testing.assert_close(blocks.scores, whole.scores)


@STAGES
def test_scoring_uses_no_dropout_and_leaves_the_models_mode(stage: ModelScorer) -> None:
    stage.model.train()
    once, again = stage.score(REQUESTS, CANDIDATES), stage.score(REQUESTS, CANDIDATES)
    assert torch.equal(once.scores, again.scores)
    assert not once.scores.requires_grad
    assert stage.model.training
    stage.model.eval()


@STAGES
def test_a_saved_stage_gives_the_same_list(stage: ModelScorer, tmp_path: Path) -> None:
    save_model(stage.model, tmp_path)
    with pytest.raises(RunError, match="features"):
        type(stage).load(tmp_path)
    stage.features.save(tmp_path)
    loaded = type(stage).load(tmp_path).score(REQUESTS, CANDIDATES)
    expected = stage.score(REQUESTS, CANDIDATES)
    assert torch.equal(loaded.items, expected.items)
    assert torch.equal(loaded.scores, expected.scores)


def test_no_request_and_no_candidate_are_no_special_cases() -> None:
    assert len(ranker().score(requests_of([], []), candidates_of([]).top(0)).items) == 0
    assert ranker().score(REQUESTS, CANDIDATES.top(0)).items.shape == (3, 0)
