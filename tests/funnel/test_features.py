"""Features: what each column is, and that nothing but the past makes it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from penchant.data.history import Requests, requests_before_events
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.data.writer import write_store
from penchant.errors import RunError
from penchant.funnel.features import (
    NEVER,
    RECENT,
    REQUEST_FEATURES,
    SIMILARITY_FEATURES,
    Features,
    FeatureScale,
    RankInputs,
)
from penchant.funnel.similarity import Similarity
from penchant.funnel.stages import Candidates
from tests.funnel.embedders import Summed

HOUR = 3_600_000
MINUTE = HOUR // 60
NUM_ITEMS = 12


def some_features(
    channels: tuple[str, ...] = ("a", "b"),
    max_len: int = 50,
    similarity: Similarity | None = None,
    session_minutes: float = 0.0,
) -> Features:
    """Twelve items in categories 0 (none) to 3, item i clicked i times."""
    items = torch.arange(NUM_ITEMS + 1)
    return Features(
        torch.log1p(items.float()), items % 4, channels, max_len, "made up", similarity, None, session_minutes
    )


def some_similarity(num_items: int = NUM_ITEMS) -> Similarity:
    return Summed(num_items).similarity()


def requests_of(histories: list[list[int]], hours_ago: list[list[int]], now: int = 10_000 * HOUR) -> Requests:
    width = max(map(len, histories), default=0)
    count = len(histories)
    times = [[now - h * HOUR for h in ago] + [0] * (width - len(ago)) for ago in hours_ago]
    return Requests(
        users=torch.arange(1, count + 1),
        times_ms=torch.full((count,), now),
        history=torch.tensor([h + [0] * (width - len(h)) for h in histories]).long().reshape(count, width),
        history_times_ms=torch.tensor(times).long().reshape(count, width),
    )


def candidates_of(items: list[list[int]], channels: tuple[str, ...] = ("a", "b"), seed: int = 0) -> Candidates:
    """Each channel finds an item or not, by chance; ranks in the order of its scores."""
    rng = np.random.default_rng(seed)
    item = np.array(items, dtype=np.int64).reshape(len(items), max(map(len, items), default=0))
    found = (rng.random((*item.shape, len(channels))) < 0.7) & (item > 0)[..., None]
    scores = np.where(found, rng.normal(size=found.shape), 0.0).astype(np.float32)
    ordered = np.argsort(np.argsort(np.where(found, -scores, np.inf), axis=1), axis=1) + 1
    return Candidates(
        torch.from_numpy(item),
        torch.where(torch.from_numpy(item) > 0, 0.0, -torch.inf),
        channels,
        torch.from_numpy(np.where(found, ordered, 0)),
        torch.from_numpy(scores),
    )


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length else 0.0


def expected_row(features: Features, requests: Requests, candidates: Candidates, b: int, k: int) -> list[float]:
    """One pair's features, one by one."""
    item = int(candidates.items[b, k])
    length = int(requests.lengths[b])
    kept = slice(max(0, length - features.max_len), length)
    history, times = requests.history[b, kept].tolist(), requests.history_times_ms[b, kept].tolist()
    now = int(requests.times_ms[b])
    category = features.item_category.tolist()
    alike = [category[h] == category[item] > 0 for h in history]
    seen = [t for h, t in zip(history, times, strict=True) if h == item]
    row = [
        np.log1p((now - times[-1]) / HOUR) if history else 0.0,
        np.log1p(len(history)),
        float(features.log_popularity[item]),
        float(np.mean(alike)) if history else 0.0,
        float(np.mean(alike[-RECENT:])) if history else 0.0,
        float(bool(seen)),
        np.log1p((now - max(seen)) / HOUR) if seen else 0.0,
    ]
    if features.session_minutes:
        until = [*times[1:], now]
        pauses = [i for i, t in enumerate(times) if until[i] - t > features.session_minutes * MINUTE]
        session = alike[pauses[-1] + 1 :] if pauses else alike
        same = [t for one, t in zip(alike, times, strict=True) if one]
        row += [
            float(np.mean(session)) if session else 0.0,
            np.log1p(len(session)),
            np.log1p((now - max(same)) / HOUR) if same else NEVER,
        ]
    if features.similarity is not None:
        vectors = features.similarity.vectors.double().numpy()
        each = [cosine(vectors[item], vectors[h]) for h in history] or [0.0]
        user = vectors[history].sum(0) if history else np.zeros(vectors.shape[1])
        row += [max(each), float(np.mean(each)), max(each[-RECENT:]), float(user @ vectors[item])]
    count = 0
    for name in features.channels:
        c = candidates.channels.index(name)
        rank = int(candidates.ranks[b, k, c])
        score = float(candidates.channel_scores[b, k, c])
        row += [float(rank > 0), 1 / rank if rank else 0.0, score if rank else 0.0]
        count += rank > 0
    return row + ([float(count)] if features.channels else [])


@settings(deadline=None, max_examples=25)
@given(
    data=st.data(),
    max_len=st.sampled_from([3, 50]),
    similar=st.booleans(),
    session=st.sampled_from([0.0, 59.0, 60.0, 2400.0]),
)
def test_features_are_what_their_names_say(data: st.DataObject, max_len: int, similar: bool, session: float) -> None:
    lengths = data.draw(st.lists(st.integers(0, 15), min_size=1, max_size=4))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    requests = requests_of(
        [rng.integers(1, NUM_ITEMS + 1, n).tolist() for n in lengths],
        [sorted(rng.integers(0, 500, n).tolist(), reverse=True) for n in lengths],
    )
    items = [rng.permutation(NUM_ITEMS)[:5].tolist() for _ in lengths]  # 0 = an empty slot now and then
    candidates = candidates_of(items, seed=int(rng.integers(1000)))
    similarity = some_similarity() if similar else None
    features = some_features(max_len=max_len, similarity=similarity, session_minutes=session)
    got = features(requests, candidates)
    assert got.features.shape == (len(lengths), 5, len(features.names))
    for b in range(len(lengths)):
        for k in range(5):
            expected = expected_row(features, requests, candidates, b, k) if candidates.items[b, k] else 0.0
            np.testing.assert_allclose(got.features[b, k].numpy(), expected, atol=2e-4)


def test_request_features_come_first_and_are_the_same_for_every_candidate() -> None:
    features = some_features()
    assert features.names[: len(REQUEST_FEATURES)] == REQUEST_FEATURES
    inputs = features(requests_of([[1, 2], []], [[9, 3], []]), candidates_of([[1, 2, 3], [4, 5, 6]]))
    columns = inputs.features[..., : len(REQUEST_FEATURES)]
    assert (columns == columns[:, :1]).all()
    assert columns[0, 0].tolist() == pytest.approx([np.log(4), np.log(3)])


def test_one_request_alone_gets_the_features_it_gets_in_a_batch(store: Store) -> None:
    split = load_split(store, "funnel")
    similarity = some_similarity(store.num_items)
    features = Features.fit(store, split, channels=("a", "b"), max_len=7, similarity=similarity)
    similar = torch.tensor([name.startswith("summed:") for name in features.names])
    assert int(similar.sum()) == len(SIMILARITY_FEATURES)
    events = split.targets("test")[::17]
    items = np.random.default_rng(0).integers(1, store.num_items + 1, (len(events), 9))
    candidates = candidates_of(items.tolist())
    batch = features(requests_before_events(store, events, 20), candidates)
    for b, event in enumerate(events):
        row = slice(b, b + 1)
        one = Candidates(
            candidates.items[row],
            candidates.scores[row],
            candidates.channels,
            candidates.ranks[row],
            candidates.channel_scores[row],
        )
        alone = features(requests_before_events(store, np.array([event]), 40), one)
        assert torch.equal(alone.features[0][:, ~similar], batch.features[b][:, ~similar])
        # A product of another shape rounds differently: the same number but for that.
        torch.testing.assert_close(alone.features[0], batch.features[b], rtol=1e-5, atol=1e-6)
        length = int(alone.requests.lengths[0])
        assert length <= 7
        assert torch.equal(alone.requests.history[0], batch.requests.history[b, :length])


def test_channels_are_matched_by_name_and_a_missing_one_is_refused() -> None:
    features, requests = some_features(), requests_of([[1]], [[1]])
    candidates = candidates_of([[3, 4, 5]])
    swapped = replace(
        candidates,
        channels=("b", "a"),
        ranks=candidates.ranks.flip(2),
        channel_scores=candidates.channel_scores.flip(2),
    )
    assert torch.equal(features(requests, candidates).features, features(requests, swapped).features)
    with pytest.raises(ValueError, match=r"lack channels \['b'\]"):
        features(requests, candidates_of([[3]], channels=("a",)))


@pytest.mark.parametrize("similarity", [None, some_similarity()])
def test_impressions_get_the_same_features_less_the_channels(similarity: Similarity | None) -> None:
    with_channels, without = some_features(similarity=similarity), some_features((), similarity=similarity)
    requests, candidates = requests_of([[1, 5], [2]], [[5, 2], [1]]), candidates_of([[1, 6], [2, 0]])
    plain = without.of_items(requests, candidates.items)
    assert without.names == with_channels.names[: len(without.names)]
    assert torch.equal(plain.features, with_channels(requests, candidates).features[..., : len(without.names)])


@pytest.mark.parametrize("similarity", [None, some_similarity()])
def test_no_history_at_all_and_no_candidates_are_no_special_cases(similarity: Similarity | None) -> None:
    features = some_features(similarity=similarity)
    inputs = features(requests_of([[], []], [[], []]), candidates_of([[1, 2], [3, 0]]))
    assert inputs.requests.history.shape == (2, 0)
    assert torch.isfinite(inputs.features).all()
    empty = features(requests_of([[1]], [[1]]), candidates_of([[]]))
    assert empty.features.shape == (1, 0, len(features.names))


def changed_after(store: Store, cut_ms: int, out: Path) -> Store:
    """The same Store, but every event at or after the cut is of another item."""
    events = store.table("events")
    item, ts = events["item"].to_numpy(), events["ts_ms"].to_numpy()
    changed = np.where(ts >= cut_ms, item % store.num_items + 1, item)
    tables = {name: store.table(name) for name in ("items", "users", "impressions", "queries")}
    new = events.set_column(events.column_names.index("item"), "item", pa.array(changed, pa.int32()))
    return write_store(out, name="changed", events=new, **tables)


def test_changing_what_comes_after_the_cut_changes_no_statistic_and_no_feature(store: Store, tmp_path: Path) -> None:
    split = load_split(store, "funnel")
    other = changed_after(store, split.cut_ms("rank"), tmp_path / "store")
    assert (other.event_item[split.events("rank")] != store.event_item[split.events("rank")]).all()
    mine = Features.fit(store, split)
    theirs = Features.fit(other, load_split(other, "funnel"))
    assert torch.equal(mine.log_popularity, theirs.log_popularity)
    first = split.starts("rank")[split.starts("rank") < split.stops("rank")]  # each user's first event after the cut
    items = torch.arange(1, store.num_items + 1).expand(len(first), -1)
    a = mine.of_items(requests_before_events(store, first, 50), items)
    b = theirs.of_items(requests_before_events(other, first, 50), items)
    assert torch.equal(a.features, b.features)


def test_popularity_agrees_with_the_window_it_was_counted_in(store: Store) -> None:
    split = load_split(store, "funnel")
    counts = np.zeros(store.num_items + 1)
    for event in split.events("train"):
        counts[store.event_item[event]] += 1
    np.testing.assert_allclose(Features.fit(store, split).log_popularity.numpy(), np.log1p(counts), rtol=1e-6)


def test_saved_features_are_loaded_without_a_store(store: Store, tmp_path: Path) -> None:
    similarity = some_similarity(store.num_items)
    split = load_split(store, "funnel")
    features = Features.fit(store, split, channels=("a", "b"), max_len=9, similarity=similarity, session_minutes=90)
    features.save(tmp_path)
    loaded = Features.load(tmp_path, {"summed": similarity})
    requests, candidates = requests_of([[1, 2, 3]], [[3, 2, 1]]), candidates_of([[4, 5, 1]])
    assert torch.equal(loaded(requests, candidates).features, features(requests, candidates).features)
    assert (loaded.channels, loaded.max_len, loaded.fitted_on) == (("a", "b"), 9, features.fitted_on)


def test_missing_damaged_or_other_features_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"features\.json"):
        Features.load(tmp_path)
    some_features().save(tmp_path)
    saved = json.loads((tmp_path / "features.json").read_text())
    (tmp_path / "features.json").write_text(json.dumps({**saved, "names": ["log_price"]}))
    with pytest.raises(RunError, match="log_price were saved"):
        Features.load(tmp_path)
    some_features(similarity=some_similarity()).save(tmp_path)
    with pytest.raises(
        RunError, match=r"features\.json: features need the vectors of 'summed', there are those of \[\]"
    ):
        Features.load(tmp_path)
    some_features().save(tmp_path)
    (tmp_path / "features.safetensors").write_bytes(b"cut")
    with pytest.raises(RunError, match=str(tmp_path)):
        Features.load(tmp_path)


def inputs_of(features: Tensor, items: Tensor) -> RankInputs:
    return RankInputs(requests_of([[1]] * len(items), [[1]] * len(items)), items, features)


def test_scale_takes_mean_and_std_of_real_candidates_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    features = 3 + 2 * torch.randn(4, 6, 3, generator=generator)
    features[..., 2] = 7.0  # constant
    items = torch.randint(0, 2, (4, 6), generator=generator)
    scale = FeatureScale(3)
    scale.fit([inputs_of(features[:2], items[:2]), inputs_of(features[2:], items[2:])])
    real = features[items > 0].double().numpy()
    np.testing.assert_allclose(scale.mean.numpy(), real.mean(0), rtol=1e-5)
    np.testing.assert_allclose(scale.std.numpy(), [*real.std(0)[:2], 1.0], rtol=1e-5)
    assert scale(1e6 * features).abs().max() == 5
    with pytest.raises(ValueError, match="no candidate"):
        scale.fit([inputs_of(features, torch.zeros(4, 6).long())])
