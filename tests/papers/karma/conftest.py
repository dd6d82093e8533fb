"""A small market with text vectors, and a tiny language model to read its histories."""

from __future__ import annotations

from pathlib import Path

import pytest

from penchant.data.store import Store
from penchant.encoders.encode import encode_store
from tests.factories import make_store
from tests.tiny_models import save_language_model, save_text_model


@pytest.fixture(scope="session")
def language_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_language_model(tmp_path_factory.mktemp("language"))


@pytest.fixture(scope="session")
def market(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("karma")
    store = make_store(folder / "store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PENCHANT_CACHE", str(folder / "cache"))
        encode_store(store, text=str(save_text_model(folder / "text")), image=None, device="cpu")
    return store
