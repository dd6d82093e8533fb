"""penchant explain: a run that was taught to be read is read, in a terminal and as a page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from penchant.cli.main import main
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.encoders.encode import encode_store
from penchant.errors import ConfigError, RunError
from penchant.recipes.controls import sasrec
from penchant.recipes.karma.explain import Explainer, _of_another
from penchant.recipes.runs import load_run, train_run
from tests.factories import make_store
from tests.recipes.test_karma import RUN
from tests.tiny_models import save_image_model, save_language_model, save_text_model


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("explain")
    store = make_store(folder / "store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PENCHANT_CACHE", str(folder / "cache"))
        text, image = save_text_model(folder / "text"), save_image_model(folder / "image")
        encode_store(store, text=str(text), image=str(image), device="cpu")
    return store


@pytest.fixture(scope="module")
def run(market: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explained")
    backbone = str(save_language_model(folder / "language"))
    taught = replace(
        RUN,
        model=replace(RUN.model, backbone=backbone, item_backbone=backbone),
        objective=replace(RUN.objective, picture=0.1, head=replace(RUN.objective.head, width=8, blocks=1, steps=2)),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PENCHANT_CACHE", str(folder / "cache"))
        train_run(taught, market, load_split(market, "temporal-successive"), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def reads(run: Path) -> Explainer:
    return Explainer(run, load_run(run, device="cpu"))


def test_an_interest_is_words_items_and_pictures(reads: Explainer, market: Store) -> None:
    users = reads.drawn(4, seed=1)
    assert len(set(users)) == 4
    assert users == reads.drawn(4, seed=1)
    explained = reads.explain(users, k=6)
    for one, user_id in zip(explained, users, strict=True):
        user = market.user_ids.index(user_id)
        events = slice(*market.user_indptr[user : user + 2])
        assert list(one.history) == market.event_item[events][-50:][::-1].tolist()
        assert len(set(one.nearest)) == len(set(one.pictures)) == 6
        assert all(market.vectors("image").present[item] for item in one.pictures)
        alone = reads.explain([user_id], k=6)[0]
        assert (alone.words, alone.nearest) == (one.words, one.nearest)


def test_words_are_checked_on_clicks_nobody_has_seen(reads: Explainer) -> None:
    checked = reads.readability("test", targets=60)
    assert set(checked.nats) == {"own", "another's", "nobody's"}
    assert all(np.isfinite(values).all() and (values > 0).all() for values in checked.nats.values())
    assert all(((values >= 0) & (values <= 1)).all() for values in checked.overlap.values())
    assert len({len(v) for v in (*checked.nats.values(), *checked.overlap.values(), checked.users)}) == 1
    assert any("own against another's" in line for line in checked.lines())


def test_another_is_somebody_else() -> None:
    users = np.repeat(np.arange(9), 5)
    assert (users[_of_another(users, 0)] != users).all()
    assert len(_of_another(np.zeros(3, dtype=np.int64), 0)) == 3  # there is nobody else


def test_the_command_prints_and_writes_a_page(
    run: Path, reads: Explainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    user, page = reads.drawn(1)[0], tmp_path / "interests.html"
    given = ["explain", str(run), "--user", user, "--check", "40", "--out", str(page), "--device", "cpu"]
    assert main(given) == 0
    said, written = capsys.readouterr().out, page.read_text()
    one = reads.explain([user])[0]
    for text in (said, written):
        assert one.words in text
        assert reads.titles[one.nearest[0]] in text
        assert "own against another's" in text.replace("&#39;", "'")
    assert "data:image/jpeg;base64," in written
    assert "<script" not in written
    assert "http" not in written.replace("http-equiv", "")


def test_what_cannot_be_explained_is_said_by_name(
    market: Store, run: Path, reads: Explainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="no user 'nobody'"):
        reads.explain(["nobody"])
    with pytest.raises(ConfigError, match="reads no queries"):
        reads.explain(reads.drawn(1), ["red"])
    assert main(["explain", str(run)]) == 2
    assert "--user ID" in capsys.readouterr().err
    ids = sasrec()
    ids = replace(ids, train=replace(ids.train, epochs=0.1, tensorboard=False, device="cpu"))
    train_run(ids, market, load_split(market, "loo"), tmp_path / "sasrec")
    with pytest.raises(RunError, match="sasrec has no words"):
        Explainer(tmp_path / "sasrec", load_run(tmp_path / "sasrec", device="cpu"))
