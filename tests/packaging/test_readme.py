"""Every Python block in README.md and in docs/ runs as it stands, by itself."""

from __future__ import annotations

import os
import runpy
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
RUNNER = Path(__file__).with_name("readme_blocks.py")

runner = runpy.run_path(str(RUNNER))
find_blocks = runner["blocks"]
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS: dict[tuple[str, int], str] = {
    (page.name, first): block
    for page in PAGES
    for first, block in find_blocks(page.read_text(encoding="utf-8")).items()
}
PATHS = {page.name: page for page in PAGES}


def test_the_readme_has_blocks_to_run() -> None:
    assert any(page == "README.md" for page, _ in BLOCKS), "README.md has no ```python block"


def run(warm: Any, page: Path, first: int, folder: Path) -> tuple[int, str]:
    """In a process of its own, in which nothing of ours but ``import agent_cache`` has been imported; code and words."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AGENT_CACHE_")}
    block = find_blocks(page.read_text(encoding="utf-8"))[first]
    done = subprocess.run(
        warm.command(str(RUNNER), str(page), str(first), imports=runner["others"](block)),
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(("page", "first"), sorted(BLOCKS), ids=lambda part: str(part))
def test_block_runs(page: str, first: int, warm: Any, tmp_path: Path) -> None:
    code, said = run(warm, PATHS[page], first, tmp_path)
    assert code == 0, f"{page}, the block at line {first}\n{BLOCKS[page, first]}\n{said}"
    assert "was never awaited" not in said


@pytest.mark.parametrize(
    ("block", "told"),
    [
        ("raise SystemExit(3)", ""),
        ("1 / 0", "ZeroDivisionError"),
        ("async def f(): ...\nf()", "was never awaited"),
        ("async def f(): ...\nkept = f()", "was never awaited"),
        ("import no_such_package", "no_such_package"),
        ("import agent_cache\nagent_cache.no_such_name", "no_such_name"),
        ("import agent_cache\nagent_cache.simulate", "simulate"),  # of ours, only what the block imports is there
        ("import sys\nassert sys.stdin.read() == ''\nopen('.here').read()", ".here"),
    ],
)
def test_what_is_wrong_with_a_block_is_told(block: str, told: str, warm: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"```python\n{block}\n```\n", encoding="utf-8")
    code, said = run(warm, page, 2, tmp_path)
    assert code != 0 or "was never awaited" in said
    assert told in said


def test_the_finder_finds() -> None:
    text = "a\n```python\nx = 1\n```\n```bash\nls\n```\n- item\n  ```python\n  if x:\n      y\n  ```\n"
    assert find_blocks(text) == {3: "x = 1\n", 10: "if x:\n    y\n"}
