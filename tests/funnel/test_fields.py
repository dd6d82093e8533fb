"""Fields: a shop's own columns, by name; what is missing, unseen or of the wrong kind has a stated answer."""

from __future__ import annotations

import math
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from penchant.baselines.ranking.parts import FieldEmbedding
from penchant.data.history import Requests
from penchant.data.split import Split, load_split
from penchant.data.store import Store
from penchant.errors import ConfigError
from penchant.funnel.features import Features, RankInputs
from penchant.funnel.fields import MOST_VALUES, Field, Fields
from penchant.models import Sizes
from penchant.recipes import controls
from penchant.recipes.judge import judge_run
from penchant.recipes.named import RECIPES, recipe_of
from penchant.recipes.runs import RankingRun, load_features, load_run, train_run
from tests.factories import give_columns, give_vectors, make_store

ITEMS, USERS = 80, 60
GENRES = [["wool"], ["oak", "steel"], [], ["oak", "oak", None]]
EVERY = ("user.gender", "user.zip:hash50", "user.age", "item.genres", "item.price", "item.year:category", "time.hour")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = make_store(tmp_path_factory.mktemp("fields") / "store")
    give_vectors(store)
    users: dict[str, list[Any]] = {
        "gender": [None if u % 5 == 0 else "fm"[u % 2] for u in range(USERS)],
        "zip": [f"{u:05}" for u in range(USERS)],
        "age": [20 + u for u in range(USERS)],
        "height": [None if u == 0 else "?" if u == 9 else str(150 + u) for u in range(USERS)],
    }
    items: dict[str, list[Any]] = {
        "genres": [GENRES[i % 4] for i in range(ITEMS)],
        "tags": [f"a{i % 3}| b |" for i in range(ITEMS)],
        "price": [None if i % 10 == 0 else math.inf if i == 1 else float(i) for i in range(ITEMS)],
        "year": [1990 + i % 7 for i in range(ITEMS)],
        "many": [[f"v{n}" for n in range(20 if i == 3 else 1)] for i in range(ITEMS)],
    }
    return give_columns(give_columns(store, "users", users), "items", items)


@pytest.fixture
def split(store: Store) -> Split:
    return load_split(store, "temporal-successive")


def request_of(users: list[int], times_ms: int = 0) -> Requests:
    empty = torch.zeros(len(users), 0, dtype=torch.int64)
    return Requests(torch.tensor(users), torch.full((len(users),), times_ms), empty, empty)


def in_train(store: Store, split: Split) -> tuple[np.ndarray, np.ndarray]:
    return split.stops("train") > split.starts("train"), split.item_counts(store, "train") > 0


def test_categories_lists_hashes_and_moments_become_codes(store: Store, split: Split) -> None:
    fields = Fields.fit(EVERY, store, split)
    assert [name for name, *_ in fields.coded] == [
        "user.gender",
        "user.zip",
        "item.genres",
        "item.year",
        "time.hour",
    ]
    assert fields.columns == (1, 1, 2, 1, 1)
    first = {name: at for name, at, _, _ in fields.coded}
    assert fields.num_codes == 3 + 51 + 4 + 8 + 25
    at = 3_600_000 * (24 * 100 + 13) + 5
    codes = fields.codes(request_of([7, 1], at), torch.tensor([[1, 2, 3, 4], [1, 0, 0, 0]]))
    gender = {"f": 1, "m": 2}
    assert codes[0, 0, 0] == first["user.gender"] + gender["f"]  # user 7 is row 6
    assert codes[1, 0, 0] == first["user.gender"]  # missing
    assert codes[0, 0, 1] == first["user.zip"] + 1 + zlib.crc32(b"00006") % 50
    oak, steel, wool = (first["item.genres"] + n for n in (1, 2, 3))
    assert codes[0, :, 2:4].tolist() == [[wool, 0], [oak, steel], [first["item.genres"], 0], [oak, 0]]
    assert codes[0, :, 5].tolist() == [first["time.hour"] + 1 + 13] * 4


def test_numbers_are_features_with_the_mean_of_the_train_window_where_they_are_missing(
    store: Store, split: Split
) -> None:
    fields = Fields.fit(EVERY, store, split)
    assert fields.numbers == ("user.age", "item.price", "item.price missing")
    values = fields.values(request_of([3, 0]), torch.tensor([[1, 2, 3, 0]] * 2))
    _, known = in_train(store, split)
    prices = [float(i) for i in range(ITEMS) if known[i + 1] and i % 10 and i != 1]
    assert values[0, :, 0].tolist() == [22.0] * 4
    assert values[0, 2].tolist() == [22.0, 2.0, 0.0]
    for column in (0, 1, 3):  # missing, infinite, no item
        assert values[0, column, 1] == pytest.approx(np.mean(prices), rel=1e-5)
        assert values[0, column, 2] == 1
    users, _ = in_train(store, split)
    assert values[1, 0, 0] == pytest.approx(np.mean([19 + u for u in range(1, USERS + 1) if users[u]]), rel=1e-5)
    assert any("item.price: 9 values are missing or not finite" in note for note in fields.notes)


def test_a_value_that_only_the_test_window_has_is_unknown(store: Store, split: Split) -> None:
    fields = Fields.fit(("user.zip",), store, split)
    users, _ = in_train(store, split)
    codes = fields.codes(request_of(list(range(USERS + 1))), torch.ones(USERS + 1, 1, dtype=torch.int64))[:, 0, 0]
    assert (~users[1:]).sum() > 0
    assert (codes[1:] == 1).tolist() == (~users[1:]).tolist()
    assert len(codes[1:][users[1:]].unique()) == users[1:].sum()
    assert any(f"user.zip: {(~users[1:]).sum()} values are of nobody" in note for note in fields.notes)
    later = fields.codes(request_of([USERS + 5]), torch.ones(1, 1, dtype=torch.int64))
    assert later.flatten().tolist() == [1]  # a user who came after the Store was made


def test_long_lists_are_cut_and_counted_and_text_is_divided(store: Store, split: Split) -> None:
    fields = Fields.fit(("item.many", "item.tags:list"), store, split)
    assert fields.columns == (MOST_VALUES, 2)
    assert "item.many: 1 lists of more than 16 values are cut." in fields.notes
    first = {name: at for name, at, _, _ in fields.coded}["item.tags"]
    assert fields.codes(request_of([1]), torch.tensor([[2]]))[0, 0, -2:].tolist() == [first + 2, first + 4]


def test_saved_fields_need_no_store(store: Store, split: Split, tmp_path: Path) -> None:
    features = Features.fit(store, split, fields=Fields.fit(EVERY, store, split))
    features.save(tmp_path)
    loaded = Features.load(tmp_path)
    requests, items = request_of([7, 1], 10**12), torch.tensor([[1, 2], [3, 0]])
    ours, theirs = features.of_items(requests, items), loaded.of_items(requests, items)
    assert torch.equal(ours.features, theirs.features)
    assert ours.codes is not None
    assert theirs.codes is not None
    assert torch.equal(ours.codes, theirs.codes)
    assert "item.price" in loaded.names


def test_a_field_is_one_vector_and_a_list_is_its_mean() -> None:
    torch.manual_seed(0)
    embed = FieldEmbedding(Sizes(num_items=3, num_codes=6, code_columns=(1, 3)), 4)
    codes = torch.tensor([[[1, 4, 6, 0], [2, 3, 0, 0]]])
    items = torch.tensor([[1, 2]])
    inputs = RankInputs(request_of([1]), items, torch.zeros(1, 2, 0), codes)
    got = embed(inputs)
    assert embed.table is not None
    w = embed.table.weight
    torch.testing.assert_close(got[0, 0], torch.stack([w[1], (w[4] + w[6]) / 2]))
    torch.testing.assert_close(got[0, 1], torch.stack([w[2], w[3]]))
    with pytest.raises(ValueError, match="reads fields"):
        embed(replace(inputs, codes=None))


RANKERS = [r.__name__ for r in RECIPES if isinstance(recipe_of(r.__name__), RankingRun)]


@pytest.mark.parametrize("name", RANKERS)
def test_every_ranker_reads_fields(store: Store, split: Split, tmp_path: Path, name: str) -> None:
    run = recipe_of(name)
    assert isinstance(run, RankingRun)
    train = replace(run.train, epochs=0.2, tensorboard=False, device="cpu")
    train_run(replace(run, fields=EVERY, train=train), store, split, tmp_path)
    loaded = load_run(tmp_path, device="cpu")
    assert 0 < judge_run(loaded, tmp_path).metrics()["AUC"] <= 1
    features = load_features(tmp_path)
    inputs = features.of_items(request_of([7], 10**12), torch.tensor([[5, 6]]))
    assert inputs.codes is not None
    model = loaded.model
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, FieldEmbedding) and module.table is not None:
                module.table.weight[1:].normal_()  # learned for a few steps only
    before = model(inputs)
    for column in range(inputs.codes.shape[2]):
        codes = inputs.codes.clone()
        codes[..., column] = codes[..., column] % features.fields.num_codes + 1  # pyright: ignore[reportOptionalMemberAccess]
        assert not torch.allclose(model(replace(inputs, codes=codes)), before), column


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gender", "'gender' is no field"),
        ("shop.name", "'shop.name' is no field"),
        ("user.", "'user.' is no field"),
        ("user.gender:colour", "'user.gender:colour' is no field"),
        ("user.gender:hash", "'user.gender:hash' is no field"),
        ("user.gender:hash0", "'user.gender:hash0' is no field"),
        ("time.minute", "There are hour, weekday"),
        ("time.hour:number", "is no field of time"),
        ("user.weight", "the Store's users have no column 'weight'. There are user.gender, user.zip, user.age"),
        ("user.height:number", r"user.height holds string, such as '\?', and is no number"),
        ("user.zip:number", r"user.zip holds string, such as '00000', .* or make every value a number"),
        ("user.gender:number", r"user.gender holds string, such as 'm', and is no number. Write user.gender:category"),
    ],
)
def test_what_is_no_field_is_refused_by_name(store: Store, split: Split, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Fields.fit((text,), store, split)


def test_a_field_twice_is_refused(store: Store, split: Split) -> None:
    with pytest.raises(ConfigError, match="Name each once"):
        Fields.fit(("user.age", "user.age:category"), store, split)


def test_kinds_go_by_type_unless_said() -> None:
    assert Field.parse("item.year:category") == Field("item", "year", "category")
    assert Field.parse("user.zip:hash50") == Field("user", "zip", "category", 50)
    assert Field.parse("item.price") == Field("item", "price")
    assert Field.parse("item.price").name == "item.price"
    assert recipe_of("din") == controls.din()
