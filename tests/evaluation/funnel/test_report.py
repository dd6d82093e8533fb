"""The numbers of the funnel report, against lists written by hand."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from penchant.data.history import Requests
from penchant.errors import RunError
from penchant.evaluation.funnel.audit import FunnelAudit
from penchant.evaluation.funnel.report import FunnelReport, render_terminal, unreachable
from penchant.funnel.pipeline import ChannelSettings, Funnel, FunnelSettings, Trace
from penchant.funnel.stages import Candidates, Retriever, Scorer
from tests.evaluation.funnel.funnels import PROVENANCE, UNFUSED, by_hand, report_by_hand, requests, trace


def test_each_miss_is_the_stage_s_that_lost_it() -> None:
    stages = report_by_hand().stages
    assert [s.stage for s in stages] == ["retrieve", "merge", "prerank", "rank"]
    assert [s.lost for s in stages] == [1, 1, 1, 1]
    assert [s.survived.value for s in stages] == pytest.approx([5 / 6, 4 / 6, 3 / 6, 2 / 6])
    assert [s.miss_share for s in stages] == [0.25] * 4


def test_sizes_are_of_different_items_in_the_lists() -> None:
    stages = report_by_hand().stages
    # Retrieved: 7 8 9 | 2 7 9 | 3 7 9 | 7 8 9 4 | 5 7 9 | 7 8 6 9.
    assert [s.size for s in stages] == pytest.approx([20 / 6, 18 / 6, 16 / 6, 2])


def test_channels_found_and_exclusive_hits() -> None:
    a, b = report_by_hand().channels
    assert (a.name, b.name) == ("a", "b")
    assert (a.found.value, b.found.value) == pytest.approx((3 / 6, 4 / 6))
    assert (a.exclusive.value, b.exclusive.value) == pytest.approx((1 / 6, 2 / 6))
    assert (a.median_place, b.median_place) == (1, 2)
    assert (a.places[:2], b.places[:2]) == ((3, 0), (1, 3))


def test_combinations_are_the_patterns_of_who_found_what() -> None:
    found = {c.channels: c.count for c in report_by_hand().combinations}
    assert found == {("a",): 1, ("b",): 2, ("a", "b"): 2}


def test_overlap_is_the_mean_jaccard_of_the_lists() -> None:
    overlap = report_by_hand().overlap
    # Four requests share one item of three, two share none.
    assert overlap[0][1] == overlap[1][0] == pytest.approx(4 * (1 / 3) / 6)
    assert overlap[0][0] == 1


def test_a_request_without_any_list_says_nothing_about_overlap() -> None:
    made = trace({"a": [[1, 2], []], "b": [[2, 3], []]}, [[2, 1], [5]], [[2], [5]])
    audit = FunnelAudit((1,), item_counts=np.ones(10, dtype=np.int64))
    audit.add(made, requests([1, 2]), torch.tensor([2, 5]))
    report = audit.report(PROVENANCE)
    assert report.overlap[0][1] == pytest.approx(1 / 3)


def test_what_the_fill_brought_counts_as_retrieved_by_no_channel() -> None:
    made = trace({"a": [[1, 2]]}, [[1, 2, 5]], [[5, 1]])
    audit = FunnelAudit((1,), item_counts=np.ones(10, dtype=np.int64))
    audit.add(made, requests([1]), torch.tensor([5]))
    report = audit.report(PROVENANCE)
    assert report.stage("retrieve").survived.value == 1
    assert report.combinations[0].channels == ()


def test_controls_are_the_same_targets_on_simpler_lists() -> None:
    report = report_by_hand()
    hr = {c.name: c.hr.value for c in report.controls}
    assert hr == pytest.approx({"a": 3 / 6, "b": 4 / 6, "merge": 4 / 6, "prerank": 2 / 6})
    assert report.final[0].hr.value == pytest.approx(2 / 6)
    for control in report.controls:
        assert control.hr_gain.value == pytest.approx(report.final[0].hr.value - control.hr.value)
    assert report.final[0].ndcg.value == pytest.approx((1 + 1 / np.log2(3)) / 6)


def test_truncation_keeps_as_many_as_the_pre_ranker_did() -> None:
    truncation = report_by_hand().truncation
    # The first 3, 2, 2, 3, 3, 3 of the merged lists hold 3, 4, 5 and 6; the pre-ranker kept 4, 5 and 6.
    assert truncation.plain.value == pytest.approx(4 / 6)
    assert truncation.prerank.value == pytest.approx(3 / 6)
    assert truncation.gain.value == pytest.approx(-1 / 6)
    assert truncation.size == pytest.approx(16 / 6)


def test_fusion_is_judged_beside_the_pre_ranker_alone() -> None:
    report = report_by_hand(UNFUSED)
    fusion = report.fusion
    assert fusion is not None
    assert report.truncation.prerank.value == report.stage("prerank").survived.value == pytest.approx(3 / 6)
    assert fusion.alone.value == pytest.approx(2 / 6)
    assert fusion.gain.value == pytest.approx(1 / 6)
    assert (fusion.only_fused.value, fusion.only_alone.value) == pytest.approx((2 / 6, 1 / 6))
    assert FunnelReport.from_json(report.to_json()) == report
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(render_terminal(report))
    said = console.export_text()
    assert "first 3, fused" in said
    assert "first 3, pre-ranker alone" in said
    assert report_by_hand().fusion is None
    assert replace(report, fusion=None) == report_by_hand(), "nothing else of the report knows of it"


def test_ceilings_follow_their_definitions() -> None:
    retrieve, merge, prerank, rank = report_by_hand().ceilings
    assert [c.bound for c in (retrieve, merge, prerank, rank)] == pytest.approx([3 / 6] * 4)
    assert retrieve.projected == pytest.approx(1 * (2 / 5))
    assert merge.projected == pytest.approx(5 / 6 * (2 / 4))
    assert prerank.projected == pytest.approx(4 / 6 * (2 / 3))
    assert (rank.measured, rank.projected) == pytest.approx((3 / 6, 3 / 6))
    assert prerank.measured is None  # no ranker was there to be asked


class _One(Retriever):
    name = "one"

    def retrieve(self, requests: Requests, k: int) -> Candidates:
        items = torch.arange(1, k + 1).expand(len(requests), k)
        return Candidates.of_channel("one", items, -items.float())


class _ByItem(Scorer):
    """Scores by the item's number: upwards or downwards."""

    def __init__(self, sign: int) -> None:
        self.sign = sign

    def score(self, requests: Requests, candidates: Candidates) -> Candidates:
        return candidates.rescored(self.sign * candidates.items.float())


def test_a_perfect_pre_ranker_is_measured_with_the_true_ranker() -> None:
    one = FunnelSettings(
        channels=(ChannelSettings(name="one", k=6),),
        merge="rrf",
        merged_size=6,
        preranked_size=3,
        list_size=1,
        fallback="one",
    )
    # Pre-ranking keeps 1, 2, 3; the ranker puts the largest first. So 3 is found; 6, kept instead of 3, would be.
    funnel = Funnel([_One()], _ByItem(-1), _ByItem(1), one)
    audit = FunnelAudit((1,), item_counts=np.ones(10, dtype=np.int64), funnel=funnel)
    asked = requests([1, 2, 3, 4])
    audit.add(funnel.run(asked), asked, torch.tensor([3, 6, 1, 9]))
    prerank = audit.report(PROVENANCE).ceilings[2]
    assert (prerank.measured, prerank.bound) == (0.5, 0.5)
    # A ranker that puts the smallest first would not have had it.
    funnel = Funnel([_One()], _ByItem(-1), _ByItem(-1), one)
    audit = FunnelAudit((1,), item_counts=np.ones(10, dtype=np.int64), funnel=funnel)
    audit.add(funnel.run(asked), asked, torch.tensor([3, 6, 1, 9]))
    prerank = audit.report(PROVENANCE).ceilings[2]
    assert (prerank.measured, prerank.bound) == (0.25, 0.5)


def test_latency_is_a_batch_s_time_over_its_requests() -> None:
    made, asked, targets = by_hand()
    audit = FunnelAudit((2,), item_counts=np.ones(10, dtype=np.int64))
    audit.add(made, asked, targets)
    report = audit.report(PROVENANCE)
    assert [row.stage for row in report.latency] == ["retrieve:a", "retrieve:b", "merge", "prerank", "rank", "total"]
    assert report.latency[0].batch_p50_ms == pytest.approx(1)
    assert report.latency[-1].batch_p95_ms == pytest.approx(5)
    assert report.latency[-1].request_p50_ms == pytest.approx(5 / 6)
    assert sum(row.share for row in report.latency[:-1]) == pytest.approx(1)
    assert report.batch_size == 6


def test_slices_part_the_targets() -> None:
    made, _, targets = by_hand()
    asked = requests([1, 1, 2, 2, 0, 3], [[], [1], [1] * 7, [1] * 60, [1], [1]])
    counts = np.array([0, 0, 9, 5, 4, 2, 1, 1, 1, 1])
    audit = FunnelAudit((2,), item_counts=counts, user_counts=np.array([0, 5, 0, 1]))
    audit.add(made, asked, targets)
    report = audit.report(PROVENANCE)
    for group in {s.group for s in report.slices}:
        members = [s for s in report.slices if s.group == group]
        assert sum(s.count for s in members) == 6
        assert sum(s.count * s.hit.value for s in members) == pytest.approx(2)
    counts_of = {(s.group, s.name): s.count for s in report.slices}
    assert counts_of["target item", "cold"] == 1
    assert counts_of["history length", "0"] == 1
    assert counts_of["user", "new since training"] == 3  # user 2 twice, and the anonymous one


@pytest.mark.parametrize("exclude", [True, False])
def test_targets_that_a_funnel_may_not_find_are_told(exclude: bool) -> None:
    made, _, targets = by_hand()
    audit = FunnelAudit((2,), item_counts=np.arange(10))
    audit.add(made, requests([1, 1, 2, 2, 3, 3], [[1], [9, 2], [1], [1], [1], [1]]), targets)
    report = audit.report(replace(PROVENANCE, config={"settings.exclude_seen": str(exclude)}))
    counts_of = {(s.group, s.name): s.count for s in report.slices}
    assert counts_of["item and user", "had before"] == 2
    assert counts_of["item and user", "new to the user"] == 4
    assert ("33.3\xa0% of the targets are items their users had before" in unreachable(report)) == exclude


def test_lost_targets_name_the_place_they_were_last_seen_at() -> None:
    made, asked, targets = by_hand()
    audit = FunnelAudit((2,), item_counts=np.arange(10))
    audit.add(made, asked, targets)
    lost = audit.lost_targets()
    assert [(one.stage, one.item, one.place) for one in lost] == [
        ("retrieve", 1, 0),
        ("merge", 2, 1),
        ("prerank", 3, 2),
        ("rank", 4, 3),
    ]
    assert [one.training_count for one in lost] == [1, 2, 3, 4]
    assert lost[0].history == (1,)


def test_a_user_s_targets_are_resampled_together() -> None:
    """Fifty targets of two users, one always hit and one never: the interval is that of two observations."""
    made = trace({"a": [[1]] * 50}, [[1]] * 50, [[1]] * 50)
    audit = FunnelAudit((1,), item_counts=np.ones(5, dtype=np.int64))
    audit.add(made, requests([1] * 25 + [2] * 25), torch.tensor([1] * 25 + [2] * 25))
    hr = audit.report(PROVENANCE).final[0].hr
    assert (hr.value, hr.low, hr.high) == (0.5, 0.0, 1.0)


def test_anonymous_requests_are_users_of_their_own() -> None:
    made = trace({"a": [[1]] * 50}, [[1]] * 50, [[1]] * 50)
    audit = FunnelAudit((1,), item_counts=np.ones(5, dtype=np.int64))
    audit.add(made, requests([0] * 50), torch.tensor([1] * 25 + [2] * 25))
    report = audit.report(PROVENANCE)
    assert report.num_users == 50
    assert 0.3 < report.final[0].hr.low < 0.5 < report.final[0].hr.high < 0.7


def test_json_gives_the_same_report_back() -> None:
    report = report_by_hand()
    assert FunnelReport.from_json(report.to_json()) == report


def test_a_report_that_says_more_is_read_all_the_same() -> None:
    told = json.loads(report_by_hand().to_json())
    told["channels"][0]["found_count"] = 3
    assert FunnelReport.from_json(json.dumps(told)) == report_by_hand()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', '{"format": 2}'])
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(RunError, match="not a funnel report"):
        FunnelReport.from_json(text)


def test_who_the_users_are_leaves_no_trace() -> None:
    reports = []
    for shift in (0, 987_650):
        made, asked, targets = by_hand()
        audit = FunnelAudit((2,), item_counts=np.ones(10, dtype=np.int64))
        audit.add(made, replace(asked, users=asked.users + shift), targets)
        reports.append(audit.report(PROVENANCE))
    assert reports[0] == reports[1]


def test_wrong_batches_are_refused() -> None:
    made, asked, targets = by_hand()
    audit = FunnelAudit((2,), item_counts=np.ones(10, dtype=np.int64))
    with pytest.raises(ValueError, match="no targets"):
        audit.report(PROVENANCE)
    with pytest.raises(ValueError, match="same batch"):
        audit.add(made, asked, targets[:3])
    with pytest.raises(ValueError, match="not an item"):
        audit.add(made, asked, torch.tensor([0, 1, 2, 3, 4, 5]))
    audit.add(made, asked, targets)
    with pytest.raises(ValueError, match="channels"):
        audit.add(trace({"c": [[1]]}, [[1]], [[1]]), requests([1]), torch.tensor([1]))


def test_the_terminal_shows_every_stage_and_control() -> None:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(render_terminal(report_by_hand()))
    text = console.export_text()
    for said in ("SYNTHETIC", "Retrieval", "Merge", "Pre-ranking", "Ranking, top 2", "a alone", "merged order", "83.3"):
        assert said in text
    assert max(map(len, text.splitlines())) <= 80


@st.composite
def _funnels(draw: st.DrawFn) -> tuple[list[list[list[int]]], list[int], list[int]]:
    """Lists of 1 to 3 channels for some requests, merged and cut in a drawn order; users and targets."""
    num = draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_channels = draw(st.integers(1, 3))

    def some(items: np.ndarray, most: int) -> list[int]:
        return [int(i) for i in rng.permutation(items)[: rng.integers(0, most + 1)]]

    channels = [[some(np.arange(1, 13), 6) for _ in range(num)] for _ in range(num_channels)]
    found = [np.unique(np.concatenate([c[r] for c in channels])).astype(int) for r in range(num)]
    merged = [some(f, 8) for f in found]
    preranked = [some(np.array(m, dtype=int), 4) for m in merged]
    ranked = [[int(i) for i in rng.permutation(p)] for p in preranked]
    users = [int(u) for u in rng.integers(0, 4, num)]
    targets = [int(t) for t in rng.integers(1, 13, num)]
    return [*channels, merged, preranked, ranked], users, targets


def _trace_of(lists: list[list[list[int]]], rows: slice) -> Trace:
    part = [one[rows] for one in lists]
    named = {f"c{i}": one for i, one in enumerate(part[:-3])}
    return trace(named, part[-3], part[-2], part[-1])


@settings(deadline=None, max_examples=30)
@given(made=_funnels())
def test_any_funnel_s_shares_add_up(made: tuple[list[list[list[int]]], list[int], list[int]]) -> None:
    lists, users, targets = made
    audit = FunnelAudit((2, 4), item_counts=np.ones(13, dtype=np.int64), resamples=20)
    audit.add(_trace_of(lists, slice(None)), requests(users), torch.tensor(targets))
    report = audit.report(PROVENANCE)
    survived = [s.survived.value for s in report.stages]
    assert survived == sorted(survived, reverse=True)
    assert sum(s.lost_share.value for s in report.stages) + survived[-1] == pytest.approx(1)
    if survived[-1] < 1:
        assert sum(s.miss_share for s in report.stages) == pytest.approx(1)
    assert sum(c.count for c in report.combinations) == pytest.approx(survived[0] * len(targets))
    alone = sum(c.count for c in report.combinations if len(c.channels) == 1)
    assert sum(c.exclusive.value for c in report.channels) == pytest.approx(alone / len(targets))
    for ceiling in report.ceilings:
        assert survived[-1] - 1e-9 <= ceiling.projected <= ceiling.bound + 1e-9
    for one in report.curves:
        assert list(one.hr) == sorted(one.hr)


@settings(deadline=None, max_examples=30)
@given(made=_funnels(), cut=st.integers(0, 9))
def test_numbers_do_not_depend_on_the_batches(
    made: tuple[list[list[list[int]]], list[int], list[int]], cut: int
) -> None:
    lists, users, targets = made
    reports, samples = [], []
    for parts in ([slice(None)], [slice(0, cut), slice(cut, None)]):
        audit = FunnelAudit((2, 4), item_counts=np.ones(13, dtype=np.int64), resamples=20, samples=2)
        for rows in parts:
            if users[rows]:
                audit.add(_trace_of(lists, rows), requests(users[rows]), torch.tensor(targets[rows]))
        report = audit.report(PROVENANCE)
        # Only time is a batch's own; sums of fractions may differ in the last bit.
        overlap = tuple(tuple(round(v, 12) for v in row) for row in report.overlap)
        reports.append(replace(report, latency=(), batch_size=0, overlap=overlap))
        samples.append(audit.lost_targets())
    assert reports[0] == reports[1]
    assert samples[0] == samples[1]
