"""A funnel's scores as chances, learned from its own lists."""

from __future__ import annotations

import numpy as np
import pytest

from penchant.data.history import requests_before_events
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.errors import ConfigError, StoreError
from penchant.funnel.pipeline import Funnel, load_funnel
from penchant.recipes.funnel.calibrate import calibrate_funnel
from tests.serve.conftest import make_run


@pytest.fixture(scope="module")
def funnel(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Funnel:
    return load_funnel(make_run(store, tmp_path_factory.mktemp("run") / "run"))


@pytest.mark.parametrize("kind", ["temperature", "isotonic"])
def test_chances_add_up_to_the_clicks(funnel: Funnel, store: Store, kind: str) -> None:
    """Both are fitted with a free level, so over all lists they learned from the mean chance is the share of clicks."""
    split = load_split(store, "funnel")
    fitted = calibrate_funnel(funnel, store, split, "temperature" if kind == "temperature" else "isotonic")
    events = split.targets("valid")
    trace = funnel.run(requests_before_events(store, events, funnel.settings.max_history))
    listed = trace.ranked.mask & ~trace.without_history[:, None]
    clicks = int((trace.ranked.items.numpy() == store.event_item[events][:, None])[listed.numpy()].sum())
    assert clicks > 0
    assert fitted(trace.ranked.scores[listed].numpy()).sum() == pytest.approx(clicks, rel=1e-3)


def test_the_error_is_told_and_falls(funnel: Funnel, store: Store) -> None:
    fitted = calibrate_funnel(funnel, store, load_split(store, "funnel"), "temperature")
    assert fitted.ece is not None
    before, after = fitted.ece
    assert after < before  # untrained scores near 0 would be chances near one half


def test_a_funnel_without_a_ranker_is_refused(funnel: Funnel, store: Store) -> None:
    bare = Funnel(funnel.retrievers, funnel.prerank, None, funnel.settings)
    with pytest.raises(ConfigError, match="without calibration"):
        calibrate_funnel(bare, store, load_split(store, "funnel"), "isotonic")


def test_too_few_clicks_are_refused(funnel: Funnel, store: Store) -> None:
    split = load_split(store, "funnel")
    assert np.size(split.targets("valid")) > 1
    with pytest.raises(StoreError, match="too few to calibrate"):
        calibrate_funnel(funnel, store, split, "isotonic", targets=1)
