"""What the terminal shows: tables, JSON, sizes, durations. Text that comes from a store is made harmless first."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from agent_cache.pages.words import brief_duration, plural

__all__ = [
    "age",
    "clean",
    "cut",
    "entries_said",
    "fields",
    "in_utf8",
    "is_narrow",
    "out",
    "print_json",
    "progress",
    "said",
    "size",
    "table",
    "write_page",
]

_WIDE = 110
_PIPED = 160  # columns where nobody says how many there are
_UNUSUAL = re.compile(r"[^\n -~]")


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Nobody reads on: rich would end the program with 1, which is the code of "no"."""
        raise BrokenPipeError


def out() -> Console:
    """The terminal, or the pipe: there wide, without colour."""
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return _Console(width=_PIPED if piped else None, highlight=False, soft_wrap=False)


def print_json(value: Any, indent: int | None = 2) -> None:
    """One JSON value; what has no form in JSON as text. What a terminal would act upon, or the output's encoding does not
    have, is written as JSON's own escapes."""
    unicode = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "").startswith("utf")
    text = json.dumps(value, indent=indent, ensure_ascii=not unicode, default=str)
    sys.stdout.write(_UNUSUAL.sub(_in_json, text) + "\n")


def _in_json(found: re.Match[str]) -> str:
    if found[0].isprintable():
        return found[0]
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def in_utf8(page: str) -> bytes:
    """A page as its head says it is encoded; half a surrogate pair, which no encoding has, as a question mark."""
    return page.encode("utf-8", "replace")


def write_page(page: str) -> None:
    """Print a page, in its own encoding, whatever the terminal's."""
    sys.stdout.flush()
    sys.stdout.buffer.write(in_utf8(page))
    sys.stdout.buffer.flush()


def clean(text: str) -> str:
    """Without what a terminal would act upon: control characters are spelled."""
    return "".join(c if c.isprintable() else "\\n" if c == "\n" else f"\\x{ord(c):02x}" for c in text)


def cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def said(text: str, style: str = "") -> None:
    """A line of text, wrapped as the terminal likes."""
    out().print(Text(clean(text), style=style), soft_wrap=not sys.stdout.isatty() and "COLUMNS" not in os.environ)


def is_narrow() -> bool:
    """Whether a table has to do without what is nice to have."""
    return out().width < _WIDE


def entries_said(many: int) -> str:
    return plural(many, "entry", "entries")


def table(columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[object]], *, styles: Sequence[str] = ()) -> Table:
    """A table; a column is its heading and ``"n"`` for numbers, ``"k"`` for what must stay whole, or ``""``.

    ``styles``: one per row.
    """
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1 if is_narrow() else 2, 0, 0))
    for heading, kind in columns:
        whole = kind in ("n", "k")
        made.add_column(heading, justify="right" if kind == "n" else "left", no_wrap=whole, overflow="fold")
    for number, row in enumerate(rows):
        made.add_row(*(Text(clean(str(cell))) for cell in row), style=styles[number] if styles else "")
    return made


def fields(pairs: Iterable[tuple[str, object]]) -> Table:
    """Names and values below each other; what is empty is left out."""
    made = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    made.add_column(no_wrap=True, style="bold")
    made.add_column(overflow="fold")
    for name, value in pairs:
        if value not in (None, ""):
            made.add_row(name, Text(clean(str(value))))
    return made


def size(many: float) -> str:
    """``312 B``, ``4.1 KB``, ``2.0 MB``."""
    for unit in ("B", "KB", "MB"):
        if many < 1024:
            return f"{many:.0f} B" if unit == "B" else f"{many:.1f} {unit}"
        many /= 1024
    return f"{many:.1f} GB"


def age(seconds: float | None) -> str:
    """A duration in few characters; a dash where it is not known."""
    if seconds is None:
        return "-"
    return brief_duration(seconds) if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def progress(*, quiet: bool = False) -> Progress:
    """A bar on stderr; gone when the work is done, and none where stderr is no terminal."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[done]}"))
    return Progress(
        *columns, TimeElapsedColumn(), console=console, transient=True, disable=quiet or not console.is_terminal
    )
