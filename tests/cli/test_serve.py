"""penchant serve: what its options reach."""

from __future__ import annotations

from typing import Any

import pytest

from penchant.cli.main import main
from penchant.serve import app


def test_allow_host_may_be_given_more_than_once(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(app, "serve", lambda *_, **options: given.update(options))
    assert main(["serve", "bundle", "--allow-host", "shop.example", "--allow-host", "b.example"]) == 0
    assert given["allow_hosts"] == ("shop.example", "b.example")
