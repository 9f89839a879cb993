"""A write as a link of its session's lineage: what the call was and how it turned out, as bytes.

How links hang together is :mod:`agent_cache.lineage`'s business.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from agent_cache.canonical import encoded
from agent_cache.config import settings
from agent_cache.context import View
from agent_cache.engine.effects import Ran
from agent_cache.engine.tools import WriteTool
from agent_cache.errors import UnkeyableArgumentError
from agent_cache.lineage import Lineage
from agent_cache.tags import Path

__all__ = ["Link", "link_of"]

# After these it may have been done or not, or be done later: two that look alike may have left two different worlds.
_UNSURE = re.compile("time_?d?_?out|cancel|connect|network|transport|interrupt|protocol", re.IGNORECASE)


class Link:
    """One write, from before the tool runs until it has ended."""

    def __init__(self, lineage: Lineage, tool: WriteTool, view: View, values: tuple[Any, ...]) -> None:
        self._lineage = lineage
        self._tool = tool
        self._call = self._keyed(view, values)  # now: the tool may change its arguments
        self._write = lineage.begins(tool.name)

    def ended(self, ran: Ran, paths: Iterable[Path], *, no_effect: bool, awaits: bool) -> None:
        """The tool has run. ``awaits``: it returned something that will write when it is awaited."""
        if no_effect:
            self._lineage.ends(self._write, (), None, effect=False)
            return
        call = None if self._call is None or awaits else self._turned_out(ran)
        self._lineage.ends(self._write, paths, call)

    def lost(self) -> None:
        """Nothing, once it has ended."""
        self._lineage.lost(self._write)

    def _keyed(self, view: View, values: tuple[Any, ...]) -> bytes | None:
        identity = view.session.identity if view.session is not None else {}
        try:
            who = encoded([*identity.items()], "identity")
            return self._tool.shape.digest(self._tool.identity, values) + who
        except UnkeyableArgumentError as error:
            self._say("argument", error)
            return None

    def _turned_out(self, ran: Ran) -> bytes | None:
        assert self._call is not None  # noqa: S101 - asked only with one
        error = ran.error
        try:
            if error is None:
                return self._call + encoded(("returned", ran.value), "result")
            if is_unsure(error):
                return None
            kind = type(error)
            told = (kind.__module__, kind.__qualname__, error.args, str(error))
            return self._call + encoded(("raised", *told), "exception")
        except Exception as unkeyable:  # noqa: BLE001 - no canonical form, or somebody's __str__: it is like no other
            self._say("result", unkeyable)
            return None

    def _say(self, what: str, error: Exception) -> None:
        text = "%s: %s; what this session reads from now on is shared with no other"
        settings.notices.once((self._tool.identity, "lineage", what), text, self._tool.name, error)


def is_unsure(error: BaseException) -> bool:
    """Whether nobody knows if what raised this had been done. So it is where it came of something of which nobody knows."""
    seen: set[int] = set()
    came_of: list[BaseException | None] = [error]
    while came_of:
        each = came_of.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        if not isinstance(each, Exception) or isinstance(each, (OSError, BaseExceptionGroup)):
            return True
        if any(_UNSURE.search(kind.__name__) for kind in type(each).__mro__):
            return True
        came_of += (each.__cause__, each.__context__)
    return False


def link_of(tool: WriteTool, view: View, values: tuple[Any, ...]) -> Link | None:
    """The link this write is going to be; None where its session keeps no lineage."""
    if view.session is None or view.session.lineage is None:
        return None
    return Link(view.session.lineage, tool, view, values)


__all__ += ["is_unsure"]
