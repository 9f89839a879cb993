"""Joining a load under way without asking the backend: for a crowd that wants the same thing at the same moment.

A caller whose hot key is that of a load of its own view, while nothing has been written to the store since before
the load's token was made, would be handed that very token: it may share the load (:mod:`agent_cache.flight` says who
may). So it need not make a key, look up, or be counted by the loop guard, to which calls made at once are one.

Whatever is not that plain takes the read line.
"""

from __future__ import annotations

from typing import Any

from agent_cache.backends.base import Backend
from agent_cache.config import settings
from agent_cache.context import UnderWay, View
from agent_cache.engine.answers import Answer
from agent_cache.engine.effects import join
from agent_cache.engine.tools import ReadTool
from agent_cache.errors import UnstorableResultError
from agent_cache.flight import TaskFlight

__all__ = ["Announcement", "announce", "joined"]


class Announcement:
    """Lets others of this view join a load, once it turns out to take time."""

    __slots__ = ("_generation", "_home", "_tool", "_values", "_view")

    def __init__(self, tool: ReadTool, view: View, values: tuple[Any, ...], home: Any) -> None:
        self._tool = tool
        self._view = view
        self._values = values
        self._home = home
        self._generation: object = home.generation  # before the token is made

    def __call__(self, flight: TaskFlight) -> None:
        key = self._tool.shape.hot_key(self._values)
        if key is None or self._generation is not self._home.generation:
            return
        view = self._view
        view.loads[key] = UnderWay(flight, self._generation, self._home)
        flight.on_landing(lambda: view.loads.pop(key, None))


def announce(tool: ReadTool, view: View, values: tuple[Any, ...], backend: Backend) -> Announcement | None:
    """To be asked for before the backend is; None where nobody may join this way."""
    if view.mode != "normal" or not backend.in_process:
        return None
    return Announcement(tool, view, values, backend.sync)


async def joined(tool: ReadTool, view: View, values: tuple[Any, ...]) -> Answer | None:
    """What a load under way in this view returned; None if there is none to join, or it is not for this caller."""
    key = tool.shape.hot_key(values)
    under_way = view.loads.get(key) if key is not None and not settings.notices.observers else None
    if under_way is None or under_way.generation is not under_way.home.generation:
        return None
    landed = await join(under_way.flight)
    if landed is None or landed.is_abandoned:
        return None
    view.count(tool.resource, "coalesced")
    if landed.error is not None:
        return Answer(error=landed.error.with_traceback(landed.trace))
    try:
        return Answer(landed.stored.fresh()) if landed.stored is not None else None
    except UnstorableResultError:
        return None
