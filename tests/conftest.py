"""Shapes and types of every public signature are executed: penchant is imported under jaxtyping and beartype."""

from __future__ import annotations

import os
from pathlib import Path

from jaxtyping import install_import_hook

from tests import shapes  # noqa: F401  (the hook below finds it by name)

install_import_hook("penchant", "tests.shapes.check")

import pytest  # noqa: E402

from penchant.data.store import Store  # noqa: E402
from tests.factories import make_store  # noqa: E402


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A small made-up market: 60 users, 80 items, texts, pictures, queries, impressions. Read only."""
    return make_store(tmp_path_factory.mktemp("market") / "store")


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The same market, where every other event came from a search. Read only."""
    return make_store(tmp_path_factory.mktemp("searched") / "store", searches=True)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The real data sets; a test that asks for them is skipped where they are absent."""
    folder = Path(os.environ.get("PENCHANT_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data sets are not at {folder} (set PENCHANT_DATA)")
    return folder
