"""Search inside categories against a loop over a dictionary, while items come and go."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Event, Thread

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from penchant.funnel.merge import merge_quota
from penchant.funnel.stages import Candidates
from penchant.index import category as module
from penchant.index.base import Index
from penchant.index.category import CategoryIndex, Found
from penchant.index.exact import ExactIndex

WIDTH = 2


@dataclass
class Shop:
    """The oracle: what is in stock, and lists by a loop."""

    stock: dict[int, tuple[np.ndarray, int]] = field(default_factory=dict)

    def best(
        self, query: np.ndarray, k: int, category: int | None, exclude: list[int]
    ) -> tuple[list[int], list[float]]:
        """Of one category, or (None) of all."""
        found = []
        for item, (vector, of) in self.stock.items():
            if item not in exclude and (category is None or (category == of and category > 0)):
                found.append((-float(query @ vector), item))
        found = sorted(found)[:k]
        short = k - len(found)
        return [i for _, i in found] + [0] * short, [-s + 0.0 for s, _ in found] + [-np.inf] * short


def whole_numbers(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Products of these are exact, and ties are the rule."""
    return rng.integers(-2, 3, (*shape, WIDTH)).astype(np.float32)


def opened(rng: np.random.Generator, count: int, added_rows: int = 8) -> tuple[Shop, CategoryIndex]:
    """A shop of `count` items in up to 3 categories, and its index."""
    vectors, categories = whole_numbers(rng, count + 1), rng.integers(0, 4, count + 1)
    shop = Shop({i: (vectors[i], int(categories[i])) for i in range(1, count + 1)})
    index = CategoryIndex(torch.from_numpy(vectors), torch.from_numpy(categories), added_rows=added_rows)
    return shop, index


def change(rng: np.random.Generator, shop: Shop, index: CategoryIndex) -> None:
    """Items removed, added, brought back or moved; or all folded."""
    what = rng.integers(0, 5)
    if what == 0:
        index.fold()
    elif what < 3:
        items = rng.integers(1, index.num_items + 1, rng.integers(0, 4)) if index.num_items else np.zeros(0, np.int64)
        index.remove(torch.from_numpy(items))
        for item in items.tolist():
            shop.stock.pop(item, None)
    else:
        old = rng.permutation(index.num_items)[:2] + 1
        items = rng.permutation(np.append(old, index.num_items + 1 + np.arange(rng.integers(0, 3))))
        vectors, categories = whole_numbers(rng, len(items)), rng.integers(0, 4, len(items))
        index.add(torch.from_numpy(items), torch.from_numpy(vectors), torch.from_numpy(categories))
        shop.stock |= {i: (v, int(c)) for i, v, c in zip(items.tolist(), vectors, categories, strict=True)}


def compare(rng: np.random.Generator, shop: Shop, index: CategoryIndex, batch: int, asked: int, k: int) -> None:
    """Every way of asking gives the oracle's answer."""
    short, interests = whole_numbers(rng, batch), whole_numbers(rng, batch, asked)
    categories = rng.integers(-1, 6, (batch, asked))
    exclude = rng.integers(0, index.num_items + 3, (batch, rng.integers(0, 6)))
    queries, inside, names = (torch.from_numpy(a) for a in (short, interests, categories))
    for seen in (None, exclude):
        out_of = None if seen is None else torch.from_numpy(seen)
        found = index.search_all(queries, inside, names, k + 1, k, exclude=out_of, with_mass=True)
        lists = [[]] * batch if seen is None else seen.tolist()
        expected = [shop.best(q, k + 1, None, out) for q, out in zip(short, lists, strict=True)]
        assert found.short_items.tolist() == [items for items, _ in expected]
        assert found.short_scores.tolist() == [scores for _, scores in expected]
        each = [
            [shop.best(q, k, int(c), out) for q, c in zip(rows, of, strict=True)]
            for rows, of, out in zip(interests, categories, lists, strict=True)
        ]
        assert found.items.tolist() == [[items for items, _ in row] for row in each]
        assert found.scores.tolist() == [[scores for _, scores in row] for row in each]
        assert found.filled.tolist() == [[np.count_nonzero(items) for items, _ in row] for row in each]
        assert found.short_filled.tolist() == [np.count_nonzero(items) for items, _ in expected]
        assert found.log_mass is not None
        for row, of, mass in zip(interests, categories.tolist(), found.log_mass.tolist(), strict=True):
            for query, category, told in zip(row, of, mass, strict=True):
                own = [float(query @ v) for v, c in shop.stock.values() if c == category > 0]
                assert told == pytest.approx(np.logaddexp.reduce(own) if own else -np.inf, rel=1e-5, abs=1e-5)
        one_by_one = index.search_all(queries, inside, names, k + 1, k, exclude=out_of, deadline=np.inf)
        assert one_by_one.searched == found.searched == asked
        assert torch.equal(one_by_one.items, found.items)
        assert torch.equal(one_by_one.short_items, found.short_items)
        assert torch.equal(one_by_one.scores, found.scores)
    available = rng.random(index.num_items + 1) < 0.5
    half = Shop({i: row for i, row in shop.stock.items() if available[i]})
    items, _ = index.search(queries, k, exclude=torch.from_numpy(exclude), available=torch.from_numpy(available))
    assert items.tolist() == [half.best(q, k, None, s.tolist())[0] for q, s in zip(short, exclude, strict=True)]


sizes = st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(1, 12))


@given(
    st.integers(0, 2**31),
    st.integers(0, 20),
    sizes,
    st.integers(0, 6),
    st.sampled_from([0, 2, 100]),
    st.sampled_from([1, 7, 2**21]),
)
@settings(deadline=None, max_examples=120)
def test_lists_are_those_of_a_loop_whatever_came_and_went(
    seed: int, count: int, size: tuple[int, int, int], changes: int, added_rows: int, block_scores: int
) -> None:
    rng = np.random.default_rng(seed)
    shop, index = opened(rng, count, added_rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_SCORES", block_scores)
        compare(rng, shop, index, *size)
        for _ in range(changes):
            change(rng, shop, index)
            compare(rng, shop, index, *size)


def test_after_the_deadline_no_further_category_is_begun() -> None:
    _, index = opened(np.random.default_rng(0), 20)
    vectors, categories = torch.ones(2, 3, WIDTH), torch.tensor([[1, 2, 3], [3, 1, 2]])
    all_of = index.search_all(vectors[:, 0], vectors, categories, 5, 4)
    late = index.search_all(vectors[:, 0], vectors, categories, 5, 4, deadline=0.0, with_mass=True)
    assert late.searched == 1
    assert torch.equal(late.items[:, 0], all_of.items[:, 0])
    assert torch.equal(late.short_items, all_of.short_items)
    assert not late.items[:, 1:].any()
    assert late.filled[:, 1:].tolist() == [[0, 0], [0, 0]]
    assert all_of.log_mass is None
    assert late.log_mass is not None
    assert torch.isneginf(late.log_mass[:, 1:]).all()
    assert (all_of.filled > 0).all()


def test_real_vectors_find_what_exact_search_of_the_category_finds() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(301, 8, generator=generator)
    categories = torch.randint(0, 5, (301,), generator=generator)
    query = torch.randn(1, 4, 8, generator=generator)
    index = CategoryIndex(vectors, categories)
    lists = index.search_all(query[:, 0], query, torch.tensor([[1, 2, 3, 4]]), 10, 10)
    for c in range(1, 5):
        members = (categories == c).nonzero()[:, 0]
        members = members[members > 0]
        block = torch.cat([torch.zeros(1, 8), vectors[members]])
        found, expected = ExactIndex(block).search(query[:, c - 1], 10)
        assert lists.items[0, c - 1].tolist() == members[found[0] - 1].tolist()
        torch.testing.assert_close(lists.scores[0, c - 1], expected[0])


def test_it_is_an_index_and_says_whether_it_is_exact() -> None:
    class Rough(ExactIndex):
        is_exact = False

    index: Index = CategoryIndex(torch.ones(4, 3), torch.tensor([0, 1, 1, 2]))
    assert (index.is_exact, index.num_items, index.width) == (True, 3, 3)
    assert not CategoryIndex(torch.ones(4, 3), torch.tensor([0, 1, 1, 2]), whole=Rough).is_exact


def short_of_lists() -> tuple[CategoryIndex, Found]:
    """Ten items; category 1 has two of them, and the request asks for 1, for one that nobody knows, and for none."""
    vectors = torch.arange(11.0)[:, None]
    index = CategoryIndex(vectors, torch.tensor([0, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2]))
    found = index.search_all(torch.ones(1, 1), torch.ones(1, 3, 1), torch.tensor([[1, 77, 0]]), 8, 4)
    return index, found


def test_an_unknown_category_and_a_small_one_are_reported() -> None:
    _, found = short_of_lists()
    assert found.items.tolist() == [[[2, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]]
    assert found.filled.tolist() == [[2, 0, 0]]
    assert found.short_filled.tolist() == [8]


def test_the_merge_refills_what_categories_lack() -> None:
    _, found = short_of_lists()
    lists = [Candidates.of_channel("short", found.short_items, found.short_scores)]
    lists += [Candidates.of_channel(f"interest {c}", found.items[:, c], found.scores[:, c]) for c in range(3)]
    merged = merge_quota(lists, [2, 2, 2, 2], 8)
    assert merged.items[0, :4].tolist() == [10, 2, 9, 1]  # the quotas, rank by rank
    assert merged.items[0, 4:].tolist() == [8, 7, 6, 5]  # the whole corpus goes on where its quota ended


def test_more_interests_than_categories_are_answered_one_by_one() -> None:
    index, _ = short_of_lists()
    found = index.search_all(torch.ones(1, 1), torch.ones(1, 6, 1), torch.tensor([[1, 2, 1, 2, 1, 9]]), 1, 2)
    assert found.items.tolist() == [[[2, 1], [10, 9], [2, 1], [10, 9], [2, 1], [0, 0]]]


def test_seen_items_make_room_for_the_next() -> None:
    index, _ = short_of_lists()
    exclude = torch.tensor([[10, 0, 9, 9, 2]])
    found = index.search_all(torch.ones(1, 1), torch.ones(1, 2, 1), torch.tensor([[2, 1]]), 3, 3, exclude=exclude)
    assert found.short_items.tolist() == [[8, 7, 6]]
    assert found.items.tolist() == [[[8, 7, 6], [1, 0, 0]]]


def test_an_item_moves_with_its_new_vector_and_category() -> None:
    index, _ = short_of_lists()
    index.add(torch.tensor([3, 11]), torch.tensor([[50.0], [40.0]]), torch.tensor([1, 0]))
    both = torch.tensor([[1, 2]])
    for _ in range(2):  # beside the blocks, then in them
        found = index.search_all(torch.ones(1, 1), torch.ones(1, 2, 1), both, 3, 8)
        assert found.short_items.tolist() == [[3, 11, 10]]
        assert found.items[0].tolist() == [[3, 2, 1, 0, 0, 0, 0, 0], [10, 9, 8, 7, 6, 5, 4, 0]]
        index.fold()


def test_vectors_given_may_be_changed_afterwards() -> None:
    index = CategoryIndex(torch.ones(3, 1), torch.tensor([0, 1, 1]))
    vectors = torch.tensor([[5.0]])
    index.add(torch.tensor([1]), vectors, torch.tensor([1]))
    vectors.fill_(-1)
    assert index.search(torch.ones(1, 1), 1)[1].item() == 5


def test_a_mask_from_before_an_item_came_does_not_find_it() -> None:
    index = CategoryIndex(torch.ones(3, 1), torch.tensor([0, 1, 1]))
    before = torch.ones(3, dtype=torch.bool)
    index.add(torch.tensor([3]), torch.tensor([[9.0]]), torch.tensor([1]))
    assert index.search(torch.ones(1, 1), 3, available=before)[0].tolist() == [[1, 2, 0]]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_vectors_that_cannot_be_compared_are_refused_by_row_and_change_nothing(value: float) -> None:
    index = CategoryIndex(torch.ones(3, 2), torch.tensor([0, 1, 1]))
    bad = torch.ones(1, 3, 2)
    bad[0, 1, 0] = value
    with pytest.raises(ValueError, match="after row 0: row 0 of 2"):
        CategoryIndex(bad[0], torch.tensor([0, 1, 1]))
    with pytest.raises(ValueError, match="query row 1 of 3"):
        index.search(bad[0], 1)
    with pytest.raises(ValueError, match="query row 1 of 3"):
        index.search_all(torch.ones(1, 2), bad, torch.tensor([[1, 1, 1]]), 1, 1)
    with pytest.raises(ValueError, match="added vectors: row 1 of 3"):
        index.add(torch.tensor([1, 2, 3]), bad[0], torch.tensor([1, 1, 1]))
    assert index.num_items == 2
    assert index.search(torch.ones(1, 2), 3)[0].tolist() == [[1, 2, 0]]


def test_products_that_overflow_to_nan_are_refused() -> None:
    index = CategoryIndex(torch.full((9, 2), 3e38), torch.ones(9, dtype=torch.int64))
    opposite = torch.tensor([[3e38, -3e38]])
    for k in (1, 20):
        with pytest.raises(ValueError, match="a score is NaN"):
            index.search_all(torch.zeros(1, 2), opposite[None], torch.tensor([[1]]), 1, k)
        with pytest.raises(ValueError, match="a score is NaN"):
            index.search(opposite, k)


def test_misuse_is_refused() -> None:
    index = CategoryIndex(torch.ones(3, 2), torch.tensor([0, 1, 1]))
    one = torch.ones(1, 2)
    with pytest.raises(ValueError, match="row 0"):
        CategoryIndex(torch.ones(0, 2), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="category -3 in row 1"):
        CategoryIndex(torch.ones(3, 2), torch.tensor([0, 1, -3]))
    with pytest.raises(ValueError, match="category -3 in row 0"):
        index.add(torch.tensor([1]), one, torch.tensor([-3]))
    with pytest.raises(ValueError, match="width 3"):
        index.add(torch.tensor([1]), torch.ones(1, 3), torch.tensor([1]))
    with pytest.raises(ValueError, match="item 3 is added twice"):
        index.add(torch.tensor([3, 3]), torch.ones(2, 2), torch.tensor([1, 1]))
    with pytest.raises(ValueError, match="item 5 cannot be added before item 4"):
        index.add(torch.tensor([5]), one, torch.tensor([1]))
    with pytest.raises(ValueError, match="item 0 cannot be added"):
        index.add(torch.tensor([0]), one, torch.tensor([1]))
    with pytest.raises(ValueError, match="item 3 cannot be removed"):
        index.remove(torch.tensor([1, 3]))
    with pytest.raises(ValueError, match="k 0"):
        index.search_all(one, one[None], torch.tensor([[1]]), 1, 0)
    with pytest.raises(ValueError, match="k 0"):
        index.search_all(one, one[None], torch.tensor([[1]]), 0, 1)
    with pytest.raises(ValueError, match="width 3"):
        index.search_all(torch.ones(1, 3), torch.ones(1, 1, 3), torch.tensor([[1]]), 1, 1)
    with pytest.raises(TypeCheckError):
        index.search_all(one, one[None], torch.tensor([[1]]), 1, 1, exclude=torch.ones(2, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="5 flags"):
        index.search(one, 1, available=torch.ones(5, dtype=torch.bool))


def test_readers_see_all_of_a_write_or_nothing_of_it() -> None:
    """A writer moves the same two items to and fro, as one; no list ever shows them in different places."""
    count = 40
    index = CategoryIndex(torch.ones(count + 1, 1), torch.ones(count + 1, dtype=torch.int64), added_rows=3)
    moved, categories = torch.tensor([7, 8]), torch.tensor([[1, 2]])
    stop, torn, reads = Event(), [], 0

    def write() -> None:
        for step in range(150):
            index.add(moved, torch.full((2, 1), 10.0 + step), torch.full((2,), 1 + step % 2))
            if step % 5 == 0:
                index.remove(moved)
            if step % 7 == 0:  # more than three wait: folded in
                index.add(torch.arange(1, 5), torch.ones(4, 1), torch.ones(4, dtype=torch.int64))
        stop.set()

    writer = Thread(target=write)
    writer.start()
    while not stop.is_set() or reads < 3:
        found = index.search_all(torch.ones(1, 1), torch.ones(1, 2, 1), categories, 2, 2)
        reads += 1
        scores, lists = found.short_scores[0].tolist(), [found.short_items[0].tolist(), *found.items[0].tolist()]
        holds = [set(items) == {7, 8} for items in lists]
        split = any(len({7, 8} & set(items)) == 1 for items in lists)
        if split or len(set(scores)) > 1 or holds[0] != (holds[1] or holds[2]) or (holds[1] and holds[2]):
            torn.append((lists, scores))
    writer.join()
    assert torn == []
