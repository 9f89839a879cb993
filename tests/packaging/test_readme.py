"""Every Python block in README.md and in docs/ runs as it stands, by itself."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
RUNNER = Path(__file__).with_name("readme_blocks.py")

find_blocks = runpy.run_path(str(RUNNER))["blocks"]
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS: dict[tuple[str, int], str] = {
    (page.name, first): block
    for page in PAGES
    for first, block in find_blocks(page.read_text(encoding="utf-8")).items()
}
PATHS = {page.name: page for page in PAGES}


def test_the_readme_has_blocks_to_run() -> None:
    assert any(page == "README.md" for page, _ in BLOCKS), "README.md has no ```python block"


@pytest.mark.parametrize(("page", "first"), sorted(BLOCKS), ids=lambda part: str(part))
def test_block_runs(page: str, first: int, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AGENT_CACHE_")}
    done = subprocess.run(
        [sys.executable, str(RUNNER), str(PATHS[page]), str(first)],
        cwd=tmp_path,
        env=environment | {"PYTHONWARNINGS": "error::RuntimeWarning"},  # a coroutine that nobody awaited
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{page}, the block at line {first}\n{BLOCKS[page, first]}\n{done.stdout}{done.stderr}"
    assert "was never awaited" not in done.stderr


def test_the_finder_finds() -> None:
    text = "a\n```python\nx = 1\n```\n```bash\nls\n```\n- item\n  ```python\n  if x:\n      y\n  ```\n"
    assert find_blocks(text) == {3: "x = 1\n", 10: "if x:\n    y\n"}
