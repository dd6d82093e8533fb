"""Every release of the Amazon reviews and its variants, made up here in miniature, in their true layouts."""

from __future__ import annotations

import gzip
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from penchant.data.prepare import prepare
from penchant.data.sources.amazon.products import LONGEST, LONGEST_LITERAL
from penchant.data.sources.amazon.reviews import CORE, Amazon, read
from penchant.data.store import Store
from penchant.errors import ConfigError, DataError

QUIET = Console(quiet=True)
DAY = 86_400
LAMP, SHOE, BOOK = "B00000LAMP", "B00000SHOE", "0000000042"
USER_1, USER_2 = "A1EXAMPLEUSER1", "A2EXAMPLEUSER2"

# User, product, stars, seconds: the same reviews in every release.
REVIEWS = [(USER_1, LAMP, 5, 20 * DAY), (USER_1, SHOE, 2, 20 * DAY), (USER_2, LAMP, 4, 30 * DAY)]
START = 1_300_000_000 // DAY * DAY


def old_review(user: str, product: str, stars: float, seconds: int, **more: object) -> dict[str, Any]:
    when = {"unixReviewTime": START + seconds, "reviewTime": "03 13, 2011"}
    return {"reviewerID": user, "asin": product, "reviewText": 'So "so", so', "overall": float(stars), **when, **more}


def new_review(user: str, product: str, stars: float, seconds: int) -> dict[str, Any]:
    ids = {"asin": f"{product[:-1]}V", "parent_asin": product, "user_id": user}
    rest = {"title": "Fine", "text": "So, so", "images": [], "helpful_vote": 0, "verified_purchase": True}
    return {"rating": float(stars), **rest, **ids, "timestamp": (START + seconds) * 1000}


def lines(records: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(r) + "\n" for r in records)


REVIEW_FILES = {
    "2014": ("reviews_Home_5.json", lines([old_review(*r, helpful=[0, 1], summary="x") for r in REVIEWS])),
    "2018": ("Home_5.json", lines([old_review(*r, verified=True, vote="2", style={"Size:": " 5"}) for r in REVIEWS])),
    "2023": ("Home.jsonl", lines([new_review(*r) for r in REVIEWS])),
}
RATING_FILES = {
    "2014": ("ratings_Home.csv", "".join(f"{u},{p},{s:.1f},{START + t}\n" for u, p, s, t in REVIEWS)),
    "2018": ("Home.csv", "".join(f"{p},{u},{s:.1f},{START + t}\n" for u, p, s, t in REVIEWS)),
    "2023": (
        "Home.csv",
        "user_id,parent_asin,rating,timestamp\n"
        + "".join(f"{u},{p},{s:.1f},{(START + t) * 1000}\n" for u, p, s, t in REVIEWS),
    ),
}

PRODUCTS_2014 = [
    {
        "asin": LAMP,
        "title": "Nell's Lamp &amp; Shade",
        "description": "Bright.\nWarm",
        "price": 1203.5,
        "imUrl": "http://images.example/lamp.jpg",
        "salesRank": {"Home": 7},
        "related": {"also_bought": [SHOE]},
        "categories": [["Home", "Light"], ["Home", "Light", "Lamps"], ["Gifts", "For", "Her"]],
        "brand": "Glow",
    },
    {"asin": SHOE, "title": "Shoe", "categories": [["Wear"]]},
    {"asin": BOOK, "categories": [[]]},
]
PRODUCT_2018 = {
    "category": ["Home", "Light", "Lamps", "</span></span></span>"],
    "tech1": "",
    "description": ["Bright.", "", "<b>Warm</b>"],
    "fit": "",
    "title": "Nell&#39;s Lamp &amp; Shade",
    "also_buy": [],
    "brand": "Glow",
    "feature": ["60 W"],
    "rank": "7 in Home (",
    "main_cat": "Home",
    "price": "$1,203.50",
    "asin": LAMP,
    "imageURL": ["http://images.example/lamp._SS40_.jpg"],
    "imageURLHighRes": ["http://images.example/lamp.jpg"],
}
PRODUCTS_2018 = [
    PRODUCT_2018,
    {**PRODUCT_2018, "asin": SHOE, "title": "var t = new Date().getTime();", "category": [], "price": ".a-box{}"}
    | {"imageURLHighRes": [], "imageURL": []},
    {"asin": BOOK, "main_cat": '<img src="x.png" alt="Books"/>', "price": "$1.00 - $2.00", "image": ["http://i/1.jpg"]},
]
PRODUCTS_2023 = [
    {
        "main_category": "Tools & Home",
        "title": "Nell's Lamp & Shade",
        "average_rating": 4.5,
        "rating_number": 2,
        "features": ["60 W"],
        "description": ["Bright.", "Warm"],
        "price": 1203.5,
        "images": [
            {"thumb": "http://images.example/back._SS40_.jpg", "large": "http://i/back.jpg", "variant": "PT01"},
            {"thumb": "http://images.example/t.jpg", "large": "http://images.example/lamp.jpg", "variant": "MAIN"},
        ],
        "videos": [],
        "store": "Glow",
        "categories": ["Home", "Light", "Lamps"],
        "details": {},
        "parent_asin": LAMP,
        "bought_together": None,
    },
    {"main_category": "Wear", "title": "Shoe", "price": "None", "images": [], "categories": [], "parent_asin": SHOE},
    {"title": None, "images": [{"thumb": "http://i/1.jpg", "large": None}], "parent_asin": BOOK},
]
PRODUCT_FILES = {
    "2014": "".join(f"{p!r}\n" for p in PRODUCTS_2014),  # Python literals, as the release has them
    "2014-json": lines(PRODUCTS_2014),
    "2018": lines(PRODUCTS_2018),
    "2023": lines(PRODUCTS_2023),
}


def write(folder: Path, name: str, content: str, zipped: bool = False) -> Path:
    path = folder / (f"{name}.gz" if zipped else name)
    path.write_bytes(gzip.compress(content.encode()) if zipped else content.encode())
    return path


def store_of(options: Amazon, tmp_path: Path) -> Store:
    return prepare(read(options), tmp_path / "store", console=QUIET)


@pytest.mark.parametrize(("files", "zipped"), [(REVIEW_FILES, True), (RATING_FILES, False)], ids=["json", "csv"])
@pytest.mark.parametrize("release", ["2014", "2018", "2023"])
def test_every_release_and_its_ratings_give_the_same_events(
    release: str, files: dict[str, tuple[str, str]], zipped: bool, tmp_path: Path
) -> None:
    store = store_of(Amazon(write(tmp_path, *files[release], zipped)), tmp_path)
    assert store.item_ids == ["", LAMP, SHOE]
    assert store.user_ids == ["", USER_1, USER_2]
    assert store.event_item.tolist() == [1, 2, 1]
    assert store.event_ts_ms.tolist() == [(START + t) * 1000 for *_, t in REVIEWS]
    assert set(store.table("events")["action"].to_pylist()) == {"rate"}
    assert store.num_requests == 0
    assert store.manifest["refused"] == []
    label = files[release][0] + ".gz" * zipped
    assert f"{label} was read as reviews of {release}, told from its content." in store.manifest["notes"]
    assert store.name == f"amazon-{release}-{'Home_5' if '_5' in label else 'Home'}-all"


@pytest.mark.parametrize("release", PRODUCT_FILES)
def test_the_products_of_every_release_are_alike(release: str, tmp_path: Path) -> None:
    metadata = write(tmp_path, "meta_Home.json", PRODUCT_FILES[release], zipped=release != "2014-json")
    store = store_of(Amazon(write(tmp_path, *REVIEW_FILES[release[:4]]), metadata), tmp_path)
    assert store.manifest["refused"] == []
    assert f"{metadata.name} was read as metadata of {release[:4]}, by its keys." in store.manifest["notes"]
    lamp, shoe, book = store.table("items").to_pylist()
    assert (lamp["item_id"], shoe["item_id"], book["item_id"]) == (LAMP, SHOE, BOOK)
    assert lamp["title"] == "Nell's Lamp & Shade"
    assert lamp["text"] == ("Bright. Warm" if release.startswith("2014") else "Bright. Warm 60 W")
    assert lamp["category_path"] == "Home > Light > Lamps"
    assert (lamp["brand"], lamp["price"], lamp["image_url"]) == ("Glow", 1203.5, "http://images.example/lamp.jpg")
    assert shoe["category_path"] == ("Home" if release == "2018" else "Wear")
    assert (shoe["price"], shoe["image_url"], book["price"], book["title"]) == (None, None, None, None)
    assert book["category_path"] is None
    assert book["image_url"] == (None if release.startswith("2014") else "http://i/1.jpg")
    scripts = "1 titles of meta_Home.json" in " ".join(store.manifest["notes"])
    assert scripts == (release == "2018")
    assert shoe["title"] == (None if release == "2018" else "Shoe")


def test_liked_clicks_on_four_stars_and_shows_every_review(tmp_path: Path) -> None:
    store = store_of(Amazon(write(tmp_path, *REVIEW_FILES["2018"]), view="liked"), tmp_path)
    shown = store.table("impressions")
    assert store.table("events")["item"].to_pylist() == [1, 1]
    assert shown["item"].to_pylist() == [1, 2, 1]
    assert shown["label"].to_pylist() == [1, 0, 1]
    assert shown["request"].to_pylist() == [1, 1, 2]
    assert set(shown["source"].to_pylist()) == {"rated_low"}


def test_the_earliest_of_repeated_reviews_is_taken(tmp_path: Path) -> None:
    again = [(USER_1, LAMP, 1, 50 * DAY), (USER_1, LAMP, 1, 10 * DAY), (USER_1, LAMP, 5, 10 * DAY)]
    content = lines([old_review(*r, helpful=[0, 0]) for r in [*REVIEWS, *again]])
    store = store_of(Amazon(write(tmp_path, "r.json", content), view="liked"), tmp_path)
    assert store.table("impressions")["label"].to_pylist() == [0, 0, 1]  # of equal times the first line
    assert "3 reviews of a product its user had reviewed before were left out" in str(store.manifest["notes"])


def test_bad_lines_and_missing_keys_are_refused_with_their_line(tmp_path: Path) -> None:
    bad: list[dict[str, Any]] = [
        {k: v for k, v in old_review(USER_1, BOOK, 5, 0).items() if k != "reviewerID"},
        {k: v for k, v in old_review(USER_1, BOOK, 5, 0).items() if k != "asin"},
        old_review(USER_1, BOOK, 5, 0) | {"overall": "good"},
        old_review(USER_1, BOOK, 5, 0) | {"unixReviewTime": None},
        old_review(USER_1, BOOK, 5, 0) | {"unixReviewTime": 12},
    ]
    path = write(tmp_path, "r.json", REVIEW_FILES["2014"][1] + lines(bad) + "{'asin': 'x'}\n")
    store = store_of(Amazon(path, view="liked"), tmp_path)
    refused = {r["reason"]: r for r in store.manifest["refused"]}
    assert {reason: r["count"] for reason, r in refused.items()} == {
        "not a JSON object": 1,
        "user_id is missing": 1,
        "item_id is missing": 1,
        "rating is not a number": 1,
        "time is missing": 1,
        "time is before 1990 or after 2100": 1,
    }
    assert refused["user_id is missing"]["samples"] == ["r.json line 4: user_id = None"]
    assert refused["rating is not a number"]["samples"] == ["r.json line 6: rating = 'good'"]
    assert refused["not a JSON object"]["samples"] == ["r.json line 9: \"{'asin': 'x'}\""]
    assert store.num_events == 2


def test_a_review_without_a_parent_is_of_its_product(tmp_path: Path) -> None:
    reviews = [new_review(*r) for r in REVIEWS]
    del reviews[1]["parent_asin"]
    store = store_of(Amazon(write(tmp_path, "r.jsonl", lines(reviews))), tmp_path)
    assert store.item_ids == ["", LAMP, "B00000SHOV"]


@pytest.mark.parametrize(
    "line",
    [
        "{'asin': 'B', 'title': __import__('os').getcwd()}",
        "{'asin': open('x')}",
        "{'asin': 'cut",
        "[" * 100_000,
        "-" * 100_000 + "1",
        "(" * 100 + "1" + ")" * 100,
        "{'asin': {}: 1}",
        "{[]: 1}",
        "null",
        "1",
        "{'a': '\x00'}",
        "{'asin': 'B', 'title': '" + "x" * LONGEST_LITERAL + "'}",
    ],
)
def test_a_line_that_is_no_product_is_refused_and_never_run(line: str, tmp_path: Path) -> None:
    metadata = write(tmp_path, "meta.json", f"{line}\n\n" + PRODUCT_FILES["2014"])
    raw = read(Amazon(write(tmp_path, *REVIEW_FILES["2014"]), metadata))
    assert raw.items is not None
    assert raw.items["item_id"].to_pylist() == [LAMP, SHOE, BOOK]
    (refused,) = raw.refused
    assert refused.reason == "neither a JSON object nor a Python literal of one"
    assert refused.samples[0].startswith("meta.json line 1: ")


def test_products_that_cannot_be_used_are_refused_with_their_line(tmp_path: Path) -> None:
    wrong = b'\xff\xfe\n{"title": "x"}\n\n' + lines([PRODUCTS_2014[1]]).encode()
    metadata = tmp_path / "meta.json"
    metadata.write_bytes(wrong + PRODUCT_FILES["2014"].encode())
    store = store_of(Amazon(write(tmp_path, *REVIEW_FILES["2014"]), metadata), tmp_path)
    refused = {r["reason"]: r["samples"] for r in store.manifest["refused"]}
    assert refused["broken line: letters that are not UTF-8"][0].startswith("meta.json line 1: ")
    assert refused["item_id is missing"] == ["meta.json line 2: item_id = None"]
    assert refused["item_id is listed twice"] == [f"meta.json line 6: item_id = {SHOE!r}"]


def test_half_a_letter_is_left_out(tmp_path: Path) -> None:
    metadata = write(tmp_path, "meta.json", f'{{"asin": "{LAMP}", "title": "Lamp \\ud83d", "price": NaN}}\n')
    (lamp, *_) = store_of(Amazon(write(tmp_path, *REVIEW_FILES["2014"]), metadata), tmp_path).table("items").to_pylist()
    assert (lamp["title"], lamp["price"]) == ("Lamp", None)


def test_what_is_of_no_release_is_said_with_what_was_found(tmp_path: Path) -> None:
    reviews, cut = write(tmp_path, *REVIEW_FILES["2014"]), lines([{"reviewerID": "u", "asin": "b", "stars": 3}])
    wrong = {
        "cut.json": (cut, r"cut\.json: not a file of Amazon reviews: found asin, reviewerID, stars\. Reviews have"),
        "bad.json": ("{'reviewerID': 'u'}\n", r"bad\.json line 1: .*: no line is a JSON object\. "),
        "two.csv": ("u,b\n", r"two\.csv: not a file of Amazon reviews: found 1, 2\. "),
        "ids.csv": ("u,b,5.0,1\n", r"ids\.csv: not a file of Amazon reviews: found 1, 2, 3, 4\. "),
    }
    for name, (content, message) in wrong.items():
        with pytest.raises(DataError, match=message):
            read(Amazon(write(tmp_path, name, content)))
    wrong = {
        "reviews.json": (REVIEW_FILES["2023"][1], r"reviews\.json: not Amazon's metadata: found asin, .*user_id"),
        "other.json": ('{"sku": 1}\n', r"other\.json: not Amazon's metadata: found sku\. A product has asin"),
        "text.json": ("hello\n", r"text\.json: not Amazon's metadata: found text\.json line 1: "),
        "long.json": ("x" * (LONGEST + 1), r"long\.json line 1: over 10,000,000 bytes long\. Each line is"),
    }
    for name, (content, message) in wrong.items():
        with pytest.raises(DataError, match=message):
            read(Amazon(reviews, write(tmp_path, name, content)))
    with pytest.raises(DataError, match=r"none\.json: no such file\. The folder has: "):
        read(Amazon(reviews, tmp_path / "none.json"))


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, format="JPEG")
    return buffer.getvalue()


def test_pictures_come_from_the_folder_alone(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, content in {LAMP: jpeg(), SHOE: b"no picture", "B0UNKNOWN0": jpeg()}.items():
        (folder / f"{name}.jpg").write_bytes(content)
    reviews, metadata = (
        write(tmp_path, *REVIEW_FILES["2014"]),
        write(tmp_path, "m.json", PRODUCT_FILES["2014"]),
    )
    store = store_of(Amazon(reviews, metadata, images=folder), tmp_path)
    assert store.table("items")["image"].to_pylist() == [jpeg(), None, None]
    (refused,) = store.manifest["refused"]
    assert refused["samples"] == [f"pictures/{SHOE}.jpg: image = '{SHOE}.jpg'"]
    assert "1 of 3 products have a picture." in store.manifest["notes"]
    with pytest.raises(DataError, match=r"nowhere: no such folder\. --images wants a folder of <asin>\.jpg"):
        read(Amazon(reviews, metadata, images=tmp_path / "nowhere"))


def test_options_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, *REVIEW_FILES["2014"])
    with pytest.raises(ConfigError, match=r"--images: needs the products\. Give --metadata too"):
        read(Amazon(path, images=tmp_path))
    for options in (Amazon(path, path, category_queries=True, view="liked"), Amazon(path, category_queries=True)):
        with pytest.raises(ConfigError, match=r"--category-queries: needs the products, and --view all"):
            read(options)


def test_category_queries_are_the_words_of_the_path(tmp_path: Path) -> None:
    metadata = write(tmp_path, "m.json", PRODUCT_FILES["2023"])
    options = Amazon(write(tmp_path, *REVIEW_FILES["2023"]), metadata, category_queries=True)
    store = store_of(options, tmp_path)
    texts = ["", *store.table("queries")["text"].to_pylist()]
    assert [texts[q] for q in store.table("events")["query"].to_pylist()] == [
        "home light lamps",
        "wear",
        "home light lamps",
    ]


def core_of(pairs: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """The k-core, one pair at a time."""
    while True:
        users, items = Counter(u for u, _ in pairs), Counter(i for _, i in pairs)
        few = [(u, i) for u, i in pairs if users[u] < CORE or items[i] < CORE]
        if not few:
            return pairs
        pairs = pairs - {few[0]}


SIDE = 8
ALL_PAIRS = {(u, i) for u in range(SIDE) for i in range(SIDE)}


@settings(deadline=None, max_examples=10)
@given(
    st.sets(st.tuples(st.integers(0, SIDE - 1), st.integers(0, SIDE - 1)), max_size=26),
    st.lists(st.tuples(st.integers(0, SIDE + 3), st.integers(0, SIDE + 3)), max_size=12),
)
def test_the_five_core_is_that_of_a_loop(
    tmp_path_factory: pytest.TempPathFactory, missing: set[tuple[int, int]], more: list[tuple[int, int]]
) -> None:
    pairs = [*sorted(ALL_PAIRS - missing), *more]  # `more` repeats some, which count once
    content = "".join(f"A{u:013},B{i:09},5.0,{START + n}\n" for n, (u, i) in enumerate(pairs))
    path = write(tmp_path_factory.mktemp("core"), "ratings_x.csv", content)
    expected = {(f"A{u:013}", f"B{i:09}") for u, i in core_of(set(pairs))}
    if not expected:
        with pytest.raises(DataError, match=r"no user and item have 5 reviews among each other\. Leave out"):
            read(Amazon(path, five_core=True))
        return
    raw = read(Amazon(path, five_core=True))
    assert set(raw.work.rows("SELECT user_id, item_id FROM raw_events")) == expected
    assert raw.work.value("SELECT count(*) FROM raw_events") == len(expected)
    raw.work.close()


def test_the_five_core_says_what_it_left_out_and_takes_its_products_alone(tmp_path: Path) -> None:
    core = [(f"A{u:013}", f"B{i:09}", 3, u) for u in range(5) for i in range(5)]
    # A user of the core who rates a product outside it, and one outside who has 5 reviews, but of such products too.
    outside = [(core[0][0], LAMP, 5, 9), *((USER_1, f"B{i:09}", 5, 9) for i in range(4)), (USER_1, SHOE, 5, 9)]
    content = lines([old_review(*r, verified=True) for r in [*core, *outside]])
    products = [{"asin": LAMP, "category": []}, *({"asin": f"B{i:09}", "category": []} for i in range(5))]
    metadata = write(tmp_path, "meta.json", lines(products))
    store = store_of(Amazon(write(tmp_path, "Home.json", content), metadata, five_core=True), tmp_path)
    assert (store.num_events, store.num_users, store.num_items) == (25, 5, 5)
    assert (
        "The 5-core has 25 of 31 reviews, 5 of 6 users, 5 of 7 items; the others were left out."
        in (store.manifest["notes"])
    )
    assert "1 products of meta.json without a review in the 5-core were left out." in store.manifest["notes"]
    assert store.name == "amazon-2018-Home-core-all"


def test_rows_that_are_refused_do_not_hold_up_the_core(tmp_path: Path) -> None:
    rows = [(f"A{u:013}", f"B{i:09}", 3, u) for u in range(6) for i in range(5)]
    records = [old_review(*r, helpful=[0, 0]) for r in rows]
    for record in records[:2]:
        record["unixReviewTime"] = None  # the first user is left with 3
    raw = read(Amazon(write(tmp_path, "r.json", lines(records)), five_core=True))
    assert raw.work.value("SELECT count(DISTINCT user_id) FROM raw_events") == 5
