"""A LangChain tool that reads through the cache, or invalidates it.

The cache sits around the tool's function: LangChain has validated the arguments by then, builds every
``ToolMessage`` itself (own id, own ``tool_call_id``), and its callbacks and traces fire on a hit as on a miss.
"""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Callable, Iterable
from functools import partial, wraps
from inspect import Parameter
from typing import Any, cast, get_type_hints

from langchain_core.messages.tool import ToolOutputMixin
from langchain_core.tools import BaseTool, InjectedToolCallId, StructuredTool
from pydantic import BaseModel

from agent_cache import GLOBAL, AgentCache, AgentCacheInvalidator

__all__ = ["cached_tool", "invalidating_tool"]

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_PER_CALL = frozenset({"callbacks", "run_manager", "tool_call_id"})  # tell the run, never who is asking


def cached_tool(
    tool: BaseTool,
    resource: str | list[str] | tuple[str, ...],
    scope: str = GLOBAL,
    *,
    ignore: Iterable[str] = (),
    **options: Any,
) -> StructuredTool:
    """A copy of ``tool`` whose answers come from the cache while they are true.

    Name, description, schema and response format stay. What LangChain injects (``ToolRuntime``, state, store,
    config, call id, callbacks) never becomes part of the key. A tool that returns a ``Command`` or a
    ``ToolMessage`` is run for every call: these belong to one call. Do not wrap a tool that asks a human
    (``interrupt``): the answer given in one thread would be served to the others.

    Args:
        tool: a tool made by ``@tool`` or ``StructuredTool.from_function``, or one from an MCP adapter.
        resource: what it reads; a name or a template over its arguments, ``"order:{order_id}"``, or several.
        scope: who may share an answer: ``"global"``, ``"session"``, or a field of the session's identity. Must be
            given for a tool with injected state, store, runtime or config: its answer may depend on them.
        ignore: further parameters to leave out of the key.
        options: passed on to :class:`~agent_cache.AgentCache` (``ttl`` in seconds, ``backend``, ``poll``, ...).

    Raises:
        TypeError: ``tool`` is not a ``StructuredTool``.
        ValueError: injected arguments and no declared scope.
        ConfigurationError: an option the decorator does not accept.
    """
    checked = _structured(tool, "cached_tool")

    def decorator(function: Callable[..., Any]) -> Callable[..., Any]:
        injected = _injected(checked, function)
        carriers = sorted(injected - _call_ids(function) - _PER_CALL)
        if scope is GLOBAL and carriers:
            raise ValueError(
                f"tool {checked.name!r} is handed {', '.join(carriers)} by LangChain, which may tell who is asking, and "
                "that is not part of the key: say who may share its answers, cached_tool(..., scope='user') with an "
                "identity in the session, or scope='global' if they are the same for everybody"
            )
        read = AgentCache(resource, scope=scope, ignore=sorted(injected | set(ignore)), **options)
        stored = read(_plain(function, checked, _packed))
        return _forwarding(stored, _unpacked, is_async=function is checked.coroutine)

    return _rebuilt(checked, decorator)


def invalidating_tool(tool: BaseTool, resource: str | list[str] | tuple[str, ...], **options: Any) -> StructuredTool:
    """A copy of ``tool`` that drops what it makes stale, whether it returns, raises or is cancelled.

    Args:
        tool: as for :func:`cached_tool`.
        resource: what it writes; a name or a template over its arguments, or several.
        options: passed on to :class:`~agent_cache.AgentCacheInvalidator` (``scope``, ``clear_all``, ``key_fn``).

    Raises:
        TypeError: ``tool`` is not a ``StructuredTool``.
        ConfigurationError: an option the decorator does not accept.
    """
    checked = _structured(tool, "invalidating_tool")
    write = AgentCacheInvalidator(resource, **options)
    return _rebuilt(checked, lambda function: write(_plain(function, checked, _same)))


def _structured(tool: object, caller: str) -> StructuredTool:
    if not isinstance(tool, StructuredTool):
        raise TypeError(
            f"{caller} takes a StructuredTool (from @tool or StructuredTool.from_function), not "
            f"{type(tool).__name__}; for another kind, decorate the function or method that does the work"
        )
    return tool


def _rebuilt(tool: StructuredTool, decorator: Decorator) -> StructuredTool:
    """A copy of the tool with its functions decorated; the sync and the async one keep entries of their own."""
    update: dict[str, Callable[..., Any]] = {}
    if tool.func is not None:
        update["func"] = decorator(tool.func)
    if tool.coroutine is not None:
        update["coroutine"] = decorator(tool.coroutine)
    return tool.model_copy(update=update)


def _properties(tool: StructuredTool) -> dict[str, bool]:
    """The arguments the model fills in, and whether each must be there."""
    schema = tool.tool_call_schema
    if isinstance(schema, dict):
        required = schema.get("required", ())
        return {name: name in required for name in schema.get("properties", {})}
    return dict.fromkeys(schema.model_fields if issubclass(schema, BaseModel) else schema.__fields__, True)


def _injected(tool: StructuredTool, function: Callable[..., Any]) -> set[str]:
    """The parameters the model does not fill in: somebody else does, or nobody."""
    model_fills = _properties(tool).keys() - {"runtime"}  # LangGraph hands its own to any parameter of this name
    variadic = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    return {n for n, p in inspect.signature(function).parameters.items() if p.kind not in variadic} - model_fills


def _call_ids(function: Callable[..., Any]) -> set[str]:
    """The parameters that receive the id of the tool call."""
    try:
        hints = get_type_hints(_definition(function), include_extras=True)
    except Exception:  # noqa: BLE001 - annotations are the user's; unresolved ones count as carriers, the safe side
        return set()
    metadata = {name: getattr(hint, "__metadata__", ()) for name, hint in hints.items()}
    return {
        n for n, ms in metadata.items() if any(m is InjectedToolCallId or isinstance(m, InjectedToolCallId) for m in ms)
    }


class OneCallOnly:
    """A result that belongs to one tool call; no codec knows it, so it is never stored nor shared."""

    def __init__(self, result: object) -> None:
        self.result = result


def _packed(result: Any) -> Any:
    parts: Iterable[object] = result if isinstance(result, list) else (result,)
    return OneCallOnly(result) if any(isinstance(part, ToolOutputMixin) for part in parts) else result


def _unpacked(result: Any) -> Any:
    return result.result if isinstance(result, OneCallOnly) else result


def _same(result: Any) -> Any:
    return result


def _plain(function: Callable[..., Any], tool: StructuredTool, finish: Callable[[Any], Any]) -> Callable[..., Any]:
    """``function`` as a plain one that names its arguments, its result passed through ``finish``.

    A function of ``**kwargs`` is given the required arguments of the tool's schema by name, so that resource
    templates can use them; an optional one that is missing is not one that is None. A bound method, a partial or
    another callable object has a state that its name does not tell: it is marked as local, so that its answers are
    not taken for those of its namesake in another process.
    """
    plain = _forwarding(function, finish, is_async=function is tool.coroutine)
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    if parameters and parameters[-1].kind is Parameter.VAR_KEYWORD:
        named = [
            Parameter(name, Parameter.KEYWORD_ONLY)
            for name, needed in _properties(tool).items()
            if needed and name not in signature.parameters and name.isidentifier() and not keyword.iskeyword(name)
        ]
        parameters[-1:] = [*named, parameters[-1]]
    plain.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    if not inspect.isfunction(function):
        plain.__qualname__ = f"{tool.name}.<locals>.{plain.__name__}"
    return plain


def _forwarding(function: Callable[..., Any], finish: Callable[[Any], Any], *, is_async: bool) -> Callable[..., Any]:
    """A function that calls ``function`` and ``finish`` and looks like ``function`` to ``inspect`` and LangChain."""
    if is_async:

        @wraps(_definition(function))
        async def forward_async(*args: Any, **kwargs: Any) -> Any:
            return finish(await function(*args, **kwargs))

        return forward_async

    @wraps(_definition(function))
    def forward(*args: Any, **kwargs: Any) -> Any:
        return finish(function(*args, **kwargs))

    return forward


def _definition(function: Callable[..., Any]) -> Callable[..., Any]:
    """Where the annotations stand: the function itself, a partial's, or an object's ``__call__``."""
    if isinstance(function, partial):
        return _definition(function.func)
    return function if inspect.isroutine(function) else cast(Any, function).__call__
