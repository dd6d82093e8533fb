"""What a user is told."""

from __future__ import annotations

from typing import Any

import pytest

from penchant import errors
from penchant.errors import PenchantError

FAMILY: list[Any] = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, PenchantError)
]


@pytest.mark.parametrize("kind", FAMILY)
def test_nothing_is_wrong_without_a_fix(kind: Any) -> None:
    assert str(kind("k is 0", where="--k", fix="Give 1 or more.")) == "--k: k is 0. Give 1 or more."
    with pytest.raises(TypeError, match="fix"):
        kind("k is 0", where="--k")
