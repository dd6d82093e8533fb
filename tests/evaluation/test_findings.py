"""Findings: every number on a page is one of a result file, or the page is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from penchant.errors import RunError
from penchant.evaluation.report.findings import findings_are_current, write_findings
from tests.evaluation.rows import write_row


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    for seed in range(2):
        write_row(folder, 0.30 + 0.01 * seed, row="control", seed=seed)
        write_row(folder, 0.40 + 0.01 * seed, row="above", seed=seed)
    (folder / "findings").mkdir()
    return folder


def write_page(results: Path, text: str) -> Path:
    page = results / "findings" / "answer.md"
    page.write_text(text)
    return page


def test_numbers_are_filled_in_from_the_files(results: Path, tmp_path: Path) -> None:
    write_page(results, "It is {{house/retrieval above: HR@10}}, more by {{house/retrieval above - control: HR@10}}.\n")
    (page,) = write_findings(results, tmp_path / "docs")
    head, text = page.read_text().split("\n\n", 1)
    assert "penchant report results" in head
    assert text.startswith("It is 0.4050, more by +0.1000 [+0.0")
    assert text.endswith("].\n")
    assert findings_are_current(results, tmp_path / "docs")
    write_row(results, 0.1, row="above", seed=0)
    assert not findings_are_current(results, tmp_path / "docs")


def test_a_page_without_a_source_goes_and_others_stay(results: Path, tmp_path: Path) -> None:
    assert write_findings(results, tmp_path / "docs") == []
    assert findings_are_current(results, tmp_path / "docs")
    source = write_page(results, "Nothing.\n")
    (page,) = write_findings(results, tmp_path / "docs")
    (page.parent / "own.md").write_text("Somebody's own.\n")
    source.unlink()
    assert not findings_are_current(results, tmp_path / "docs")
    write_findings(results, tmp_path / "docs")
    assert sorted(path.name for path in page.parent.iterdir()) == ["own.md"]


def test_of_several_data_sets_one_is_named(results: Path, tmp_path: Path) -> None:
    write_row(results, 0.7, row="above", data="other")
    write_page(results, "{{house/retrieval@other above: HR@10}} {{house/retrieval@made-up/loo control: HR@10}}\n")
    (page,) = write_findings(results, tmp_path / "docs")
    assert page.read_text().endswith("0.7000 0.3050\n")


@pytest.mark.parametrize(
    ("number", "why"),
    [
        ("{{house/retrieval nobody: HR@10}}", "no row 'nobody', there are"),
        ("{{house/retrieval above - nobody: HR@10}}", "no row 'nobody'"),
        ("{{house/retrieval above: HR@11}}", "no 'HR@11' of 'above'"),
        ("{{house/other above: HR@10}}", "no such table"),
        ("{{house/retrieval@there above: HR@10}}", "no such table"),
        ("{{house/retrieval above}}", "is no number"),
    ],
)
def test_a_number_that_no_file_has_is_refused_by_name(results: Path, tmp_path: Path, number: str, why: str) -> None:
    write_page(results, f"It is {number}.\n")
    with pytest.raises(RunError, match=why) as refused:
        write_findings(results, tmp_path / "docs")
    assert "answer.md" in str(refused.value)
    assert not (tmp_path / "docs" / "findings").exists()


def test_several_data_sets_and_none_named_is_refused(results: Path, tmp_path: Path) -> None:
    write_row(results, 0.7, row="above", data="other")
    write_page(results, "{{house/retrieval above: HR@10}}\n")
    with pytest.raises(RunError, match="2 data sets, splits or versions"):
        write_findings(results, tmp_path / "docs")
