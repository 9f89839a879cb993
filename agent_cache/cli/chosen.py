"""Which entries are meant: filters of a listing, the beginning of a key, the tags of a text such as ``cart:42``."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import unquote

import click

from agent_cache.backends.base import StoredEntry
from agent_cache.cli.shown import progress
from agent_cache.errors import ConfigurationError
from agent_cache.tags import Path, Tag, quoted, spell, write_tags

__all__ = [
    "as_json",
    "collected",
    "is_reached",
    "one_of",
    "paths_of",
    "seconds_of",
    "state",
    "the_one",
    "tool_filter",
    "written",
]

_LEAST = 4
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


async def collected(
    backend: Any, wanted: Callable[[StoredEntry], bool], *, payloads: bool = False
) -> list[StoredEntry]:
    """The stored entries that are wanted; a bar on stderr says how far it is."""
    found: list[StoredEntry] = []
    with progress() as bar:
        task = bar.add_task("looking through the store", total=None, done="")
        seen = 0
        async for entry in backend.scan(payloads=payloads):
            seen += 1
            if seen % 100 == 0:
                bar.update(task, done=f"{seen:,} entries")
            if wanted(entry):
                found.append(entry)
    return found


def paths_of(text: str) -> Path:
    """The resource a person names: ``cart:42``.

    Raises:
        ConfigurationError: it is none.
    """
    path = tuple(piece if quoted(unquote(piece)) == piece else quoted(piece) for piece in re.split("[:/]", text))
    if not all(path) or "{" in text:
        raise ConfigurationError("tag", text, "give a resource such as 'cart' or 'cart:42'")
    return path


def written(text: str) -> tuple[Tag, ...]:
    """What a write of this resource moves, for every scope."""
    return write_tags([paths_of(text)], ())


def is_reached(entry: StoredEntry, tags: tuple[Tag, ...]) -> bool:
    """Whether moving these tags drops it."""
    return entry.tags is not None and not set(tags).isdisjoint(entry.tags)


def state(entry: StoredEntry) -> str:
    """One word: ``current``, ``expired``, ``dropped`` (by a write), ``unknown`` (its tags are not known), ``broken``."""
    if entry.problem:
        return "broken"
    if entry.ttl_left == 0:
        return "expired"
    return {True: "current", False: "dropped", None: "unknown"}[entry.is_current]


def one_of(entries: list[StoredEntry], key: str) -> StoredEntry:
    """The one entry of this key, or whose digest begins like that.

    Raises:
        click.ClickException: there is none, or several (exit code 1).
    """
    exact = [entry for entry in entries if entry.name == key]
    found = exact or entries
    if not found:
        raise click.ClickException(f"there is no entry {key!r}; `agent-cache ls` lists what there is")
    if len(found) > 1:
        names = ", ".join(entry.name[:16] for entry in found[:5])
        raise click.ClickException(f"{len(found)} entries begin with {key!r}: {names} …: give more of it")
    return found[0]


async def the_one(backend: Any, key: str) -> StoredEntry:
    """The entry of a key, or of the beginning of a digest, its payload with it."""
    short = key.lower()
    enough = len(short) >= _LEAST

    def fits(entry: StoredEntry) -> bool:
        return entry.name == key or (enough and entry.is_tool and entry.name.startswith(short))

    fitting = await collected(backend, fits)
    if not fitting and not enough:
        raise click.UsageError(f"give at least {_LEAST} characters of a digest")
    found = one_of(fitting, key)
    scanned: AsyncIterator[StoredEntry] = backend.scan(payloads=True)
    async for entry in scanned:
        if entry.key == found.key:
            return entry
    raise click.ClickException(f"{key!r} went away meanwhile")


def tool_filter(
    tool: str | None, namespace: str | None, tag: str | None, *, only_current: bool
) -> Callable[[StoredEntry], bool]:
    """What a listing was asked for."""
    tags = written(tag) if tag is not None else ()

    def wanted(entry: StoredEntry) -> bool:
        if tool is not None and not (entry.is_tool and _is_named(entry.tool, tool)):
            return False
        if namespace is not None and entry.namespace != namespace:
            return False
        if tags and not is_reached(entry, tags):
            return False
        return not only_current or state(entry) == "current"

    return wanted


def _is_named(name: str, pattern: str) -> bool:
    """Both with its module and without."""
    return fnmatchcase(name, pattern) or fnmatchcase(name.rpartition(".")[2], pattern)


def as_json(entry: StoredEntry) -> dict[str, Any]:
    return {
        "key": entry.name,
        "kind": "tool" if entry.is_tool else "value",
        "tool": entry.tool,
        "resource": entry.resource,
        "paths": [":".join(path) for path in entry.paths],
        "scope": list(entry.chain),
        "namespace": entry.namespace,
        "arguments": entry.arguments,
        "bytes": entry.size,
        "age": entry.age,
        "ttl_left": entry.ttl_left,
        "load_seconds": entry.load_seconds,
        "state": state(entry),
        "problem": entry.problem,
        "tags": None if entry.tags is None else [spell(tag) for tag in entry.tags],
    }


def seconds_of(text: str, option: str) -> float:
    """``90``, ``15m``, ``2h``, ``7d`` in seconds; ``option`` is where it was given.

    Raises:
        click.BadParameter: it is none.
    """
    number, unit = (text[:-1], _UNITS[text[-1]]) if text[-1:] in _UNITS else (text, 1)
    try:
        found = float(number) * unit
    except ValueError:
        found = 0.0
    if not 0 < found < 1e9:
        raise click.BadParameter(f"{text!r} is no duration; write 90, 15m, 2h or 7d", param_hint=repr(option))
    return found
