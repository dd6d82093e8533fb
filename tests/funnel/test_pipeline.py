"""The funnel with channels and scorers whose answers are known by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from penchant.errors import ConfigError, RunError
from penchant.funnel.pipeline import (
    ChannelSettings,
    Funnel,
    FunnelSettings,
    load_settings,
    save_settings,
)
from penchant.funnel.stages import Candidates, Requests, Retriever, Scorer

NUM_ITEMS = 30


class Neighbours(Retriever):
    """The items after the last one seen; nothing for a request without history."""

    name = "neighbours"

    def retrieve(self, requests: Requests, k: int) -> Candidates:
        lengths = requests.lengths
        last = torch.zeros_like(lengths)
        if requests.history.shape[1]:
            last = requests.history.gather(1, (lengths - 1).clamp(min=0)[:, None])[:, 0]
        items = last[:, None] + torch.arange(1, k + 1)
        items = torch.where((items <= NUM_ITEMS) & (lengths > 0)[:, None], items, 0)
        return Candidates.of_channel(self.name, items, -torch.arange(k).expand(len(requests), -1).float())


class Popular(Retriever):
    """1, 2, 3, ... for everybody."""

    name = "popularity"

    def retrieve(self, requests: Requests, k: int) -> Candidates:
        items = torch.arange(1, k + 1).expand(len(requests), -1)
        return Candidates.of_channel(self.name, torch.where(items <= NUM_ITEMS, items, 0), NUM_ITEMS - items.float())


class Largest(Scorer):
    """The largest item first."""

    def score(self, requests: Requests, candidates: Candidates) -> Candidates:
        return candidates.rescored(candidates.items.float())


def requests_of(*histories: list[int]) -> Requests:
    width = max(map(len, histories))
    history = torch.tensor([h + [0] * (width - len(h)) for h in histories]).reshape(len(histories), width).long()
    count = len(histories)
    return Requests(torch.zeros(count).long(), torch.zeros(count).long(), history, history)


def settings_of(**changed: object) -> FunnelSettings:
    values: dict = {
        "channels": (
            ChannelSettings(name="neighbours", k=6, quota=6),
            ChannelSettings(name="popularity", k=4, quota=4),
        ),
        "merge": "quota",
        "merged_size": 10,
        "preranked_size": 6,
        "list_size": 3,
        **changed,
    }
    return FunnelSettings(**values)


def funnel_of(**changed: object) -> Funnel:
    return Funnel([Popular(), Neighbours()], Largest(), Largest(), settings_of(**changed))


@pytest.mark.parametrize("merge", ["quota", "rrf"])
def test_every_stage_keeps_the_scorers_best_of_what_the_one_before_gave(merge: str) -> None:
    trace = funnel_of(merge=merge).run(requests_of([3, 11]))
    assert [c.channels[0] for c in trace.lists] == ["neighbours", "popularity"]
    assert set(trace.merged.items[0].tolist()) == {1, 2, 3, 4, *range(12, 18)}
    assert trace.preranked.items[0].tolist() == [17, 16, 15, 14, 13, 12]
    assert trace.ranked.items[0].tolist() == [17, 16, 15, 14, 13, 12]
    assert funnel_of(merge=merge).recommend(requests_of([3, 11])).items[0].tolist() == [17, 16, 15]


def test_provenance_survives_to_the_list() -> None:
    best = funnel_of().recommend(requests_of([1]), 6)
    where = dict(zip(best.items[0].tolist(), best.ranks[0].tolist(), strict=True))
    assert best.channels == ("neighbours", "popularity")
    assert where[7] == [6, 0]
    assert where[4] == [3, 4]


def test_without_scorers_the_merged_order_is_the_list() -> None:
    trace = Funnel([Popular(), Neighbours()], None, None, settings_of()).run(requests_of([20]))
    assert torch.equal(trace.ranked.items, trace.merged.items[:, :6])


def test_a_new_user_gets_popularity_in_its_own_order_beside_a_known_one() -> None:
    trace = funnel_of().run(requests_of([], [11]))
    assert trace.without_history.tolist() == [True, False]
    assert trace.ranked.items[0].tolist() == [1, 2, 3, 4, 5, 6]
    assert trace.ranked.items[1].tolist() == [17, 16, 15, 14, 13, 12]
    assert not trace.lists[0].mask[0].any()


def test_a_batch_of_new_users_alone_needs_no_history_columns() -> None:
    assert funnel_of().recommend(requests_of([], [])).items.tolist() == [[1, 2, 3]] * 2


def test_a_list_the_channels_left_short_is_filled_with_the_next_popular_items() -> None:
    channels = (ChannelSettings(name="neighbours", k=6, quota=6), ChannelSettings(name="popularity", k=2, quota=2))
    trace = funnel_of(channels=channels).run(requests_of([29]))  # one neighbour is left: 30
    real = trace.merged.items[0][trace.merged.mask[0]].tolist()
    assert len(real) == len(set(real))
    assert set(real) >= {30, 1, 2, 3, 4, 5, 6}
    where = dict(zip(trace.merged.items[0].tolist(), trace.merged.ranks[0].tolist(), strict=True))
    assert where[5] == [0, 5]
    assert (trace.merged.scores[0][trace.merged.mask[0]].diff() <= 0).all()


def test_a_request_gets_the_same_list_alone_and_in_a_batch() -> None:
    histories = [[3, 11], [], [29], [1, 2, 3, 4, 5, 6, 7]]
    together = funnel_of().recommend(requests_of(*histories), 6)
    for row, history in enumerate(histories):
        alone = funnel_of().recommend(requests_of(history), 6)
        assert alone.items[0].tolist() == together.items[row].tolist()
        assert torch.equal(alone.ranks[0], together.ranks[row])


def test_no_stage_sees_more_than_max_history() -> None:
    class Longest(Scorer):
        seen = 0

        def score(self, requests: Requests, candidates: Candidates) -> Candidates:
            self.seen = max(self.seen, requests.history.shape[1])
            return candidates

    watcher = Longest()
    Funnel([Popular(), Neighbours()], watcher, watcher, settings_of(max_history=2)).run(requests_of([1, 2, 3, 4]))
    assert watcher.seen == 2


def test_seconds_name_every_stage() -> None:
    seconds = funnel_of().run(requests_of([1])).seconds
    assert list(seconds) == ["retrieve:neighbours", "retrieve:popularity", "merge", "prerank", "rank"]
    assert all(s >= 0 for s in seconds.values())


def test_given_items_are_ranked_with_the_provenance_of_the_channels() -> None:
    ordered = funnel_of().order(requests_of([11], []), torch.tensor([[2, 12, 25, 0], [2, 12, 25, 0]]))
    assert ordered.items.tolist() == [[25, 12, 2, 0], [2, 12, 25, 0]]
    assert ordered.ranks[0].tolist() == [[0, 0], [1, 0], [0, 2], [0, 0]]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"fallback": "missing"}, "missing"),
        ({"list_size": 7}, "list_size 7"),
        ({"max_history": 0}, "max_history 0. Set max_history and each k to 1 or more"),
        ({"channels": (ChannelSettings(name="popularity", k=0),)}, "max_history 200, popularity: k 0, quota 0. Set"),
        ({"channels": (ChannelSettings(name="popularity", k=1),) * 2}, "two channels"),
        ({"channels": (ChannelSettings(name="popularity", k=5),)}, "quota"),
    ],
)
def test_impossible_settings_are_refused_by_name(changed: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings_of(**changed)


def test_channels_need_no_quota_where_no_merge_is_named() -> None:
    assert FunnelSettings(channels=(ChannelSettings(name="popularity", k=5),)).merge == "rrf"


def test_a_channel_without_a_retriever_is_refused() -> None:
    with pytest.raises(ConfigError, match="neighbours"):
        Funnel([Popular()], None, None, settings_of())


def test_settings_come_back_as_saved(tmp_path: Path) -> None:
    settings = settings_of(merge="rrf", exclude_seen=True)
    save_settings(settings, tmp_path)
    assert load_settings(tmp_path) == settings


def test_damaged_settings_are_refused_by_file(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no funnel"):
        load_settings(tmp_path)
    (tmp_path / "funnel.json").write_text(json.dumps({"channels": [], "stages": 3}))
    with pytest.raises(RunError, match=r"funnel\.json"):
        load_settings(tmp_path)
