"""Broken releases of MovieLens, with posters and abstracts."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from typing import Any

from tests.data.sources.broken.case import Case, Content
from tests.data.sources.broken.catalogue import bomb, picture

RATINGS = "userId,movieId,rating,timestamp\n1,10,5.0,880000000\n1,20,2.0,880000000\n2,10,4.0,880000300\n"
MOVIES = 'movieId,title,genres\n10,"Heat, The (1995)",Comedy\n20,Amélie (2001),\n'
DAT = "1::10::5::880000000\n1::20::2::880000000\n2::10::4::880000300\n"


def latest(
    name: str,
    *args: str,
    ratings: str = RATINGS,
    movies: Content = MOVIES,
    more: dict[str, Content] | None = None,
    **expected: Any,
) -> Case:
    files: dict[str, Content] = {"ml-latest/ratings.csv": ratings, "ml-latest/movies.csv": movies, **(more or {})}
    return Case(name, files, ("movielens", "--path", "ml-latest", *args), **expected)


def million(
    name: str,
    *,
    ratings: Content = DAT,
    movies: Content = "10::Heat::Comedy\n20::Up::\n",
    users: Content = "1::F::1::1::1\n",
    **expected: Any,
) -> Case:
    files: dict[str, Content] = {"ml-1m/ratings.dat": ratings, "ml-1m/movies.dat": movies, "ml-1m/users.dat": users}
    return Case(name, files, ("movielens", "--path", "ml-1m"), **expected)


def archive(name: str, content: bytes, error: str) -> Case:
    return Case(name, {"ml.zip": content}, ("movielens", "--path", "ml.zip"), error=error)


def packed(compression: int = zipfile.ZIP_DEFLATED, **files: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as made:
        for key, content in files.items():
            made.writestr(f"ml-latest/{key}.csv", content)
    return buffer.getvalue()


def patched(content: bytes, old: bytes, new: bytes, at: int) -> bytes:
    """The archive with the field `at` bytes after each mark `old`[:4] turned into `new`."""
    changed, start = bytearray(content), -1
    while (start := content.find(old, start + 1)) >= 0:
        changed[start + at : start + at + len(new)] = new
    return bytes(changed)


RELEASE = packed(ratings=RATINGS * 20, movies=MOVIES)
# Local and central headers hold flags and method at different places.
ENCRYPTED = patched(patched(RELEASE, b"PK\x03\x04", b"\x01", 6), b"PK\x01\x02", b"\x01", 8)
UNKNOWN = patched(patched(RELEASE, b"PK\x03\x04", b"\x63", 8), b"PK\x01\x02", b"\x63", 10)
INSIDE = RELEASE[:60] + bytes(b ^ 0xFF for b in RELEASE[60:70]) + RELEASE[70:]

CASES = [
    latest(
        "ratings that are no numbers",
        ratings=f"{RATINGS}2,20,good,880000400\n2,20,nan,880000400\n2,20,,880000400\n",
        refused={"rating is not a number": 3},
        sample=r"ratings\.csv line 5: rating = 'good'",
        rows=6,
    ),
    latest(
        "ratings of nobody and never",
        ratings=f"{RATINGS},20,3,880000400\n2,20,3,\n2,20\n",
        refused={"user_id is missing": 1, "time is missing": 1, "broken line: too few values": 1},
        rows=6,
    ),
    latest(
        "a movie without id",
        movies=f"{MOVIES},None (1990),\n",
        refused={"item_id is missing": 1},
        sample=r"movies\.csv line 4: item_id = None",
    ),
    latest(
        "a movie twice",
        movies=f"{MOVIES}10,Heat again,\n",
        refused={"item_id is listed twice": 1},
        sample=r"movies\.csv line 4: item_id = '10'",
    ),
    latest("no movies at all", movies="movieId,title,genres\n", holds={"items.item_id": ["10", "20"]}),
    latest(
        "ratings of no movie of the list",
        ratings=f"{RATINGS}2,99,3,880000400\n",
        rows=4,
        notes="1 items of the logs are not in the catalogue",
    ),
    Case(
        "a release without its movies",
        {"ml-latest/ratings.csv": RATINGS},
        ("movielens", "--path", "ml-latest"),
        error=r"MovieLens release: movies\.csv is missing\. Unpack or download",
    ),
    Case(
        "a folder that is no release",
        {"ml/readme.txt": "x"},
        ("movielens", "--path", "ml"),
        error=r"ml: not a MovieLens release: found readme\.txt\. A MovieLens release has",
    ),
    Case(
        "a name of no release",
        {},
        ("movielens", "--path", "ml-5m"),
        error=r"ml-5m: no such file, folder or MovieLens name\. Names: ml-100k",
    ),
    million(
        "a rating cut short",
        ratings=f"{DAT}2::20::",
        refused={"broken line: too few values": 1},
        sample=r"ratings\.dat line 4: '2::20::'",
        rows=4,
    ),
    million(
        "another delimiter in ratings.dat",
        ratings=f"{DAT}2\t20\t3\t880000400\n",
        refused={"broken line: too few values": 1},
        rows=4,
    ),
    million("mixed line ends in ratings.dat", ratings=DAT.replace("\n", "\r\n", 1), rows=3),
    million(
        "a movie of too few values",
        movies="10::Heat\n",
        error=r"movies\.dat line 1: 2 values instead of 3: '10::Heat'\. Unpack or download",
    ),
    million(
        "letters that are not those of users.dat",
        users=b"1::F::1::1::1\n2::\xe9::1::1::1\n",
        error=r"users\.dat line 2: letters that are not utf-8: .*\. Unpack or download",
    ),
    million("no users at all", users="", holds={"users.gender": [None, None]}),
    million(
        "titles in Windows' letters",
        movies="10::Caf\xe9 \x80::Comedy\n".encode("latin-1"),
        holds={"items.title": ["Café €", None]},
    ),
    archive("no zip archive", b"not a zip", r"ml\.zip: not a readable zip archive \(.*\)\. Download it again"),
    archive("a cut zip archive", RELEASE[:-40], r"ml\.zip: not a readable zip archive"),
    archive("a zip archive with damage inside", INSIDE, r"ml\.zip: not a readable zip archive"),
    archive("an encrypted zip archive", ENCRYPTED, r"ml\.zip: not a readable zip archive \(.*encrypted"),
    archive("a zip archive packed in an unknown way", UNKNOWN, r"ml\.zip: not a readable zip archive"),
    archive("a zip archive of something else", packed(other="x"), r"ml\.zip: not a MovieLens release: found nothing"),
    latest(
        "a broken poster, one that is a bomb",
        "--posters",
        "posters",
        more={"posters/10.jpg": b"x", "posters/20.jpg": bomb(9000, 9000)},
        refused={"image cannot be decoded": 1, "image has over 64 million pixels": 1},
        sample=r"posters/10\.jpg: image = '1 bytes'",
    ),
    latest(
        "no posters there",
        "--posters",
        "posters.zip",
        error=r"posters\.zip: cannot be read \(.*\)\. --posters wants a zip or folder",
    ),
    latest(
        "posters that are no archive",
        "--posters",
        "posters.zip",
        more={"posters.zip": picture()},
        error=r"posters\.zip: cannot be read \(.*\)\. --posters wants",
    ),
    latest(
        "abstracts that are no JSON",
        "--abstracts",
        "a.json",
        more={"a.json": "{"},
        error=r"a\.json: cannot be read \(.*\)\. --abstracts wants JSON",
    ),
    latest(
        "abstracts that are no texts",
        "--abstracts",
        "a.json",
        more={"a.json": '{"10": 5}'},
        error=r"a\.json: not an object of texts\. --abstracts wants JSON",
    ),
    latest(
        "abstracts cut in their gzip",
        "--abstracts",
        "a.json.gz",
        more={"a.json.gz": gzip.compress(json.dumps({"10": "x" * 999}).encode())[:20]},
        error=r"a\.json\.gz: cannot be read",
    ),
    latest(
        "abstracts with damage in their gzip",
        "--abstracts",
        "a.json.gz",
        more={"a.json.gz": gzip.compress(b'{"10": "x"}')[:10] + b"\xff" * 20},
        error=r"a\.json\.gz: cannot be read",
    ),
    latest(
        "abstracts nested too deep",
        "--abstracts",
        "a.json",
        more={"a.json": "[" * 50_000},
        error=r"a\.json: cannot be read",
    ),
    latest(
        "half a letter in an abstract",
        "--abstracts",
        "a.json",
        more={"a.json": '{"10": "Half \\ud800."}'},
        holds={"items.text": ["Comedy. Half ?.", None]},
    ),
]
