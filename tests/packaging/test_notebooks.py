"""Notebooks in the repository: plain, small, each cell a program that parses. `make notebook` runs them."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


def _program(source: str | list[str]) -> str:
    """A cell without what is said to the notebook itself."""
    return "".join(line for line in "".join(source).splitlines(keepends=True) if line[:1] not in ("%", "!"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: str(path.name))
def test_it_is_small_and_parses(path: Path) -> None:
    assert path.stat().st_size < 200_000, "strip its outputs"
    notebook: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    cells = [_program(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 3
    for cell in cells:
        compile(cell, str(path), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)


def test_there_are_some() -> None:
    assert {path.stem for path in NOTEBOOKS} >= {"tour", "staleness", "savings"}
