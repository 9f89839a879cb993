"""A loop ends the run, although the SDK turns what tools raise into texts for the model.

The only room that touches the SDK's private invoker. Its class is looked for when the package is imported.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable
from functools import update_wrapper
from importlib.metadata import version
from typing import Any

from agents import FunctionTool, UserError
from agents import tool as _sdk
from agents.tool_context import ToolContext

from agent_cache.errors import AgentLoopDetectedError, ConfigurationError

__all__ = ["Invoke", "LoopEndsRunError", "ending", "ending_on_loops", "with_invoke"]

Invoke = Callable[[ToolContext[Any], str], Awaitable[Any]]
_Invoker: Any = _sdk._FailureHandlingFunctionToolInvoker
_SYNC = getattr(_sdk, "_SYNC_FUNCTION_TOOL_MARKER", "__agents_sync_function_tool__")


class LoopEndsRunError(AgentLoopDetectedError, UserError):
    """An :class:`~agent_cache.AgentLoopDetectedError` that the SDK lets out of a run: it does so with errors of its own."""

    message: str

    def __init__(self, error: AgentLoopDetectedError) -> None:
        AgentLoopDetectedError.__init__(self, error.event)
        self.message = str(error)


def ending(error: AgentLoopDetectedError) -> LoopEndsRunError:
    """The error that ends the run."""
    return error if isinstance(error, LoopEndsRunError) else LoopEndsRunError(error)


def ending_on_loops(tool: FunctionTool) -> FunctionTool:
    """A copy of ``tool`` whose loops end the run: for tools with a decorator of agent_cache under ``@function_tool``.

    What else the tool raises goes where it went before. (:func:`cached_agent` and the wrapped tools do this themselves.)

    Raises:
        ConfigurationError: ``tool`` is not a ``FunctionTool``.
    """
    return with_invoke(tool, lambda invoke: invoke)


def with_invoke(tool: FunctionTool, around: Callable[[Invoke], Invoke]) -> FunctionTool:
    """A copy of ``tool`` in which ``around`` stands inside the failure handler, and loops get through it."""
    if not isinstance(tool, FunctionTool):
        raise ConfigurationError("tool", tool, "give a FunctionTool, such as @function_tool makes")
    made = copy.copy(tool)
    handler: Any = made.on_invoke_tool
    if not isinstance(handler, _Invoker):  # no failure handler: what it raises ends the run already
        made.on_invoke_tool = _let_out(around(handler))
        return made
    for needed in ("_invoke_tool_impl", "_on_handled_error"):
        if not hasattr(handler, needed):
            known = f"openai-agents {version('openai-agents')} makes tools in a way this version of agent_cache does not know"
            raise ConfigurationError("tool", tool.name, f"{known}; decorate the function under @function_tool instead")
    inner = handler._invoke_tool_impl
    invoke = around(inner)
    if invoke is not inner:
        update_wrapper(invoke, inner)  # the SDK's marks on it: the function it calls, how approvals look at arguments
    ours = _EndingInvoker(invoke, handler._on_handled_error, function_tool=made)
    if getattr(handler, _SYNC, False):
        setattr(ours, _SYNC, True)
    made.on_invoke_tool = ours
    return made


def _let_out(invoke: Invoke) -> Invoke:
    async def invoke_and_end(ctx: ToolContext[Any], arguments: str) -> Any:
        try:
            return await invoke(ctx, arguments)
        except AgentLoopDetectedError as error:
            raise ending(error) from error

    return invoke_and_end


class _EndingInvoker(_Invoker):  # type: ignore[misc]
    """The SDK's invoker, but for loops."""

    def __agents_bind_function_tool__(self, function_tool: FunctionTool) -> _EndingInvoker:
        if self._function_tool is function_tool:
            return self
        bound = _EndingInvoker(self._invoke_tool_impl, self._on_handled_error, function_tool=function_tool)
        if getattr(self, _SYNC, False):
            setattr(bound, _SYNC, True)
        return bound

    async def __call__(self, ctx: ToolContext[Any], input: str) -> Any:
        try:
            return await self._invoke_tool_impl(ctx, input)
        except AgentLoopDetectedError as error:
            raise ending(error) from error
        except Exception as error:  # noqa: BLE001 - handed on, to the SDK's own handler
            failure = error
        return await self._as_before(failure)(ctx, input)

    def _as_before(self, failure: Exception) -> Invoke:
        """The SDK's handling of a failure. Raised anew outside of any handler: it may hide what the error is about."""

        async def fail(*_: Any) -> Any:
            raise failure

        invoke: Invoke = _Invoker(fail, self._on_handled_error, function_tool=self._function_tool)
        return invoke
