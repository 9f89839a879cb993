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
from agent_cache.engine.answers import Answer, shared
from agent_cache.engine.effects import join
from agent_cache.engine.outbox import OUTBOX
from agent_cache.engine.provenance import Provenance
from agent_cache.engine.tools import ReadTool
from agent_cache.flight import TaskFlight
from agent_cache.recorded import TALLY

Loads = dict[Any, UnderWay]

__all__ = ["Announcement", "announce", "joined"]


class Announcement:
    """Lets others of this view join a load, once it turns out to take time."""

    __slots__ = ("_backend", "_generation", "_loads", "_tool", "_values")

    def __init__(self, tool: ReadTool, values: tuple[Any, ...], backend: Backend, loads: Loads) -> None:
        self._tool = tool
        self._values = values
        self._backend = backend
        self._loads = loads
        self._generation = _generation(backend)  # before the token is made

    def __call__(self, flight: TaskFlight) -> None:
        key = self._tool.shape.hot_key(self._values)
        if key is None or self._generation is not _generation(self._backend):
            return
        under_way = self._loads[key] = UnderWay(flight, self._generation, self._backend)
        flight.on_landing(lambda: _forget(self._loads, key, under_way))


def _generation(backend: Backend) -> object:
    """What is replaced whenever anything in the store of this process moves; None for one that has no such thing."""
    return getattr(backend.sync, "generation", None)


def _forget(loads: Loads, key: object, under_way: UnderWay) -> None:
    if loads.get(key) is under_way:
        del loads[key]


def announce(
    tool: ReadTool, view: View, values: tuple[Any, ...], backend: Backend, loads: Loads
) -> Announcement | None:
    """To be asked for before the backend is; None where nobody may join this way.

    ``loads`` is the view's table as it was when the call began: after a change of the configuration it has another.
    A call with an argument that can be changed while it runs is not announced: its key would be of later.
    """
    if view.mode != "normal" or not backend.in_process or _generation(backend) is None:
        return None
    return Announcement(tool, values, backend, loads) if tool.shape.has_only_atoms(values) else None


async def joined(tool: ReadTool, view: View, values: tuple[Any, ...], asked: Provenance | None = None) -> Answer | None:
    """What a load under way in this view returned; None if there is none to join, or it is not for this caller.

    ``asked``: whoever wants to know where the answer came from.
    """
    if settings.notices.observers:
        return None
    loads, key = view.loads, tool.shape.hot_key(values)
    under_way = loads.get(key) if key is not None else None
    if under_way is None or under_way.flight.left_alone or under_way.generation is not _generation(under_way.backend):
        return None
    if OUTBOX.owes(under_way.backend):
        return None
    landed = await join(under_way.flight)
    if landed is None:
        return None
    if landed.is_abandoned:
        _forget(loads, key, under_way)
        return None
    answer = shared(landed)
    if answer is not None:
        view.count(tool.resource, "coalesced")
        if TALLY.on:
            TALLY.add(tool.name, "coalesced")
        if asked is not None:
            asked.was(tool, values, landed.depends, landed.age)
    return answer
