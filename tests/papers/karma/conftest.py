"""A small market with text vectors, and a tiny language model to read its histories."""

from __future__ import annotations

from pathlib import Path

import pytest

from penchant.data.store import Store
from tests.factories import make_store
from tests.tiny_models import encoded, save_language_model


@pytest.fixture(scope="session")
def language_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_language_model(tmp_path_factory.mktemp("language"))


@pytest.fixture(scope="session")
def market(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("karma")
    return encoded(make_store(folder / "store"), folder)
