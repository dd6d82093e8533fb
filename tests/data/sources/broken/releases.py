"""Broken releases of public data other than MovieLens."""

from __future__ import annotations

import gzip
import json
from typing import Any

from tests.data.sources.broken.case import Case, Content

TAOBAO = "1,10,5,pv,1511658000\n1,11,5,buy,1511658060\n"
BEHAVIORS = "1\tU1\t11/15/2019 8:55:22 AM\tN3 N4\tN1-1 N2-0\n"
NEWS = "N1\tnews\tworld\tTitle\tAbstract\tu\t[]\t[]\n"
REVIEW = {"reviewerID": "A1", "asin": "B000000001", "overall": 5.0, "unixReviewTime": 1400000000, "helpful": [0, 0]}
PRODUCT = {"asin": "B000000001", "title": "Nail", "categories": [["Tools", "Nails"]]}
KUAIRAND = "user_id,video_id,time_ms,is_click,is_rand,tab\n1,10,1650000000000,1,0,1\n1,11,1650000000000,0,0,1\n"


def release(name: str, source: str, files: dict[str, Content], *args: str, **expected: Any) -> Case:
    return Case(name, files, (source, *args), **expected)


def taobao(name: str, more: Content, **expected: Any) -> Case:
    content = TAOBAO.encode() + (more if isinstance(more, bytes) else str(more).encode())
    return release(name, "taobao", {"UserBehavior.csv": content}, "--path", "UserBehavior.csv", **expected)


def sequences(name: str, *args: str, lines: str = "u1 1 2 3\nu2 2 3\n", more: Content = "", **expected: Any) -> Case:
    files: dict[str, Content] = {"beauty/all.txt": lines, "more.json": more}
    return release(name, "sequences", files, "--path", "beauty/all.txt", *args, **expected)


def mind(name: str, *, behaviors: str = BEHAVIORS, news: Content = NEWS, **expected: Any) -> Case:
    files: dict[str, Content] = {"behaviors.tsv": behaviors, "news.tsv": news}
    return release(name, "mind-news", files, "--behaviors", "behaviors.tsv", "--news", "news.tsv", **expected)


def amazon(name: str, *, reviews: Content = "", products: Content = "", **expected: Any) -> Case:
    files: dict[str, Content] = {
        "reviews.json": reviews or json.dumps(REVIEW),
        "meta.json": products or json.dumps(PRODUCT),
    }
    return release(name, "amazon", files, "--reviews", "reviews.json", "--metadata", "meta.json", **expected)


def kuairand(name: str, log: str, **expected: Any) -> Case:
    return release(name, "kuairand", {"data/log_standard_4_08_to_4_21_pure.csv": log}, "--path", "data", **expected)


CASES = [
    taobao(
        "behaviours of no kind, cut, and of nobody",
        "1,10,5,view,1511658000\n1,10,5\n,10,5,pv,1511658000\n1,10,5,pv,soon\n",
        refused={
            "broken line: too few values": 1,
            "behaviour is none of pv, fav, cart, buy": 1,
            "user_id is missing": 1,
            "time is not understood": 1,
        },
        rows=6,
    ),
    taobao("mixed line ends in behaviours", b"1,12,5,pv,1511658000\r\n1,12,5,pv,1511658000\r", rows=4),
    sequences("sequences of users only", lines="u1 1 2 3\nu2\n", refused={"a user without items": 1}, sample="line 2"),
    sequences("a sequence of one user twice", lines="u1 1 2\nu1 3 4\n", refused={"a user is listed twice": 1}),
    sequences(
        "sequences' ids that are no JSON", "--ids", "more.json", more="{", error=r"more\.json: cannot be read as JSON"
    ),
    sequences(
        "sequences' ids in an array",
        "--ids",
        "more.json",
        more="[1]",
        error=r"more\.json: holds a JSON list\. It is to",
    ),
    sequences(
        "sequences' ids that are numbers",
        "--ids",
        "more.json",
        more='{"1": 5}',
        error=r"more\.json: does not give every",
    ),
    sequences(
        "half a letter in the sequences' items",
        "--items",
        "more.json",
        more='{"1": {"title": "\\ud800"}}',
        error=r"more\.json: cannot be read as JSON \(.*surrogates",
    ),
    sequences(
        "sequences' items nested too deep",
        "--items",
        "more.json",
        more="[" * 50_000,
        error=r"more\.json: cannot be read",
    ),
    mind(
        "an impression of news without a time and without labels",
        behaviors=f"{BEHAVIORS}2\tU1\t2019-11-15\t\tN1-1\n3\tU1\t11/15/2019 8:55:22 AM\t\tN1 N2-2\n",
        refused={"time is not understood": 1, "label is not 0 or 1": 2},
        sample=r"behaviors\.tsv line 2: time = '2019-11-15'",
    ),
    mind(
        "an article cut short",
        news=f"{NEWS}N2\tnews\n",
        refused={"broken line: too few values": 1},
        sample="news.tsv line 2",
    ),
    mind(
        "an article with a quote that is not closed",
        news=NEWS.replace("Title", '"Title'),
        holds={"items.title": ['"Title', None, None, None]},
    ),
    amazon(
        "reviews of no release",
        reviews='{"a": 1}',
        error=r"reviews\.json: not a file of Amazon reviews: found a\. Reviews",
    ),
    amazon(
        "a review without a rating, and a cut one",
        reviews="\n".join([json.dumps(REVIEW), json.dumps({**REVIEW, "overall": "good"}), json.dumps(REVIEW)[:30]]),
        refused={"not a JSON object": 1, "rating is not a number": 1},
        sample=r"reviews\.json line 2: rating = 'good'",
        rows=3,
    ),
    amazon(
        "a product that is neither JSON nor a literal",
        products=f"{json.dumps(PRODUCT)}\n{'(' * 300}\n{{'asin': open('x')}}\n",
        refused={"neither a JSON object nor a Python literal of one": 2},
        sample=r"meta\.json line 2",
    ),
    amazon(
        "half a letter in a product",
        products=json.dumps({**PRODUCT, "title": "N\ud800ail"}),
        holds={"items.title": ["Nail"]},
    ),
    amazon(
        "products cut in their gzip",
        products=gzip.compress(json.dumps(PRODUCT).encode())[:30],
        error=r"meta\.json: cannot be decompressed",
    ),
    kuairand(
        "clicks that are not 0 or 1",
        f"{KUAIRAND}1,12,1650000000000,yes,0,1\n1,12,soon,1,0,1\n1,12,1650000000000,1,0,main\n",
        refused={"is_click is not 0 or 1": 1, "time is not understood": 1, "tab is not a number": 1},
        sample=r"log_standard_4_08_to_4_21_pure\.csv line 4: is_click = 'yes'",
        rows=5,
        table="impressions",
    ),
    kuairand(
        "a log without clicks",
        KUAIRAND.replace("is_click", "clicks"),
        error=r"log_standard_4_08_to_4_21_pure\.csv: no column is_click",
    ),
]
