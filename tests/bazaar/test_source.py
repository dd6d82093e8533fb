"""`penchant prepare bazaar`: a Store with queries, exposures and propensities that says it is synthetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from penchant.bazaar.config import SIZES, BazaarConfig, Knobs
from penchant.bazaar.source import Bazaar, read
from penchant.data.prepare import prepare

QUIET = Console(quiet=True)
WEEK = Bazaar(size="tiny", users=100, days=7, pictures=False)


def test_a_store_of_the_market_has_all_tables_and_says_it_is_synthetic(tmp_path: Path) -> None:
    store = prepare(read(WEEK), tmp_path / "store", console=QUIET)
    assert store.manifest["synthetic"] is True
    assert BazaarConfig.from_json(store.manifest["generator"]) == WEEK.config()
    assert store.num_items == 500
    assert store.num_events == pytest.approx(WEEK.config().actions, rel=0.25)
    shown = store.table("impressions")
    assert shown["propensity"].to_numpy() == pytest.approx(shown["position"].to_numpy() ** -Knobs().position)
    assert set(shown["source"].to_pylist()) == {"logged", "logged_random"}
    assert int(np.sum(shown["label"].to_numpy())) == store.num_events
    events = store.table("events")
    assert (events["request"].to_numpy() > 0).all()
    assert store.manifest["refused"] == []
    again = prepare(read(WEEK), tmp_path / "again", console=QUIET)
    assert again.fingerprint == store.fingerprint


def test_a_market_of_other_knobs_has_another_name() -> None:
    assert read(Bazaar(size="tiny", pictures=False)).name == "bazaar-tiny"
    assert read(Bazaar(size="tiny", pictures=False, knobs=Knobs(noise=3.0), seed=2)).name == "bazaar-own-s2"


def test_actions_grow_with_users_and_days_unless_they_are_given() -> None:
    size = SIZES["tiny"]
    assert Bazaar(size="tiny").config() == size
    assert Bazaar(size="tiny", users=2 * size.users, days=size.days // 2).config().actions == size.actions
    assert Bazaar(size="tiny", actions=5).config().actions == 5
