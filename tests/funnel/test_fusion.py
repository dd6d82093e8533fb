"""Fusion: one scale for both scores, a weight that never loses on validation, and what a folder keeps of it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from penchant.baselines.counted.popularity import Popularity
from penchant.baselines.retrieval.sasrec import SASRec
from penchant.data.history import Requests
from penchant.errors import RunError
from penchant.funnel.fusion import WEIGHTS, Fusion, standardised
from penchant.funnel.pipeline import ChannelSettings, Funnel, FunnelSettings, load_funnel, save_settings
from penchant.funnel.retrieve import retriever
from penchant.funnel.similarity import similarities
from penchant.funnel.stages import Candidates, Scorer
from penchant.models import Sizes, save_model
from tests.funnel.embedders import Summed
from tests.funnel.test_features import NUM_ITEMS, candidates_of, requests_of, some_similarity

REQUESTS = requests_of([[1, 2, 3], [4]], [[9, 5, 2], [1]])


def candidates_with(items: list[list[int]], scores: list[list[float]]) -> Candidates:
    given = candidates_of(items)
    return given.rescored(torch.tensor(scores))


CANDIDATES = candidates_with([[3, 9, 6, 4], [7, 2, 0, 0]], [[4.0, 3.0, 2.5, 1.0], [2.0, 1.0, 0.0, 0.0]])


def z(values: list[float]) -> list[float]:
    mean = sum(values) / len(values)
    std = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
    return [(v - mean) / std if std else 0.0 for v in values]


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_the_fused_score_is_a_sum_of_z_scores_of_real_candidates(weight: float) -> None:
    similar = some_similarity()
    got = Fusion(similar, weight).score(REQUESTS, CANDIDATES)
    for b, real in enumerate((4, 2)):
        items = CANDIDATES.items[b, :real].tolist()
        user = similar.user_vectors(REQUESTS)[b]
        light = z(CANDIDATES.scores[b, :real].tolist())
        dots = z([float(user @ similar.vectors[i]) for i in items])
        expected = {i: a + weight * s for i, a, s in zip(items, light, dots, strict=True)}
        assert got.items[b, :real].tolist() == sorted(items, key=lambda i: -expected[i])
        assert got.scores[b, :real].tolist() == pytest.approx(sorted(expected.values(), reverse=True), abs=1e-5)
        for k, item in enumerate(got.items[b, :real].tolist()):
            before = items.index(item)
            assert torch.equal(got.ranks[b, k], CANDIDATES.ranks[b, before])
    assert got.items[1, 2:].tolist() == [0, 0]
    assert got.scores[1, 2:].tolist() == [-torch.inf] * 2


def test_a_weight_of_0_is_the_pre_ranker_alone_and_asks_nobody() -> None:
    model = Summed()
    assert Fusion(model.similarity(), 0.0).score(REQUESTS, CANDIDATES) is CANDIDATES
    assert not model.asked


def test_rows_of_equal_scores_are_decided_by_the_other_scores() -> None:
    flat = candidates_with([[3, 9, 6, 4]] * 2, [[1.7] * 4] * 2)
    similar = some_similarity()
    dots = similar.scores(REQUESTS, flat.items)
    got = Fusion(similar, 1.0).score(REQUESTS, flat)
    assert torch.equal(got.items, flat.rescored(dots).items)
    unknown = requests_of([[], [5]], [[], [1]])  # a user without history, and one whose only item has a zero vector
    got = Fusion(similar, 1.0).score(unknown, CANDIDATES)
    assert torch.equal(got.items, CANDIDATES.items)
    assert torch.isfinite(got.scores[CANDIDATES.mask]).all()


@settings(deadline=None, max_examples=50)
@given(
    rows=st.lists(
        st.tuples(st.lists(st.floats(-1e3, 1e3), min_size=5, max_size=5), st.integers(0, 5)), min_size=1, max_size=4
    )
)
def test_standardised_rows_have_mean_0_and_variance_1_or_are_0(rows: list[tuple[list[float], int]]) -> None:
    scores = torch.tensor([row for row, _ in rows])
    mask = torch.arange(5) < torch.tensor([count for _, count in rows])[:, None]
    got = standardised(torch.where(mask, scores, -torch.inf), mask)
    assert torch.isfinite(got).all()
    assert not got[~mask].any()
    for b, (_, count) in enumerate(rows):
        kept = got[b, :count].double()
        if got[b].any():
            assert kept.mean().item() == pytest.approx(0, abs=1e-4)
            assert kept.var(correction=0).item() == pytest.approx(1, abs=1e-3)


def validation(num: int, helps: bool, seed: int = 0) -> Iterator[tuple[Requests, Candidates, Tensor]]:
    """Requests whose target is what their history is most like (helps) or what the pre-ranker has first."""
    generator = torch.Generator().manual_seed(seed)
    similar = some_similarity()
    for _ in range(num):
        history = torch.randint(1, NUM_ITEMS + 1, (3,), generator=generator).tolist()
        requests = requests_of([history], [[3, 2, 1]])
        items = (torch.randperm(NUM_ITEMS, generator=generator) + 1)[None, :8]
        given = candidates_with(items.tolist(), [torch.randn(8, generator=generator).tolist()])
        best = given.rescored(similar.scores(requests, given.items)).items[:, 0]
        yield requests, given, best if helps else given.items[:, 0]


def test_the_weight_is_0_where_the_embedding_only_harms_and_large_where_it_knows_best() -> None:
    similar = some_similarity()
    harmful = Fusion.tuned(similar, validation(60, helps=False), 1)
    assert harmful.weight == 0.0
    assert dict(harmful.tried)[0.0] == 1.0 > dict(harmful.tried)[5.0]
    helpful = Fusion.tuned(similar, validation(60, helps=True), 1)
    tried = dict(helpful.tried)
    assert list(tried) == list(WEIGHTS)
    assert helpful.weight >= 2.0
    assert tried[helpful.weight] == max(tried.values()) > tried[0.0]


def test_what_was_tried_is_what_the_fused_lists_hold() -> None:
    similar = some_similarity()
    tuned = Fusion.tuned(similar, validation(40, helps=True), 3)
    for weight, hr in tuned.tried:
        kept = [
            bool((Fusion(similar, weight).score(requests, given).top(3).items == target[:, None]).any())
            for requests, given, target in validation(40, helps=True)
        ]
        assert hr == pytest.approx(sum(kept) / len(kept))


class ByItem(Scorer):
    """The smallest item first."""

    def score(self, requests: Requests, candidates: Candidates) -> Candidates:
        return candidates.rescored(-candidates.items.float())


SETTINGS = FunnelSettings(
    channels=(ChannelSettings(name="vectors", k=6), ChannelSettings(name="popularity", k=6)),
    merge="rrf",
    merged_size=10,
    preranked_size=4,
    list_size=2,
)


def small_funnel(weight: float | None, rank: Scorer | None = None) -> Funnel:
    torch.manual_seed(0)
    popularity = Popularity(Popularity.Config(), Sizes(num_items=NUM_ITEMS))
    popularity.counts.copy_(torch.arange(NUM_ITEMS + 1).flip(0))
    vectors = SASRec(SASRec.Config(width=8), Sizes(num_items=NUM_ITEMS)).eval()
    sources = [retriever("vectors", vectors), retriever("popularity", popularity.eval())]
    fusion = None if weight is None else Fusion(similarities(sources)["vectors"], weight, ((0.0, 0.5), (weight, 0.6)))
    return Funnel(sources, ByItem(), rank, SETTINGS, fusion)


def test_the_funnel_passes_on_the_fused_list_and_keeps_the_other_for_the_report() -> None:
    plain, fused = small_funnel(None).run(REQUESTS), small_funnel(2.0).run(REQUESTS)
    assert plain.unfused is None
    assert "fuse" not in plain.seconds
    assert list(fused.seconds)[-3:] == ["prerank", "fuse", "rank"]
    assert fused.unfused is not None
    assert torch.equal(fused.unfused.items, plain.preranked.items)
    assert not torch.equal(fused.preranked.items, plain.preranked.items)
    merged = ByItem().score(REQUESTS, plain.merged)
    fusion = small_funnel(2.0).fusion
    assert fusion is not None
    assert torch.equal(fused.preranked.items, fusion.score(REQUESTS, merged).top(4).items)
    assert torch.equal(fused.ranked.items, fused.preranked.items)


def test_a_new_user_keeps_the_merged_order_and_given_items_are_fused_too() -> None:
    new = requests_of([[], [4]], [[], [1]])
    funnel = small_funnel(5.0)
    trace = funnel.run(new)
    assert torch.equal(trace.preranked.items[0], trace.merged.items[0, :4])
    assert torch.equal(trace.preranked.scores[0], trace.merged.scores[0, :4])
    items = torch.tensor([[2, 12, 7, 0], [2, 12, 7, 0]])
    ordered = funnel.order(new, items)
    assert ordered.items[0].tolist() == [2, 12, 7, 0]
    assert funnel.fusion is not None
    by_item = ByItem().score(new, candidates_with(items.tolist(), [[1.0] * 4] * 2))
    assert ordered.items[1].tolist() == funnel.fusion.score(new, by_item).items[1].tolist()
    with_rank = small_funnel(5.0, ByItem())
    assert with_rank.order(new, items).items[1].tolist() == [2, 7, 12, 0]
    assert funnel.with_exclude_seen(True).fusion is funnel.fusion


def saved(folder: Path) -> Funnel:
    funnel = small_funnel(2.0)
    for source in funnel.retrievers:
        save_model(source.model, folder / "channels" / source.name)  # pyright: ignore[reportAttributeAccessIssue]
    save_settings(SETTINGS, folder, fusion=funnel.fusion)
    return funnel


def test_a_funnels_folder_keeps_its_fusion(tmp_path: Path) -> None:
    funnel, loaded = saved(tmp_path), load_funnel(tmp_path)
    assert loaded.fusion is not None
    assert funnel.fusion is not None
    assert (loaded.fusion.weight, loaded.fusion.tried) == (2.0, funnel.fusion.tried)
    assert loaded.fusion.similarity.model is loaded.retrievers[0].model, "the channel's own model, not a second one"  # pyright: ignore[reportAttributeAccessIssue]
    assert loaded.settings == SETTINGS
    given = funnel.run(REQUESTS).merged
    assert torch.equal(loaded.fusion.score(REQUESTS, given).scores, funnel.fusion.score(REQUESTS, given).scores)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"channel": "popularity"}, r"fuses channel 'popularity', channels with vectors are \['vectors'\]"),
        ({"weight": -1.0}, "the weight of the fusion is -1.0"),
        ({"weight": math.nan}, "the weight of the fusion is nan"),
        ({"weight": "a"}, "damaged"),
        ({"tried": [3]}, "damaged"),
    ],
)
def test_damaged_fusions_are_refused_by_file(tmp_path: Path, changed: dict, message: str) -> None:
    saved(tmp_path)
    path = tmp_path / "funnel.json"
    described = json.loads(path.read_text())
    path.write_text(json.dumps({**described, "fusion": {**described["fusion"], **changed}}))
    with pytest.raises(RunError, match=rf"funnel\.json.*{message}"):
        load_funnel(tmp_path)
