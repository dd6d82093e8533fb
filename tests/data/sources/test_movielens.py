"""Every layout of MovieLens, made up here in miniature; the real 1M where it is at hand."""

from __future__ import annotations

import gzip
import io
import json
import time
import zipfile
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from penchant.data.prepare import prepare
from penchant.data.sources.movie_content import first_sentences
from penchant.data.sources.movielens import MovieLens, read
from penchant.data.store import Store
from penchant.errors import DataError

QUIET = Console(quiet=True)
NO_GENRES_100K = "|".join("0" * 19)
COMEDY_100K = "|".join("1" if g == 5 else "0" for g in range(19))

# The same three movies, two users and five ratings in each layout. User 2's ratings are listed last to first.
LAYOUTS = {
    "ml-100k": {
        "u.data": "1\t10\t5\t880000000\n1\t20\t2\t880000000\n2\t30\t4\t880000300\n"
        "2\t20\t4\t880000200\n2\t10\t1\t880000100\n",
        "u.item": f"10|Amélie (2001)|01-Jan-2001||http://x|{COMEDY_100K}\n20|Heat (1995)|||x|{NO_GENRES_100K}\n"
        f"30|unknown||||{NO_GENRES_100K}\n",
        "u.user": "1|24|M|technician|85711\n2|53|F|other|94043\n",
    },
    "ml-1m": {
        "ratings.dat": "1::10::5::880000000\n1::20::2::880000000\n2::30::4::880000300\n2::20::4::880000200\n"
        "2::10::1::880000100\n",
        "movies.dat": "10::Amélie (2001)::Comedy\n20::Heat (1995)::\n30::unknown::\n",
        "users.dat": "1::M::24::3::85711\n2::F::53::4::94043\n",
    },
    "ml-10m": {
        "ratings.dat": "1::10::5::880000000\n1::20::2::880000000\n2::30::4::880000300\n2::20::4.5::880000200\n"
        "2::10::0.5::880000100\n",
        "movies.dat": "10::Amélie (2001)::Comedy\n20::Heat (1995)::(no genres listed)\n30::unknown::\n",
    },
    "ml-25m": {
        "ratings.csv": "userId,movieId,rating,timestamp\n1,10,5.0,880000000\n1,20,2.0,880000000\n2,30,4.0,880000300\n"
        "2,20,4.5,880000200\n2,10,0.5,880000100\n",
        "movies.csv": "movieId,title,genres\n10,Amélie (2001),Comedy\n"
        '20,"Heat (1995)",(no genres listed)\n30,unknown,\n',
        "links.csv": "movieId,imdbId,tmdbId\n",
    },
    "ml-100k-from-wheel": {
        "ml-100k.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t10\t5\t880000000\n"
        "1\t20\t2\t880000000\n2\t30\t4\t880000300\n2\t20\t4\t880000200\n2\t10\t1\t880000100\n",
        "ml-100k.item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "10\tAmélie\t2001\tComedy\n20\tHeat\t1995\t\n30\tunknown\tunknown\t\n",
        "ml-100k.user": "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
        "1\t24\tM\ttechnician\t85711\n2\t53\tF\tother\t94043\n",
    },
}
LATIN_1 = ("ml-100k", "ml-1m")


def make(folder: Path, layout: str, zipped: bool) -> Path:
    encoding = "latin-1" if layout in LATIN_1 else "utf-8"
    inside = folder / layout
    if zipped:
        with zipfile.ZipFile(folder / "any-name.zip", "w") as archive:
            for name, content in LAYOUTS[layout].items():
                archive.writestr(f"{layout}/{name}", content.encode(encoding))
        return folder / "any-name.zip"
    inside.mkdir()
    for name, content in LAYOUTS[layout].items():
        (inside / name).write_bytes(content.encode(encoding))
    return inside


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_store(layout: str, zipped: bool, tmp_path: Path) -> None:
    store = prepare(read(MovieLens(str(make(tmp_path, layout, zipped)))), tmp_path / "store", console=QUIET)
    items = store.table("items")
    assert store.item_ids == ["", "10", "20", "30"]
    assert items["title"].to_pylist() == ["Amélie (2001)", "Heat (1995)", "unknown"]
    assert items["year"].to_pylist() == [2001, 1995, None]
    assert items["genres"].to_pylist() == ["Comedy", None, None]
    assert items["text"].to_pylist() == ["Comedy.", None, None]
    assert store.item_category.tolist() == [0, 1, 0, 0]
    assert store.event_item.tolist() == [1, 2, 1, 2, 3]
    assert store.event_ts_ms[0] == 880_000_000_000
    assert set(store.table("events")["action"].to_pylist()) == {"rate"}
    assert store.num_requests == 0
    assert store.manifest["refused"] == []


@pytest.mark.parametrize(
    ("layout", "name"),
    [("ml-100k", "ml-100k-all"), ("ml-1m", "ml-1m-all"), ("ml-10m", "ml-10m-all"), ("ml-25m", "ml-25m-all")],
)
def test_a_release_is_known_by_its_files(layout: str, name: str, tmp_path: Path) -> None:
    assert read(MovieLens(str(make(tmp_path, layout, zipped=False)))).name == name


def test_the_csv_releases_keep_their_name_in_an_archive(tmp_path: Path) -> None:
    assert read(MovieLens(str(make(tmp_path, "ml-25m", zipped=True)))).name == "ml-25m-all"


@pytest.mark.parametrize("layout", ["ml-100k", "ml-1m", "ml-100k-from-wheel"])
def test_profiles_are_kept(layout: str, tmp_path: Path) -> None:
    store = prepare(read(MovieLens(str(make(tmp_path, layout, False)))), tmp_path / "store", console=QUIET)
    users = store.table("users")
    assert users["gender"].to_pylist() == ["M", "F"]
    assert users["age"].to_pylist() == ["24", "53"]
    assert users["zip_code"].to_pylist() == ["85711", "94043"]


def test_liked_clicks_on_high_ratings_and_shows_them_all(tmp_path: Path) -> None:
    raw = read(MovieLens(str(make(tmp_path, "ml-10m", True)), view="liked"))
    store = prepare(raw, tmp_path / "store", console=QUIET)
    events, shown = store.table("events"), store.table("impressions")
    assert events["item"].to_pylist() == [1, 2, 3]
    assert set(events["action"].to_pylist()) == {"click"}
    assert shown["item"].to_pylist() == [1, 2, 1, 2, 3]
    assert shown["label"].to_pylist() == [1, 0, 0, 1, 1]
    assert shown["request"].to_pylist() == [1, 1, 2, 3, 4]  # user 1 rated two movies at once
    assert set(shown["source"].to_pylist()) == {"rated_low"}
    assert set(shown["position"].to_pylist()) == {0}
    assert events["request"].to_pylist() == [1, 3, 4]


def test_a_bad_rating_is_refused_with_its_line(tmp_path: Path) -> None:
    folder = make(tmp_path, "ml-25m", False)
    with (folder / "ratings.csv").open("a") as file:
        file.write("3,10,good,880000000\n3,10,4.0\n3,10,4.0,12\n")
    store = prepare(read(MovieLens(str(folder))), tmp_path / "store", console=QUIET)
    refused = {r["reason"]: r for r in store.manifest["refused"]}
    assert refused["rating is not a number"]["samples"] == ["ratings.csv line 7: rating = 'good'"]
    assert refused["broken line: too few values"]["samples"] == ["ratings.csv line 8: '3,10,4.0'"]
    assert refused["time is before 1990 or after 2100"]["samples"] == ["ratings.csv line 9: time = '12'"]
    assert store.num_users == 2


def test_small_genre_combinations_fold_into_their_first_genre(tmp_path: Path) -> None:
    folder = make(tmp_path, "ml-1m", False)
    movies = [f"{i}::M::Action|Drama" for i in range(100, 120)] + ["200::M::Action|War", "201::M::War"]
    (folder / "movies.dat").write_text("10::A::\n" + "\n".join(movies) + "\n")
    items = prepare(read(MovieLens(str(folder))), tmp_path / "store", console=QUIET).table("items").to_pylist()
    path = {i["item_id"]: i["category_path"] for i in items}
    assert (path["10"], path["100"], path["200"], path["201"]) == (None, "Action|Drama", "Action", "War")
    assert [i["item_id"] for i in items][-2:] == ["20", "30"]  # rated, but not in this catalogue


def jpeg(colour: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 48), (colour, 0, 0)).save(buffer, format="JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize("zipped", [False, True])
def test_posters_and_abstracts_become_content(zipped: bool, tmp_path: Path) -> None:
    posters = tmp_path / "posters"
    posters.mkdir()
    content = {"10.jpg": jpeg(10), "20.jpg": jpeg(20)[:-200], "999.jpg": jpeg(3)}
    for name, data in content.items():
        (posters / name).write_bytes(data)
    if zipped:
        with zipfile.ZipFile(tmp_path / "posters.zip", "w") as archive:
            for name in content:
                archive.write(posters / name, f"p/{name}")
    abstract = {"10": "Amélie is a film by J. P. Jeunet. It stars A. Tautou. It was long.", "20": "Heat."}
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(json.dumps(abstract).encode()))
    options = MovieLens(
        str(make(tmp_path, "ml-1m", True)),
        posters=tmp_path / "posters.zip" if zipped else posters,
        abstracts=tmp_path / "a.json.gz",
    )
    store = prepare(read(options), tmp_path / "store", console=QUIET)
    items = store.table("items")
    assert items["text"].to_pylist() == ["Comedy. Amélie is a film by J. P. Jeunet. It stars A. Tautou.", "Heat.", None]
    assert items["image"].to_pylist() == [content["10.jpg"], None, None]  # the second is cut short
    (refused,) = store.manifest["refused"]
    assert refused["reason"] == "image cannot be decoded"
    assert refused["samples"][0].startswith(f"{options.posters.name if options.posters else ''}/20.jpg: image = ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two. Three.", "One. Two."),
        ("One", "One"),
        ("", ""),
        ("Dr. No is a film by T. Young. It is old! New.", "Dr. No is a film by T. Young. It is old!"),
        ("Who? Me.  And you.", "Who? Me."),
    ],
)
def test_first_sentences_do_not_end_at_abbreviations(text: str, expected: str) -> None:
    assert first_sentences(text, 2) == expected


def test_what_is_no_movielens_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(DataError, match=r"not a MovieLens release: found x\.txt\. A MovieLens release has"):
        read(MovieLens(str(tmp_path)))
    with pytest.raises(DataError, match=r"ml-2m: no such file, folder or MovieLens name\. Names: ml-100k"):
        read(MovieLens("ml-2m"))
    with pytest.raises(DataError, match=r"x\.txt: not a readable zip archive"):
        read(MovieLens(str(tmp_path / "x.txt")))
    folder = make(tmp_path, "ml-1m", False)
    (folder / "movies.dat").write_text("10::A\n")
    with pytest.raises(DataError, match=r"movies\.dat line 1: 2 values instead of 3: '10::A'"):
        read(MovieLens(str(folder)))
    (folder / "movies.dat").unlink()
    with pytest.raises(DataError, match=r"movies\.dat is missing"):
        read(MovieLens(str(folder)))
    (tmp_path / "bad.json").write_text("[1]")
    with pytest.raises(DataError, match=r"bad\.json: not an object of texts"):
        read(MovieLens(str(make(tmp_path, "ml-25m", False)), abstracts=tmp_path / "bad.json"))


@pytest.mark.real_data
def test_ml_1m_is_whole_and_in_order(data_folder: Path, tmp_path: Path) -> None:
    started = time.process_time()
    store: Store = prepare(read(MovieLens(str(data_folder / "ml-1m/ml-1m.zip"))), tmp_path / "store", console=QUIET)
    assert time.process_time() - started < 15
    assert (store.num_users, store.num_items, store.num_events) == (6040, 3883, 1_000_209)
    assert store.name == "ml-1m-all"
    assert store.manifest["refused"] == []
    # The file's lines of a user, sorted by time alone by a sort that keeps equal ones in place.
    with zipfile.ZipFile(data_folder / "ml-1m/ml-1m.zip") as archive:
        lines = archive.read("ml-1m/ratings.dat").decode("latin-1").splitlines()
    for user in (1, 17, 6040):
        rows = [line.split("::") for line in lines if line.startswith(f"{user}::")]
        expected = [movie for _, movie, _, at in sorted(rows, key=lambda r: int(r[3]))]
        start, stop = store.user_indptr[user], store.user_indptr[user + 1]
        assert store.user_ids[user] == str(user)
        assert [store.item_ids[i] for i in store.event_item[start:stop]] == expected


@pytest.mark.real_data
def test_ml_1m_liked_has_pictures_texts_and_low_ratings(data_folder: Path, tmp_path: Path) -> None:
    folder = data_folder / "ml-1m"
    options = MovieLens(
        str(folder / "ml-1m.zip"),
        view="liked",
        posters=folder / "posters_96x144.zip",
        abstracts=folder / "dbpedia_abstracts.json.gz",
    )
    store = prepare(read(options), tmp_path / "store", console=QUIET)
    assert store.num_events == 575_281
    assert len(store.impression_item) == 1_000_209
    assert int(store.impression_label.sum()) == 575_281
    assert store.table("items", ["image"])["image"].null_count == 3883 - 3256
    assert store.table("items", ["text"])["text"].null_count == 0
    assert store.manifest["refused"] == []
