from __future__ import annotations

from pathlib import Path

from tunesmith.finetune.documentation import parameter_table, pipeline_table
from tunesmith.finetune.inputs import INPUTS

PAGE = Path(__file__).parents[2] / "docs" / "finetuning.md"


def test_the_page_holds_the_tables_as_they_are() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert parameter_table() in page
    assert pipeline_table() in page


def test_a_row_for_every_input() -> None:
    assert parameter_table().count("\n") == len(INPUTS) + 1
