"""The papers' pictures are those that the tool draws, and nothing in them lies on something else."""

from __future__ import annotations

from itertools import combinations
from xml.etree import ElementTree

import pytest
from tools.diagrams import FIGURES, Diagram

from tools import diagrams

ALL = [diagrams.karma(), diagrams.t2diff(), diagrams.ulim(), diagrams.dmae()]
every_diagram = pytest.mark.parametrize("diagram", ALL, ids=[d.name for d in ALL])


@every_diagram
def test_the_file_is_what_is_drawn(diagram: Diagram) -> None:
    assert (FIGURES / f"{diagram.name}.svg").read_text() == diagram.drawn()
    ElementTree.fromstring(diagram.drawn())


@every_diagram
def test_boxes_are_apart_inside_the_picture_and_wide_enough(diagram: Diagram) -> None:
    for box in diagram.boxes:
        assert box.x >= 0
        assert box.y >= 0
        assert box.x + box.width <= diagram.width
        assert box.y + box.height <= diagram.height
        assert all(6.4 * len(line) <= box.width for line in box.lines), box.lines
    for a, b in combinations(diagram.boxes, 2):
        beside = a.x + a.width < b.x or b.x + b.width < a.x
        above = a.y + a.height < b.y or b.y + b.height < a.y
        assert beside or above, (a.lines, b.lines)
