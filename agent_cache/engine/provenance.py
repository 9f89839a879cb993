"""Where the answer of one call came from, for an adapter that asked before it made the call.

Only a stand-in that was compiled to tell (its function has ``TELLS``) passes anything on; the calls of every other tool know
nothing of this. Who is asking (a session, an identity) is no part of it: tags are the paths of resources and nothing else.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from agent_cache.context import Warm
from agent_cache.engine.answers import Report
from agent_cache.engine.calls import ReadCall
from agent_cache.engine.tools import ReadTool
from agent_cache.tags import Path, Tag

__all__ = ["ASKED", "TELLS", "Provenance", "ToldWarm", "resources_of", "tell_hot"]

TELLS = "__agent_cache_tells__"
"""An attribute of a function: its stand-in tells who asks (``ASKED``) where each answer came from."""


class ToldWarm(Warm):
    """A call that can be answered at once by a tool that tells: with a slot for the ``tags`` of the answer."""

    __slots__ = ("tags",)


class Provenance:
    """What is known of one call's answer once it is there.

    Attributes:
        age: seconds since the answer was loaded (or was last found to hold still); 0 for a load that was joined. None where
            that is not known, or where the tool ran.
        stale: the rule by which it was served beyond its ttl.
    """

    __slots__ = ("_of", "_tags", "age", "stale")

    def __init__(self) -> None:
        self.age: float | None = None
        self.stale: str | None = None
        self._tags: tuple[str, ...] = ()
        self._of: tuple[ReadTool, tuple[Any, ...], tuple[Tag, ...]] | None = None

    def hot(self, warm: Warm) -> None:
        """The call was answered at once."""
        self._tags, self._of = warm.tags, None
        self.age, self.stale = max(0.0, warm.home.clock() - warm.entry.created), None

    def was(
        self,
        tool: ReadTool,
        values: tuple[Any, ...],
        extras: tuple[Tag, ...],
        age: float | None,
        stale: str | None = None,
    ) -> None:
        """The call of ``tool`` was answered so; ``extras``: what its load came to depend on."""
        self._of, self.age, self.stale = (tool, values, extras), age, stale

    def reported(self, tool: ReadTool, values: tuple[Any, ...], call: ReadCall, report: Report) -> None:
        """The same, of a call that took the read line."""
        extras, age = call.extras, report.age
        if report.landed is not None and report.outcome in ("coalesced", "revalidated"):
            extras, age = report.landed.depends or extras, report.landed.age
        self.was(tool, values, extras, age, report.reason if report.outcome == "stale_served" else None)

    @property
    def tags(self) -> tuple[str, ...]:
        """The resources the answer depends on, as paths (``order:7``): those declared, then those its load came to read."""
        return self._tags if self._of is None else resources_of(*self._of)


def resources_of(tool: ReadTool, values: tuple[Any, ...], extras: tuple[Tag, ...]) -> tuple[str, ...]:
    """The resources of one call, as paths."""
    paths = tool.policy.fixed_paths
    if paths is None:
        arguments = tool.shape.arguments(values)
        paths = tuple(template.fill(arguments)[0] for template in tool.policy.resources)
    if extras:
        paths += tuple(path for kind, _, path in extras if kind == "any" and not _is_of_a_tool(path))
    return tuple(dict.fromkeys([":".join(path) for path in paths]))


def _is_of_a_tool(path: Path) -> bool:
    """Calls of tools have paths too, which say nothing to people."""
    return path[0].startswith("#")


ASKED: ContextVar[Provenance | None] = ContextVar("agent_cache_provenance", default=None)
"""Who wants to hear of the call that is being made."""


def tell_hot(warm: Warm) -> None:
    """A call was answered at once."""
    asked = ASKED.get()
    if asked is not None:
        asked.hot(warm)
