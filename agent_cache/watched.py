"""``watched``: a tool that is not cached, under the eye of the session's loop detector.

Cached tools and write tools are watched already. What a watched call returns is not kept: it is never
answered from memory, and where a session says ``"short_circuit"`` a loop raises.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, overload

from agent_cache.codecs import codec_for
from agent_cache.context import View, current_view
from agent_cache.engine.answers import Answer, told
from agent_cache.engine.drivers import Line, drive, drive_blocking
from agent_cache.engine.guard import Watch, call_key, enter, react, settle
from agent_cache.engine.taped import Body, taped_other, untaped
from agent_cache.errors import AgentLoopDetectedError, ConfigurationError
from agent_cache.flight import Landed
from agent_cache.keys import CallShape, origin_of, return_hint
from agent_cache.lineage import Lineage, Write
from agent_cache.loops import LoopKey, ToolRule, checked_rule

__all__ = ["watched"]

F = TypeVar("F", bound=Callable[..., Any])


@overload
def watched(function: F, /) -> F: ...
@overload
def watched(
    *, write: bool | None = ..., poll: bool = ..., max_tool_repeats: int | None = ..., loop_key: LoopKey | None = ...
) -> Callable[[F], F]: ...
def watched(
    function: Any = None,
    /,
    *,
    write: bool | None = None,
    poll: bool = False,
    max_tool_repeats: int | None = None,
    loop_key: LoopKey | None = None,
) -> Any:
    """Let the session's loop detector see the calls of a tool that is not cached: ``@watched`` or ``@watched(poll=True)``.

    Args:
        function: an ``async def`` or ``def`` function or method.
        write: True: the tool changes something: what others answer afterwards may be new. False: it changes nothing.
            None: nobody says; the loop detector takes it for a read, and ``scope="lineage"`` for a write of anything.
        poll: it is meant to be polled: repeats are allowed ten times longer.
        max_tool_repeats: how often this very call may be made with an equal outcome; None = the session's.
        loop_key: the names of the parameters that make two calls the same one, or a function of the arguments (a mapping)
            that returns something hashable. Leave free text such as ``reason`` out.

    Returns:
        The tool, with its own name, signature and types. A call raises :class:`AgentLoopDetectedError` before it is made,
        where the session's ``on_loop`` says so. Outside a session nothing is watched.

    Raises:
        ConfigurationError: at decoration, naming the parameter, the value and the fix.
    """
    rule = checked_rule(bool(poll), max_tool_repeats, loop_key)
    if function is None:
        return functools.partial(_wrapped, rule=rule, write=write)
    return _wrapped(function, rule=rule, write=write)


def _wrapped(function: Any, rule: ToolRule, write: bool | None) -> Any:
    if (
        not inspect.isfunction(function)
        or inspect.isgeneratorfunction(function)
        or inspect.isasyncgenfunction(function)
    ):
        raise ConfigurationError("tool", function, "@watched takes a def or async def function; wrap this in one")
    guarded = _Guarded(function, rule, write)
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def run(*args: Any, **kwargs: Any) -> Any:
            view = current_view()
            if view.tape is not None:
                return told(await drive(guarded.taped(view, args, kwargs)))
            if not guarded.matters(view):
                return await function(*args, **kwargs)
            with guarded.call(view, args, kwargs) as call:
                call.returned = await function(*args, **kwargs)
            return call.returned

        return run

    @functools.wraps(function)
    def run_blocking(*args: Any, **kwargs: Any) -> Any:
        view = current_view()
        if view.tape is not None:
            return told(drive_blocking(guarded.taped(view, args, kwargs)))
        if not guarded.matters(view):
            return function(*args, **kwargs)
        with guarded.call(view, args, kwargs) as call:
            call.returned = function(*args, **kwargs)
        return call.returned

    return run_blocking


class _Guarded:
    """One watched tool."""

    def __init__(self, function: Callable[..., Any], rule: ToolRule, write: bool | None) -> None:
        self.function = function
        self.name = function.__name__
        self.origin = origin_of(function)
        self.codec = codec_for(return_hint(function))  # for recordings
        self.rule = rule
        self.write = bool(write)
        self.undeclared = write is not False
        self.shape = CallShape(function, ())

    def taped(self, view: View, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Line[Answer]:
        """A call in a session that records or replays."""
        arguments = self.shape.arguments(self.shape.pack(*args, **kwargs))
        return taped_other(
            self, view, arguments, call_key(self.name, arguments), lambda: self._live(view, args, kwargs)
        )

    def _live(self, view: View, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Line[Answer]:
        with self.call(untaped(view), args, kwargs) as call:
            ran = yield Body(lambda: self.function(*args, **kwargs))
            if ran.error is not None:
                raise ran.error
            call.returned = ran.value
        return Answer(call.returned)

    def matters(self, view: View) -> bool:
        """Whether anybody wants to know of a call in this view."""
        session = view.session
        return session is not None and (session.detector is not None or session.lineage is not None)

    def call(self, view: View, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Call:
        arguments = dict(self.shape.arguments(self.shape.pack(*args, **kwargs)))
        key = call_key(self.name, arguments)
        watch = enter(view, self.name, key, arguments, rule=self.rule, write=self.write)
        lineage = view.session.lineage if view.session is not None and self.undeclared else None
        return _Call(view, self.name, watch, lineage)


class _Call:
    """One call of it, from the question before to the outcome after."""

    def __init__(self, view: View, tool: str, watch: Watch | None, lineage: Lineage | None) -> None:
        self.view = view
        self.tool = tool
        self.watch = watch
        self.lineage = lineage
        self.write: Write | None = None
        self.returned: Any = None

    def __enter__(self) -> _Call:
        watch = self.watch
        if watch is not None and watch.event is not None:
            try:
                action = react(self.view, watch, watch.event, self.tool, is_read=False)
            except BaseException:
                watch.leave()
                raise
            if action == "raise":
                watch.leave()
                raise AgentLoopDetectedError(watch.event)
        if self.lineage is not None:
            self.write = self.lineage.begins(self.tool)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self.lineage is not None and self.write is not None:
            self.lineage.lost(self.write)  # nobody knows what it changed
        if self.watch is None:
            return
        try:
            if error is None or isinstance(error, Exception):  # of a call that was cancelled nothing is known
                settle(self.watch, Landed(self.returned, error=error), ())
        finally:
            self.watch.leave()
