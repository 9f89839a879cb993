"""``depends_on``: a tool says, while it runs, what else its answer depends on. What becomes of it is the engine's."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from agent_cache.codecs import codec_for
from agent_cache.context import loading
from agent_cache.engine.dependencies import LoadNotes, Noting, Part
from agent_cache.engine.effects import Ask, Down
from agent_cache.errors import ConfigurationError
from agent_cache.tags import Path, Template, read_tags

__all__ = ["Depending", "depends_on"]

_CODEC = codec_for(Any)


class Depending:
    """What :func:`depends_on` returns: to be awaited at once in an ``async def`` tool, or left alone."""

    __slots__ = ("_waiting",)

    def __init__(self, waiting: list[tuple[LoadNotes, Part]]) -> None:
        self._waiting = waiting

    def __await__(self) -> Generator[Any, Any, None]:
        return self._proven().__await__()

    async def _proven(self) -> None:
        waiting, self._waiting = self._waiting, []
        for load, part in waiting:
            found = await Ask(part, _CODEC, token_only=True).go()
            if not isinstance(found, Down):
                load.unproven -= 1
                load.learn(part, found)


def depends_on(*resources: str, **values: object) -> Depending:
    """Say, inside a cached tool and before it is read, what else the answer depends on: ``depends_on("ticket:42")``.

    A write of any of it drops the answer, as if the tool had declared it. Cached tools called inside a cached tool do this by
    themselves. In an ``async def`` tool write ``await depends_on(...)``: a backend outside the process has to be asked
    before the source is. Without the await it works too, from the second load of the same call on: the answer of the first is
    returned and not kept.

    Outside a load (the tool was called uncached, or is a write) it does nothing.

    Args:
        resources: names or templates, as for :class:`~agent_cache.AgentCache`; templates over ``values``. A value from
            elsewhere belongs into ``values`` and not into the text: only there can it hold a ``:`` or a ``/``.
        values: what the templates name. One that is None or has no text: the answer is returned and not kept.

    Raises:
        ConfigurationError: no resource, one that is no text, or a placeholder that names no value.
    """
    if not resources:
        raise ConfigurationError("resources", resources, "say on what, as in depends_on('ticket:{id}', id=ticket_id)")
    filled = [Template.parse(text, values, "resources").fill(values) for text in resources]
    notes = loading.get()
    if notes is None:
        return Depending([])
    return _noted(notes, [path for path, _ in filled], whole=all(whole for _, whole in filled))


def _noted(notes: Noting, paths: list[Path], *, whole: bool) -> Depending:
    loads = [load for load in notes.chain_of_loads() if load.fenced]
    blocking = bool(loads) and not loads[0].call.tool.is_async
    waiting: list[tuple[LoadNotes, Part]] = []
    for load in loads:
        why = load.may_not_hold(load.call.chain) if whole else "unknown_entity"
        if why is not None:
            load.refuse(why)
            continue
        lacking = load.lacks(read_tags(paths, load.call.chain))
        if not lacking:
            continue
        part = Part(load.call.backend, lacking)
        if blocking or part.backend.in_process:
            load.learn(part, Ask(part, _CODEC, token_only=True).go_blocking())
        else:
            load.unproven += 1  # until it is awaited
            waiting.append((load, part))
    return Depending(waiting)
