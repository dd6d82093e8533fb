"""Amazon reviews as the McAuley lab publishes them: the releases of 2014, 2018 and 2023.

The release is told from the keys, or the order of the values, and not from the file's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from penchant.data.sources.amazon.products import add_pictures, read_products
from penchant.data.sources.formats import Opened, choices, open_file
from penchant.data.sources.raw import MEMORY, Check, Raw, Workspace, category_queries
from penchant.data.sources.times import sift_log
from penchant.errors import ConfigError, DataError

CORE = 5
"""Reviews that a user and an item of the 5-core have at least."""

KEYS = ("reviewerID", "asin", "overall", "unixReviewTime")
"""User, product, rating and time in the reviews of 2014 and 2018."""

KEYS_2023 = ("user_id", "parent_asin", "rating", "timestamp")
"""The same in those of 2023. Variants of a product (asin) share a parent, which the metadata describes."""

ASIN_LENGTH = 10
"""Letters of a product's id; ids of users have more, with few exceptions."""


@dataclass(frozen=True)
class Amazon:
    """Reviews of Amazon's products: the releases of 2014, 2018 and 2023.

    Of several reviews of one product by one user the earliest is taken.

    Example: penchant prepare amazon --reviews reviews_Beauty.json.gz --metadata meta_Beauty.json.gz --five-core
    --out stores/beauty
    """

    reviews: Path
    """Reviews as JSON lines, or a release's ratings-only CSV; plain or .gz."""
    metadata: Path | None = None
    """The products: JSON lines, or lines of Python literals as in 2014; plain or .gz."""
    view: Literal["all", "liked"] = "all"
    """all: every review is an event. liked: a rating of 4 or more is a click, and every review is an impression."""
    five_core: bool = False
    """Leave out users and products with fewer than 5 reviews, again and again until all have 5."""
    images: Path | None = None
    """A folder of <asin>.jpg; they become the items' images. Nothing is downloaded: the addresses are in the column
    image_url."""
    category_queries: bool = False
    """Give events pseudo-queries: the words of their product's category path."""


def read(options: Amazon, memory: str = MEMORY) -> Raw:
    """The reviews and products of a release.

    Raises:
        ConfigError: options that contradict each other.
        DataError: a file is missing or of no known layout, or nothing is left of it.
    """
    if options.images and not options.metadata:
        raise ConfigError("needs the products", where="--images", fix="Give --metadata too.")
    if options.category_queries and (options.view != "all" or not options.metadata):
        raise ConfigError("needs the products, and --view all", where="--category-queries", fix="Give --metadata too.")
    work = Workspace(memory)
    reviews = open_file(work, options.reviews.expanduser(), "file_reviews", header=False)
    release = _load(work, reviews)
    stem = reviews.label.split(".")[0].removeprefix("reviews_").removeprefix("ratings_")
    raw = Raw(
        name=f"amazon-{release}-{stem}{'-core' if options.five_core else ''}-{options.view}",
        source="amazon",
        work=work,
        locate={"events": reviews.locate, "impressions": reviews.locate},
        view=options.view,
        refused=reviews.refused,
        notes=[f"{reviews.label} was read as reviews of {release}, told from its content.", *reviews.notes],
    )
    check = Check("rating is not a number", "stars IS NULL OR isnan(stars)", "rating", "Ratings run from 1 to 5.")
    sift_log(raw, "events", "reviews_read", [check], "reviews_good")
    _keep_earliest(raw)
    if options.five_core:
        _keep_core(raw)
    _apply_view(raw)
    if options.metadata:
        only = None
        if options.five_core:
            only = {item for (item,) in work.rows("SELECT DISTINCT item_id FROM reviews")}
        read_products(raw, options.metadata.expanduser(), only)
    if options.images:
        add_pictures(raw, options.images.expanduser())
    if options.category_queries:
        category_queries(raw)
    return raw


def _load(work: Workspace, reviews: Opened) -> str:
    """Make table `reviews_read` of a file of reviews or ratings; returns its release."""
    columns, where = reviews.columns, "true"
    if "1" in columns:  # a CSV
        first = work.rows(f"SELECT * EXCLUDE row FROM {reviews.table} WHERE row = 1")
        if first and KEYS_2023[0] in first[0]:
            columns, where = dict(zip(first[0], columns.values(), strict=True)), "row > 1"
        elif len(columns) == len(KEYS):
            return _load_ratings(work, reviews)
    if all(key in columns for key in KEYS):
        release, fields = "2014" if "helpful" in columns else "2018", [columns[key] for key in KEYS]
    elif all(key in columns for key in KEYS_2023):
        release, fields = "2023", [columns[key] for key in KEYS_2023]
        if "asin" in columns:
            fields[1] = f"coalesce({fields[1]}, {columns['asin']})"
    else:
        raise _unknown(reviews, columns)
    _select(work, reviews, fields, where)
    return release


def _load_ratings(work: Workspace, reviews: Opened) -> str:
    """Ratings without a header: user, product, rating, time in 2014; product, user, rating, time in 2018."""
    first, second, rating, time = reviews.columns.values()
    is_product = [f"count(*) FILTER (length({c}) = {ASIN_LENGTH})" for c in (first, second)]
    in_first, in_second = work.rows(f"SELECT {', '.join(is_product)} FROM {reviews.table}")[0]
    if in_first == in_second:
        raise _unknown(reviews, reviews.columns)
    user, product = (second, first) if in_first > in_second else (first, second)
    _select(work, reviews, [user, product, rating, time], "true")
    return "2018" if in_first > in_second else "2014"


def _select(work: Workspace, reviews: Opened, fields: list[str], where: str) -> None:
    user, product, rating, time = fields
    work.db.execute(
        f"CREATE TABLE reviews_read AS SELECT row, nullif(trim(CAST({user} AS VARCHAR)), '') AS user_id, "
        f"nullif(trim(CAST({product} AS VARCHAR)), '') AS item_id, {rating} AS rating, {time} AS time, "
        f"TRY_CAST({rating} AS FLOAT) AS stars FROM {reviews.table} WHERE {where}"
    )


def _unknown(reviews: Opened, columns: Mapping[str, str]) -> DataError:
    fix = (
        f"Reviews have {', '.join(KEYS)} (2014, 2018) or {', '.join(KEYS_2023)} (2023); CSVs of ratings without a "
        f"header have 4 values, one of the first two a product's id of {ASIN_LENGTH} letters."
    )
    return DataError(f"not a file of Amazon reviews: found {choices([*columns])}", where=reviews.label, fix=fix)


def _keep_earliest(raw: Raw) -> None:
    """Make table `reviews`, one for a user and a product, as the benchmark of the 2023 release does."""
    work = raw.work
    work.db.execute(
        "CREATE TABLE reviews AS SELECT row, user_id, item_id, time, stars FROM reviews_good "
        "QUALIFY row_number() OVER (PARTITION BY user_id, item_id ORDER BY ms, row) = 1"
    )
    repeated = work.value("SELECT count(*) FROM reviews_good") - work.value("SELECT count(*) FROM reviews")
    if repeated:
        raw.notes.append(
            f"{repeated:,} reviews of a product its user had reviewed before were left out: the earliest is taken."
        )


def _keep_core(raw: Raw) -> None:
    """Delete from `reviews` until every user and every item has `CORE` of them.

    What is left does not depend on the order of deleting: it is the largest such set.
    """
    work = raw.work
    count = "SELECT count(*), count(DISTINCT user_id), count(DISTINCT item_id) FROM reviews"
    before = work.rows(count)[0]
    few = "{0} IN (SELECT {0} FROM reviews GROUP BY {0} HAVING count(*) < {1})"
    either = f"{few.format('user_id', CORE)} OR {few.format('item_id', CORE)}"
    while work.value(f"DELETE FROM reviews WHERE {either}"):
        pass
    after = work.rows(count)[0]
    if not after[0]:
        raise DataError(
            f"no user and item have {CORE} reviews among each other", where=raw.name, fix="Leave out --five-core."
        )
    kept = [f"{a:,} of {b:,} {what}" for a, b, what in zip(after, before, ("reviews", "users", "items"), strict=True)]
    raw.notes.append(f"The {CORE}-core has {', '.join(kept)}; the others were left out.")


def _apply_view(raw: Raw) -> None:
    if raw.view == "all":
        raw.work.db.execute(
            "CREATE VIEW raw_events AS SELECT user_id, item_id, time, row, 'rate' AS action FROM reviews"
        )
        return
    raw.notes.append(
        "Reviews of one user at one time are one request; the releases of 2014 and 2018 know the day, no finer time."
    )
    raw.work.db.execute(
        "CREATE VIEW raw_events AS SELECT user_id, item_id, time, row, 'click' AS action, time AS request_id "
        "FROM reviews WHERE stars >= 4"
    )
    raw.work.db.execute(
        "CREATE VIEW raw_shown AS SELECT user_id, item_id, time, row, time AS request_id, "
        "CAST(stars >= 4 AS TINYINT) AS label, 'rated_low' AS source FROM reviews"
    )
    raw.impressions = "raw_shown"
