"""MovieLens as GroupLens publishes it: the archives and folders of 100K, 1M, 10M, latest, 20M, 25M and 32M.

The layout is told from the files, not from the name. Archives are never unpacked into the caller's folders.
"""

from __future__ import annotations

import re
import shutil
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import pyarrow as pa

from penchant.data.sources.formats import BAD_ZIP
from penchant.data.sources.grouplens import NAMES, download
from penchant.data.sources.movie_content import add_content
from penchant.data.sources.raw import MEMORY, Check, Raw, Workspace, sift
from penchant.data.sources.reading import Dialect, read_delimited
from penchant.errors import DataError

GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
"""u.item's flags, in its order (u.genre)."""

SMALLEST_CATEGORY = 20
"""A combination of genres with fewer movies is folded into its first genre."""


@dataclass(frozen=True)
class MovieLens:
    """Ratings of movies: 100K, 1M, 10M, latest, 20M, 25M, 32M.

    Example: penchant prepare movielens --path ml-1m.zip --view liked --posters posters.zip --out stores/ml-1m-liked
    """

    path: str
    """An archive (.zip), an unpacked folder, or a name to download: ml-100k, ml-1m, ml-10m, ml-20m, ml-25m, ml-32m,
    ml-latest, ml-latest-small."""
    view: Literal["all", "liked"] = "all"
    """all: every rating is an event. liked: a rating of 4 or more is a click, and every rating is an impression."""
    posters: Path | None = None
    """A zip or folder of <movie_id>.jpg; they become the items' images."""
    abstracts: Path | None = None
    """JSON or JSON.gz, movie_id -> text; the first two sentences join the items' text."""


def read(options: MovieLens, memory: str = MEMORY) -> Raw:
    """The ratings, movies and users of a MovieLens release.

    Raises:
        DataError: no such file or name, not a MovieLens layout, or a poster or abstract file that cannot be read.
    """
    notes: list[str] = []
    path = Path(options.path).expanduser()
    if not path.exists():
        if options.path not in NAMES:
            raise DataError(
                "no such file, folder or MovieLens name", where=options.path, fix=f"Names: {', '.join(NAMES)}."
            )
        path = download(options.path, notes)
    work = Workspace(memory)
    folder = _files(path, work.folder)
    if "u.data" in folder:
        raw = _read_100k(work, folder)
    elif "ratings.dat" in folder:
        raw = _read_dat(work, folder)
    elif "ratings.csv" in folder:
        raw = _read_csv(work, folder)
    elif "ml-100k.inter" in folder:
        raw = _read_atomic(work, folder)
    else:
        found = ", ".join(sorted(folder)[:8]) or "nothing"
        fix = "A MovieLens release has u.data, ratings.dat or ratings.csv."
        raise DataError(f"not a MovieLens release: found {found}", where=path, fix=fix)
    raw.notes[:0] = notes
    _apply_view(raw, options.view)
    add_content(raw, options.posters, options.abstracts)
    return raw


def _files(path: Path, into: Path) -> dict[str, Path]:
    """File name -> file. Members of an archive are copied to the workspace, which goes when the work is done."""
    if path.is_dir():
        return {p.name: p for p in sorted(path.rglob("*")) if p.is_file()}
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                base, parent = PurePosixPath(member.filename).name, PurePosixPath(member.filename).parent.name
                if base in _READ and not member.is_dir():
                    # A member's path is not trusted; the release's name is all that is taken of it.
                    target = into / (parent if re.fullmatch(r"ml-[\w-]+", parent) else "files") / base
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(member) as source, target.open("wb") as file:
                        shutil.copyfileobj(source, file)
                    found[base] = target
    except BAD_ZIP as error:
        raise DataError(f"not a readable zip archive ({error})", where=path, fix="Download it again.") from error
    return found


_READ = (
    "u.data", "u.item", "u.user", "ratings.dat", "movies.dat", "users.dat", "ratings.csv", "movies.csv",
    "ml-100k.inter", "ml-100k.item", "ml-100k.user",
)  # fmt: skip


def _read_100k(work: Workspace, folder: Mapping[str, Path]) -> Raw:
    raw = _ratings(work, "ml-100k", folder["u.data"], Dialect("\t", "", header=False, encoding="cp1252"))
    movies = []
    for row in _lines(folder, "u.item", "|", 24, "cp1252"):
        genres = [g for g, flag in zip(GENRES_100K, row[5:], strict=False) if flag == "1"]
        movies.append((row[0], row[1], genres))
    raw.items = _movies(movies)
    raw.users = _profiles(("user_id", "age", "gender", "occupation", "zip_code"), _lines(folder, "u.user", "|", 5))
    return raw


def _read_dat(work: Workspace, folder: Mapping[str, Path]) -> Raw:
    name = "ml-1m" if "users.dat" in folder else "ml-10m"
    raw = _ratings(work, name, folder["ratings.dat"], Dialect("::", "", header=False, encoding="cp1252"))
    # 1M is latin-1, 10M is UTF-8.
    encoding = "cp1252" if name == "ml-1m" else "utf-8"
    raw.items = _movies((r[0], r[1], r[2].split("|")) for r in _lines(folder, "movies.dat", "::", 3, encoding))
    if "users.dat" in folder:
        columns = ("user_id", "gender", "age", "occupation", "zip_code")
        raw.users = _profiles(columns, _lines(folder, "users.dat", "::", 5))
    return raw


def _read_csv(work: Workspace, folder: Mapping[str, Path]) -> Raw:
    where = folder["ratings.csv"].parent.name
    raw = _ratings(work, where if where.startswith("ml-") else "ml-latest", folder["ratings.csv"], Dialect())
    table, columns = "raw_movies", ["movie_id", "title", "genres"]
    path = _must_have(folder, "movies.csv")
    refused, raw.locate["items"] = read_delimited(work, path, table, columns, Dialect(), "movies.csv")
    raw.refused += refused
    texts = ", ".join(f"coalesce({c}, '')" for c in columns)
    rows = work.rows(f"SELECT {texts} FROM {table} ORDER BY row")
    raw.items = _movies((i, title, genres.split("|")) for i, title, genres in rows)
    return raw


def _read_atomic(work: Workspace, folder: Mapping[str, Path]) -> Raw:
    """100K as the recbole wheel holds it: the same ratings and profiles, titles without the year."""
    raw = _ratings(work, "ml-100k", folder["ml-100k.inter"], Dialect("\t", ""))
    movies = []
    for item, title, year, genres in list(_lines(folder, "ml-100k.item", "\t", 4))[1:]:
        movies.append((item, f"{title} ({year})" if year.isdigit() else title, genres.split()))
    raw.items = _movies(movies)
    columns = ("user_id", "age", "gender", "occupation", "zip_code")
    raw.users = _profiles(columns, list(_lines(folder, "ml-100k.user", "\t", 5))[1:])
    return raw


def _ratings(work: Workspace, name: str, path: Path, dialect: Dialect) -> Raw:
    columns = ["user_id", "item_id", "rating", "time"]
    refused, locate = read_delimited(work, path, "ratings_text", columns, dialect, path.name)
    work.db.execute(
        "CREATE VIEW ratings_read AS SELECT user_id, item_id, time, row, rating, TRY_CAST(rating AS FLOAT) AS stars "
        "FROM ratings_text"
    )
    raw = Raw(
        name=name, source="movielens", work=work, locate={"events": locate, "impressions": locate}, refused=refused
    )
    check = Check("rating is not a number", "stars IS NULL OR isnan(stars)", "rating", "Ratings run from 0.5 to 5.")
    sift(raw, "events", "ratings_read", [check], "ratings")
    return raw


def _apply_view(raw: Raw, view: Literal["all", "liked"]) -> None:
    raw.name, raw.view = f"{raw.name}-{view}", view
    if view == "all":
        raw.work.db.execute(
            "CREATE VIEW raw_events AS SELECT user_id, item_id, time, row, 'rate' AS action FROM ratings"
        )
        return
    # Ratings of one user at one time are one request: nothing finer is known of what was on the screen.
    raw.work.db.execute(
        "CREATE VIEW raw_events AS SELECT user_id, item_id, time, row, 'click' AS action, time AS request_id "
        "FROM ratings WHERE stars >= 4"
    )
    raw.work.db.execute(
        "CREATE VIEW raw_shown AS SELECT user_id, item_id, time, row, time AS request_id, "
        "CAST(stars >= 4 AS TINYINT) AS label, 'rated_low' AS source FROM ratings"
    )
    raw.impressions = "raw_shown"


def _movies(rows: Iterable[tuple[str, str, list[str]]]) -> pa.Table:
    """Columns item_id, title, genres ("Animation|Comedy"), year, category; genres and year NULL where not given."""
    rows = list(rows)
    combined = ["|".join(g for g in genres if g and not g.startswith("(no genres")) or None for *_, genres in rows]
    size = Counter(combined)
    folded = [c if c is None or size[c] >= SMALLEST_CATEGORY else c.split("|")[0] for c in combined]
    titles = [title.strip() for _, title, _ in rows]
    years = [re.search(r"\((\d{4})\)$", title) for title in titles]
    return pa.table(
        {
            "item_id": pa.array([item.strip() for item, *_ in rows], pa.string()),
            "title": pa.array(titles, pa.string()),
            "category": pa.array(folded, pa.string()),
            "category_path": pa.array(folded, pa.string()),
            "genres": pa.array(combined, pa.string()),
            "year": pa.array([int(y[1]) if y else None for y in years], pa.int16()),
        }
    )


def _profiles(columns: tuple[str, ...], rows: Iterable[list[str]]) -> pa.Table:
    values = list(zip(*rows, strict=True)) or [()] * len(columns)
    return pa.table({c: pa.array(v, pa.string()) for c, v in zip(columns, values, strict=True)})


def _must_have(folder: Mapping[str, Path], name: str) -> Path:
    if name not in folder:
        raise DataError(f"{name} is missing", where="MovieLens release", fix="Unpack or download the release again.")
    return folder[name]


def _lines(
    folder: Mapping[str, Path], name: str, delimiter: str, width: int, encoding: str = "utf-8"
) -> Iterable[list[str]]:
    """Values of each line of a small file."""
    fix = "Unpack or download the release again."
    with _must_have(folder, name).open("rb") as file:
        for number, encoded in enumerate(file, 1):
            try:
                line = encoded.decode(encoding)
            except UnicodeDecodeError as error:
                what = f"letters that are not {encoding}: {encoded.strip()[:60]!r}"
                raise DataError(what, where=f"{name} line {number}", fix=fix) from error
            values = line.rstrip("\r\n").split(delimiter)
            if values == [""]:
                continue
            if len(values) != width:
                what = f"{len(values)} values instead of {width}: {line.strip()[:60]!r}"
                raise DataError(what, where=f"{name} line {number}", fix=fix)
            yield values
