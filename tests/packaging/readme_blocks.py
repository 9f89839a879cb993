"""Find the Python blocks of a Markdown file, and run one the way a reader would: pasted into a program of its own.

``python readme_blocks.py README.md 12`` runs the block that starts at line 12. ``await`` is allowed at its top level.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import sys
import types
import warnings
from pathlib import Path

_FENCE = re.compile(r"^(?P<indent>[ ]*)```python[ ]*\n(?P<code>.*?)^(?P=indent)```[ ]*$", re.MULTILINE | re.DOTALL)


def blocks(markdown: str) -> dict[int, str]:
    """The source of each block, by the line number of its first line."""
    found = {}
    for match in _FENCE.finditer(markdown):
        first = markdown.count("\n", 0, match.start("code")) + 1
        indent = match["indent"]
        found[first] = "".join(line.removeprefix(indent) for line in match["code"].splitlines(keepends=True))
    return found


def others(source: str) -> list[str]:
    """What it imports of other projects."""
    found = re.findall(r"^ *(?:from|import) +([A-Za-z_][\w.]*)", source, re.MULTILINE)
    return [name for name in found if not name.startswith("agent_cache")]


def run(path: Path, first: int) -> None:
    warnings.simplefilter("error", RuntimeWarning)  # a coroutine that nobody awaited
    # Empty lines in front: a traceback then names the line of the Markdown file.
    source = "\n" * (first - 1) + blocks(path.read_text(encoding="utf-8"))[first]
    code = compile(source, str(path), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    module = types.ModuleType(f"readme_line_{first}")
    sys.modules[module.__name__] = module  # annotations are looked up there
    outcome = eval(code, module.__dict__)  # noqa: S307 - our own README
    if inspect.iscoroutine(outcome):

        async def main() -> None:
            await outcome

        asyncio.run(main())


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]))
