"""Every error agent_cache raises, in one tree.

::

    AgentCacheError
    ├── ConfigurationError (ValueError)      a decorator, session or configure() was given something wrong
    ├── UnkeyableArgumentError (TypeError)   an argument that cannot be part of a key, with its path
    ├── UnstorableResultError (TypeError)    a result that would not come back equal; it is returned, not stored
    ├── BackendError                         a backend could not do its work
    ├── CassetteError                        a cassette cannot be read, or cannot answer
    │   └── UnrecordedCallError              a replayed run made a call that was not recorded
    ├── ExportFileError (ValueError)         a file that cannot be imported
    ├── LoadTimeoutError (TimeoutError)      a read tool took longer than its hard_timeout
    ├── BatchLoadError (LookupError)         a batch loader did not say what the value of a key is
    └── AgentLoopDetectedError               a session's loop policy stopped a call
    NoEffect (Exception)                     raised BY a write tool: "nothing was changed", not an error of ours
    ReplayedToolError (Exception)        a tool's own error, given again from a cassette

A tool's own exceptions pass through untouched and never appear here. This
module imports nothing of the package.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent_cache.model import LoopEvent

__all__ = [
    "AgentCacheError",
    "AgentLoopDetectedError",
    "BackendError",
    "BatchLoadError",
    "CassetteError",
    "ConfigurationError",
    "ExportFileError",
    "LoadTimeoutError",
    "NoEffect",
    "ReplayedToolError",
    "UnkeyableArgumentError",
    "UnrecordedCallError",
    "UnstorableResultError",
]


class AgentCacheError(Exception):
    """Root of all errors raised by agent_cache itself."""


class ConfigurationError(AgentCacheError, ValueError):
    """A parameter of ours has a wrong value; the text names parameter, value and fix."""

    def __init__(self, parameter: str, value: object, fix: str) -> None:
        self.parameter = parameter
        self.value = value
        self.fix = fix
        super().__init__(f"{parameter}={value!r}: {fix}")


class UnkeyableArgumentError(AgentCacheError, TypeError):
    """An argument has no canonical form, so the call cannot be cached.

    ``path`` says where in the arguments it stands (``ctx.client``, ``items[3]``).
    """

    def __init__(self, path: str, why: str) -> None:
        self.path = path
        self.why = why
        super().__init__(f"argument {path!r} cannot be part of a cache key: {why}")


_MENDS = {
    "unknown_type": "give plain values, name the type in the return annotation (AsyncCache: returns=), or use a codec=",
    "stream": "give a list of what it yields; a def that returns a coroutine should be an async def",
    "too_deep": "give a flatter value, without cycles",
    "too_large": "give less, or allow more by max_entry_bytes=, max_bytes= or the namespace's quota",
}


class UnstorableResultError(AgentCacheError, TypeError):
    """A result or value cannot be stored faithfully.

    Attributes:
        reason: short and countable, such as ``unknown_type``.
        detail: what it is about: the class, the size.
        fix: what to do about it; empty where it is nothing the caller can mend.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason = reason
        self.detail = detail
        self.fix = _MENDS.get(reason, "")
        text = f"{reason}: {detail}" if detail else reason
        super().__init__(f"{text}; {self.fix}" if self.fix else text)


class BackendError(AgentCacheError):
    """A backend could not do its work. Never reaches a tool's caller."""


class CassetteError(AgentCacheError):
    """A cassette cannot be read, or what it holds cannot be given again; ``path`` and, where it is one line, ``line``."""

    def __init__(self, path: str | os.PathLike[str], why: str, line: int | None = None) -> None:
        self.path = os.fspath(path)
        self.why = why
        self.line = line
        super().__init__(f"{self.path}{f', line {line}' if line is not None else ''}: {why}")


class UnrecordedCallError(CassetteError):
    """A replayed run made a call the cassette has no answer for; the tool was not run.

    Attributes:
        tool: the tool's name.
        call: the call as text, secrets replaced.
        nearest: the recorded call of this tool that differs least, as text; None where the tool was never called.
        difference: how the two differ.
    """

    def __init__(
        self, path: str | os.PathLike[str], why: str, tool: str, call: str, nearest: str | None, difference: str
    ) -> None:
        self.tool = tool
        self.call = call
        self.nearest = nearest
        self.difference = difference
        super().__init__(path, why)


class ExportFileError(AgentCacheError, ValueError):
    """A file that cannot be imported; nothing of it was stored. ``problem`` says why, ``path`` where it is."""

    def __init__(self, problem: str, path: object = None) -> None:
        self.problem = problem
        self.path = path
        super().__init__(problem if path is None else f"{path}: {problem}")


class LoadTimeoutError(AgentCacheError, TimeoutError):
    """A read was not answered within its ``hard_timeout``. The load goes on; what it brings is stored for the next call.

    Attributes:
        tool: the tool's name.
        seconds: how long was waited.
    """

    def __init__(self, tool: str, seconds: float) -> None:
        self.tool = tool
        self.seconds = seconds
        super().__init__(f"{tool} was not answered within hard_timeout={seconds:g} s")


class BatchLoadError(AgentCacheError, LookupError):
    """A batch loader did not say what the value of this caller's key is.

    ``key`` is the key it left out; None where its whole answer could not be used.
    """

    def __init__(self, why: str, key: object = None) -> None:
        self.why = why
        self.key = key
        super().__init__(why if key is None else f"{why}: {key!r}")


class AgentLoopDetectedError(AgentCacheError):
    """The session's loop policy stopped this call before it ran.

    Attributes:
        tool: the tool's name.
        arguments: the call's arguments by parameter name, as shown in the event (text, shortened).
        kind: ``"repeat"``, ``"alternation"``, ``"cycle"``, ``"error"``, ``"no_progress"`` or ``"depth"``.
        period: how many calls one round of the circle has.
        count: how many equal calls, cycles or steps were seen before this one.
        calls: the calls that led here, oldest first; ``evidence`` is the same.
        first_step, last_step: where in the turn they stand.
        event: the whole :class:`~agent_cache.LoopEvent`.
    """

    def __init__(self, event: LoopEvent) -> None:
        self.event = event
        self.tool: str = event.tool
        self.arguments: dict[str, str] = dict(event.arguments)
        self.kind: str = event.kind
        self.count: int = event.count
        self.period: int = event.period
        self.calls: tuple[Any, ...] = event.calls
        self.evidence: tuple[Any, ...] = event.calls
        self.first_step: int = event.first_step
        self.last_step: int = event.last_step
        super().__init__(event.hint)


class NoEffect(Exception):  # noqa: N818 - it reports an outcome, not a failure of ours
    """Raise (a subclass of) this in a write tool that changed nothing; a new one each time, it says so of that tool only.

    The cache then keeps what it had: a write declared to have had no effect is not a write.
    The exception still reaches the caller.
    """


class ReplayedToolError(Exception):
    """An error of a tool, given again from a cassette, whose class the replaying program has not named.

    Give the class to ``AgentCacheSession(replay_errors=(OutOfStock,))`` to have it raised itself. No class is ever imported
    because a cassette names it.

    Attributes:
        type_name: the recorded error's class: ``"OverflowError"``, ``"shop.errors.OutOfStock"``.
        text: what it said.
    """

    def __init__(self, type_name: str, text: str) -> None:
        self.type_name = type_name
        self.text = text
        super().__init__(f"{type_name}: {text}" if text else type_name)
