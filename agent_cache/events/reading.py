"""Files of events, read as a stream: rotated files before the one that is written, lines that are no events passed over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agent_cache.errors import ConfigurationError
from agent_cache.events.lines import Recorded, from_line

__all__ = ["Unread", "parts_of", "read_events"]

_LONGEST_LINE = 1_000_000
_BEGINS = '{"v":'


@dataclass(slots=True)
class Unread:
    """Counts what could not be read: ``lines`` that are no events, ``lost`` events that had never been written."""

    lines: int = 0
    lost: int = 0


def read_events(
    files: Iterable[str | Path], since: float | None = None, until: float | None = None, unread: Unread | None = None
) -> Iterator[Recorded]:
    """The events of these files, each file's in the order they were written.

    Args:
        files: paths as given to :class:`EventLog`; ``path.1``, ``path.2``, … are read before ``path``.
        since, until: seconds since 1970; only events from the first on, and before the second.
        unread: counts what could not be read.

    Raises:
        ConfigurationError: a file is not there, cannot be read, or (told at its end) is one of something else.
    """
    passed = unread if unread is not None else Unread()
    for file in files:
        read = _Read()
        for part in parts_of(Path(file)):
            for found in _events(part, passed, read):
                if (since is not None and found.at < since) or (until is not None and found.at >= until):
                    continue
                passed.lost += found.lost
                if found.event is not None:
                    yield found
        if read.foreign and not read.own:
            raise ConfigurationError(
                "events",
                str(file),
                f"give a file that EventLog has written; none of its {read.foreign} lines begins as an event",
            )


@dataclass(slots=True)
class _Read:
    """Lines of a file and what was rotated away from it: how many begin as ours do, read or not, and how many do not."""

    own: int = 0
    foreign: int = 0


def parts_of(path: Path) -> list[Path]:
    """The file and what was rotated away from it, oldest first.

    Raises:
        ConfigurationError: there is none.
    """
    if path.is_dir():
        raise ConfigurationError("events", str(path), "give a file; this is a folder")
    older: list[Path] = []
    while (part := path.with_name(f"{path.name}.{len(older) + 1}")).is_file():
        older.append(part)
    found = [*reversed(older), *([path] if path.is_file() else [])]
    if not found:
        raise ConfigurationError("events", str(path), "give a file that EventLog has written; this one is not there")
    return found


def _events(part: Path, unread: Unread, read: _Read) -> Iterator[Recorded]:
    try:
        with part.open("r", encoding="utf-8", errors="replace", newline="\n") as lines:
            while line := lines.readline(_LONGEST_LINE):
                found = from_line(line)
                if not line.strip():
                    continue
                if line.startswith(_BEGINS) or _BEGINS.startswith(line.rstrip()):  # the last one may have been cut off
                    read.own += 1
                else:
                    read.foreign += 1
                if found is not None:
                    yield found
                else:
                    unread.lines += 1
    except OSError as error:
        raise ConfigurationError("events", str(part), f"give a file that can be read ({error.strerror})") from error
