"""The table of mutants fits the code: an edit that fits nothing any more would prove nothing when it is run."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MUTANTS = runpy.run_path(str(ROOT / "tests" / "mutants.py"))["MUTANTS"]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: str(mutant.name))
def test_each_old_text_of_a_mutant_stands_in_its_file_once(mutant: object) -> None:
    text = (ROOT / "agent_cache" / mutant.file).read_text("utf-8")  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    for old, new in mutant.edits:  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
        assert text.count(old) == 1, old
        assert new != old
