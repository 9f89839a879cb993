"""What a run counts: by tool, in all, and the loops it found. Plain numbers, ready for JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["LoopFound", "Report", "ToolTally"]


@dataclass(slots=True)
class ToolTally:
    """One tool's figures. ``None`` in seconds: the trace does not say how long calls took.

    Attributes:
        tool: its name; ``kind``: read, write, other, or unknown (no policy names it).
        calls: all of them; ``errors``: those answered by an error; ``unanswered``: whose result the trace does not have.
        repeats_within: calls made before in the same session; ``repeats_across``: made before, but by others only.
        uncached: reads that the policy cannot cache (an argument or an identity it needs is missing).
        hits: reads the policy answers from the cache; ``stale``: of these, answers that were no longer true.
        ttl_hits, ttl_stale: the same for a cache of the same scope that knows a ttl and no writes.
        best: hits of a cache that knows when an answer is still true: no cache can have more.
        seconds, saved: seconds all calls took, and those of the hits.
    """

    tool: str
    kind: str = "unknown"
    calls: float = 0
    errors: float = 0
    unanswered: float = 0
    repeats_within: float = 0
    repeats_across: float = 0
    uncached: float = 0
    hits: float = 0
    stale: float = 0
    ttl_hits: float = 0
    ttl_stale: float = 0
    best: float = 0
    seconds: float | None = None
    saved: float | None = None

    def took(self, seconds: float | None, saved: float) -> None:
        """A call took so long, and that share of it would have been saved."""
        if seconds is not None:
            self.seconds = (self.seconds or 0.0) + seconds
            self.saved = (self.saved or 0.0) + seconds * saved

    @property
    def hit_rate(self) -> float:
        return self.hits / self.calls if self.calls else 0.0

    def as_dict(self) -> dict[str, Any]:
        found = {name: round(value) if isinstance(value, float) else value for name, value in asdict(self).items()}
        found["seconds"] = None if self.seconds is None else round(self.seconds, 3)
        found["saved"] = None if self.saved is None else round(self.saved, 3)
        return found | {"hit_rate": round(self.hit_rate, 4)}


@dataclass(frozen=True, slots=True)
class LoopFound:
    """Where a session would have been stopped: before its call number ``step``, counted from 1."""

    session: str
    step: int
    kind: str
    tool: str
    count: int
    calls_after: int
    """Calls the session made from that one on."""
    hint: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True)
class Report:
    """What a simulation found.

    ``sampled`` is the share of the keys that was followed: below 1.0, repeats, hits and savings are estimates.
    ``loops`` holds the first thousand, ``loop_count`` counts all.
    """

    policy: str
    files: tuple[str, ...] = ()
    tools: dict[str, ToolTally] = field(default_factory=dict[str, ToolTally])
    sessions: int = 0
    loops: list[LoopFound] = field(default_factory=list[LoopFound])
    loop_count: int = 0
    loop_calls: int = 0
    """Calls made after the point at which their session would have been stopped."""
    sampled: float = 1.0
    notes: tuple[str, ...] = ()

    def tool(self, name: str) -> ToolTally:
        found = self.tools.get(name)
        if found is None:
            found = self.tools[name] = ToolTally(name)
        return found

    @property
    def total(self) -> ToolTally:
        """The sum over all tools."""
        total = ToolTally("all tools", "")
        for tally in self.tools.values():
            for name in (
                "calls",
                "errors",
                "unanswered",
                "repeats_within",
                "repeats_across",
                "uncached",
                "hits",
                "stale",
            ):
                setattr(total, name, getattr(total, name) + getattr(tally, name))
            for name in ("ttl_hits", "ttl_stale", "best"):
                setattr(total, name, getattr(total, name) + getattr(tally, name))
            if tally.seconds is not None:
                total.seconds = (total.seconds or 0.0) + tally.seconds
                total.saved = (total.saved or 0.0) + (tally.saved or 0.0)
        return total

    @property
    def reads(self) -> float:
        return sum(tally.calls for tally in self.tools.values() if tally.kind == "read")

    @property
    def hit_rate(self) -> float:
        """Hits of all reads."""
        return self.total.hits / self.reads if self.reads else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON; the same fields as the attributes."""
        total = self.total.as_dict() | {"tool": None, "hit_rate": round(self.hit_rate, 4)}
        return {
            "policy": self.policy,
            "files": list(self.files),
            "sessions": self.sessions,
            "reads": round(self.reads),
            "total": total,
            "tools": [tally.as_dict() for tally in sorted(self.tools.values(), key=lambda t: (-t.calls, t.tool))],
            "loops": [loop.as_dict() for loop in self.loops],
            "loop_count": self.loop_count,
            "loop_calls": self.loop_calls,
            "sampled": self.sampled,
            "notes": list(self.notes),
        }
