"""What the commands of the pages and help texts name, small and made up: Stores, runs, bundles, raw files."""

from __future__ import annotations

import gzip
import json
import re
import shlex
import shutil
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pandas as pd

from penchant.cli.main import main
from penchant.data.store import Store
from penchant.recipes import reproduce
from penchant.recipes.rows import FunnelRow, Row
from penchant.serve.events import Event, EventLog
from tests.data.sources import test_amazon as amazon
from tests.data.sources import test_kuairand as kuairand
from tests.data.sources import test_mind_news as mind
from tests.data.sources import test_movielens as movielens
from tests.data.sources import test_taobao as taobao
from tests.factories import give_columns
from tests.test_commands import logs
from tests.test_docs import ROOT
from tests.tiny_models import save_image_model, save_text_model

MODELS = {
    "shop": ["karma_decoded"],
    "karma": ["karma_decoded"],
    "action": ["karma"],
    "placebo": ["karma", "--model.shuffled"],
    "search": ["karma_search", "--objective.reconstruct", "0.1"],
    **{name: [name] for name in ("sasrec", "markov", "popularity", "t2diff")},
}
"""First word of a run's name -> its recipe, and what is set of it."""


class World:
    """What takes long is made once, in `folder`, and copied to where a command looks for it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, folder / "store"
        self.run, self.funnel, self.bundle = cache(self._run), cache(self._funnel), cache(self._bundle)
        self._do(f"prepare bazaar --size tiny --users 100 --items 150 --out {self.store}")
        genders = ["f", "m"] * 50
        give_columns(Store(self.store), "users", {"gender": [*genders[: Store(self.store).num_users]]})
        self._do(f"encode {self.store}")

    def _do(self, line: str) -> None:
        assert main(shlex.split(line)) == 0, line

    def _run(self, recipe: str, *more: str, split: str = "temporal-successive") -> Path:
        """A run that was judged; beside it its lists."""
        out = self.folder / "-".join([recipe, *more, split])
        self._do(f"train {recipe} {self.store} --out {out} --split {split} {' '.join(more)}")
        self._do(f"evaluate {out} --trec {out}.run")
        return out

    def _funnel(self) -> Path:
        self._do(f"funnel {self.store} --out {self.folder / 'funnel'} --find-by karma_decoded")
        return self.folder / "funnel"

    def _bundle(self) -> Path:
        self._do(f"export {self.funnel()} --out {self.folder / 'bundle'} --reader")
        return self.folder / "bundle"


def first_rows(line: str) -> list[Row | FunnelRow]:
    """Of the tables that `penchant reproduce TABLE` is to run, on each of their data."""
    tables = reproduce.choose(line.split(" ")[2])
    return [row for table in tables for row in table.rows if row.name == table.rows[0].name]


def stores_of_rows(world: World, place: Path, line: str) -> None:
    for data in {row.data for row in first_rows(line)}:
        shutil.copytree(world.store, place.parent / "stores" / data)


def store(world: World, place: Path, line: str) -> None:
    new = "vectors" if line.startswith("penchant encode") else ""
    shutil.copytree(world.store, place, ignore=shutil.ignore_patterns(new))


def run(world: World, place: Path, line: str) -> None:
    new = "evaluation-*" if line.startswith("penchant evaluate") else ""
    shutil.copytree(world.run(*MODELS[place.name.split("-")[0]]), place, ignore=shutil.ignore_patterns(new))


def results(world: World, place: Path, line: str) -> None:
    for name in ("results", "docs"):
        (place.parent / name).symlink_to(ROOT / name)


def table(world: World, place: Path, line: str) -> None:
    """One's own logs, with the names of columns that `--columns` tells."""
    clicks, items = logs()
    clicks["request_id"] = range(len(clicks))
    users = pd.DataFrame({"user_id": clicks["user_id"].unique()}).assign(age=36)
    others = {"impressions": clicks.assign(label=1, position=1), "users": users, "clicks": clicks, "events": clicks}
    frame = others.get(place.name.split(".")[0], items).rename(columns=dict(re.findall(r"(\w+)=(\w+)", line)))
    if place.suffix == ".parquet":
        frame.to_parquet(place)
    else:
        frame.to_csv(place, index=False)


def served(world: World, place: Path, line: str) -> None:
    log = EventLog(place)
    log.append([Event("ada", "i3", "click", 1_710_000_000_000)])
    log.close()


def ml_1m(world: World, place: Path, line: str) -> None:
    movielens.make(place.parent, "ml-1m", zipped=place.suffix == ".zip").rename(place)


def ml_100k(world: World, place: Path, line: str) -> None:
    """As many users as a funnel needs; a folder of that name is taken before any download."""
    clicks, catalogue = logs()
    users, items = (clicks[column].str.extract(r"(\d+)")[0].fillna("999") for column in ("user_id", "item_id"))
    rated = zip(users, items, clicks["timestamp"], strict=True)
    flags = "|".join(["0"] * 18)
    files = {
        "u.data": [f"{user}\t{item}\t{3 + int(item) % 3}\t{at}\n" for user, item, at in rated],
        "u.item": [f"{n}|{title} (1995)|||x|{n % 2}|{flags}\n" for n, title in enumerate(catalogue["title"])],
        "u.user": [f"{user}|24|M|other|85711\n" for user in sorted(set(users))],
    }
    folder = place.with_name("ml-100k")
    folder.mkdir()
    for name, lines in files.items():
        (folder / name).write_text("".join(lines))


def posters(world: World, place: Path, line: str) -> None:
    picture = pd.read_parquet(world.store / "items.parquet")["image"].dropna().iloc[0]
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr("10.jpg", picture)


HISTORIES = [f"{u} {' '.join(str(1 + (u + step) % 9) for step in range(6))}" for u in range(1, 9)]
NUMBERS = [str(i) for i in range(10)]
WORDS = {f"B{i}": ["Brand", "Tea", "Green" if int(i) % 2 else "Black"] for i in NUMBERS}
REVIEWS = [amazon.old_review(f"A{u}", f"B{p}", 5, (u + p) * amazon.DAY) for u in range(6) for p in range(6)]
RAW = {
    "abstracts.json": json.dumps({"10": "A film. It is long. Very."}),
    "sequences.txt": "\n".join(HISTORIES),
    "time_gaps.txt": "\n".join(f"{line}\t0 60 60 60 60 60" for line in HISTORIES),
    "datamaps.json": json.dumps({"id2item": {i: f"B{i}" for i in NUMBERS}, "id2user": {u: f"A{u}" for u in NUMBERS}}),
    "categories.json": json.dumps(WORDS),
    "categories_by_asin.json": json.dumps(WORDS),
    "items.json": json.dumps({i: {"title": "A place", "description": "Food, Bakeries"} for i in NUMBERS}),
    "reviews_Beauty.json.gz": amazon.lines(REVIEWS),
    "meta_Beauty.json.gz": amazon.PRODUCT_FILES["2014"],
    "behaviors.tsv": "\n".join(mind.BEHAVIORS),
    "news.tsv": "\n".join(mind.NEWS),
}


def raw(world: World, place: Path, line: str) -> None:
    content = RAW[place.name].encode()
    place.write_bytes(gzip.compress(content) if place.suffix == ".gz" else content)


NEEDS: dict[str, Callable[[World, Path, str], object]] = {
    r"export (\S+)": lambda world, place, _: shutil.copytree(world.funnel(), place),
    r"serve (\S+)": lambda world, place, _: shutil.copytree(world.bundle(), place),
    r"-from (\S+)": lambda world, place, _: shutil.copytree(world.run("karma_decoded", split="funnel"), place),
    r"(?<!--out )\b(runs/[\w-]+)": run,
    r"(?<!--out )\b(stores/[\w-]+)": store,
    r"(reproduce \S+ )(?!.*--dry-run)": stores_of_rows,
    r"(report results )": results,
    r"--lists (\S+)": lambda world, place, _: shutil.copy(f"{world.run('popularity', split='loo')}.run", place),
    r"(models/\S+)": lambda _, place, __: save_image_model(place),
    r"(sentence-transformers/\S+)": lambda _, place, __: save_text_model(place),  # a folder is taken before the hub
    r"table .*?--events (\S+)": table,
    r"table .*?--items (\S+)": table,
    r"--(?:impressions|users) (\S+)": table,
    r"--served (\S+)": served,
    r"--path (ml-1m\S*)": ml_1m,
    r"(?:--path |^penchant )(ml-100k|demo) ": ml_100k,
    r"--posters (\S+)": posters,
    r"--path (KuaiRand-\S+)": lambda _, place, __: kuairand.make(place.parent).rename(place),
    r"--path (UserBehavior\S+)": lambda _, place, __: taobao.make(place.parent, place.suffix),
    r"sequences .*?--items (\S+)": raw,
    r"--(?:path|abstracts|gaps|ids|reviews|metadata|behaviors|news) (\S+)": raw,
}
"""What a command names -> what makes it, in the place where it is looked for; of two for one place, the first."""
