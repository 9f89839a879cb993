"""A LangChain tool that reads through the cache, or invalidates it.

The cache sits around the tool's function: LangChain has validated the arguments by then, builds every
``ToolMessage`` itself (own id, own ``tool_call_id``), and its callbacks and traces fire on a hit as on a miss.
"""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from inspect import Parameter
from typing import Any, TypeVar, cast

from langchain_core.messages.tool import ToolOutputMixin
from langchain_core.tools import BaseTool, StructuredTool, Tool
from langgraph.config import get_config
from langgraph.errors import GraphBubbleUp

from agent_cache import GLOBAL, AgentCache, AgentCacheInvalidator, AgentLoopDetectedError, ConfigurationError
from agent_cache.adapters import OneCallOnly, Policies, ToolPolicy
from agent_cache_langchain.arguments import Arguments, definition
from agent_cache_langchain.interrupts import was_answered
from agent_cache_langchain.loops import ended
from agent_cache_langchain.plans import WRAPPED, agreed, conflict, policy_on, refuse_unscoped, wrapped_kind

__all__ = ["cached_tool", "invalidating_tool", "with_policies"]

T = TypeVar("T", bound=BaseTool)
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
Resource = str | list[str] | tuple[str, ...]


def cached_tool(
    tool: T, resource: Resource | None = None, scope: str = GLOBAL, *, ignore: Iterable[str] = (), **options: Any
) -> T:
    """A copy of ``tool`` whose answers come from the cache while they are true.

    Name, description, schema and response format stay. What LangChain injects (``ToolRuntime``, state, store,
    config, call id, callbacks) never becomes part of the key. A tool that returns a ``Command`` or a
    ``ToolMessage`` is run for every call: these belong to one call; so is one that was given an answer to an
    ``interrupt()``.

    Args:
        tool: any tool: made by ``@tool``, ``StructuredTool.from_function`` or an MCP adapter, or an object of a class
            with ``_run``.
        resource: what it reads; a name or a template over its arguments, ``"order:{order_id}"``, or several. None: what
            ``tool.metadata["agent_cache"]`` says.
        scope: who may share an answer: ``"global"``, ``"session"``, or a field of the session's identity. Must be
            given for a tool with injected state, store, runtime or config: its answer may depend on them.
        ignore: further parameters to leave out of the key.
        options: passed on to :class:`~agent_cache.AgentCache` (``ttl`` in seconds, ``backend``, ``poll``, ...).

    Raises:
        TypeError: ``tool`` is not a LangChain tool.
        ConfigurationError: an option the decorator does not accept, injected arguments and no declared scope, a template
            that names no argument, or a tool that is tagged as a write.
    """
    checked = _checked(tool, "cached_tool")
    said = policy_on(checked)
    if resource is None:
        said = _said(checked, said, "read")
        return _cached(checked, said, options)
    for kind in (said.kind if said is not None else None, wrapped_kind(checked)):
        if kind == "write":
            conflict(checked, "write", "read")
    declared = None if scope is GLOBAL else scope
    policy = ToolPolicy(kind="read", resource=_as_tuple(resource), scope=declared, ignore=tuple(ignore))
    return _cached(checked, policy, options)


def invalidating_tool(tool: T, resource: Resource | None = None, **options: Any) -> T:
    """A copy of ``tool`` that drops what it makes stale, whether it returns, raises or is cancelled.

    Args:
        tool: as for :func:`cached_tool`.
        resource: what it writes; a name or a template over its arguments, or several. None: what
            ``tool.metadata["agent_cache"]`` says.
        options: passed on to :class:`~agent_cache.AgentCacheInvalidator` (``scope``, ``clear_all``, ``key_fn``).

    Raises:
        TypeError: ``tool`` is not a LangChain tool.
        ConfigurationError: an option the decorator does not accept, a template that names no argument, or a tool that is
            tagged as a read.
    """
    checked = _checked(tool, "invalidating_tool")
    said = policy_on(checked)
    if resource is None:
        said = _said(checked, said, "write")
        return _invalidating(checked, said, options)
    for kind in (said.kind if said is not None else None, wrapped_kind(checked)):
        if kind == "read":
            conflict(checked, "read", "write")
    return _invalidating(checked, ToolPolicy(kind="write", resource=_as_tuple(resource)), options)


def with_policies(
    tools: Sequence[Any],
    policies: Policies | Mapping[str, ToolPolicy | Mapping[str, Any]] | None = None,
    **options: Any,
) -> list[Any]:
    """The tools of an agent, each wrapped by its policy: by name, else by what its metadata says; others as they are.

    For agents without :class:`AgentCacheMiddleware`, which does the same from outside.

    Args:
        tools: tools; what is no tool (a provider's built-in one) is passed through.
        policies: by tool name or pattern.
        options: for both decorators: ``backend``.

    Raises:
        ConfigurationError: a policy for a tool that is not there, one that does not fit its tool, or a tool tagged both.
    """
    by_name = policies if isinstance(policies, Policies) else Policies(policies)
    by_name.check(tool.name for tool in tools if isinstance(tool, BaseTool))
    wrapped: list[Any] = []
    for tool in tools:
        policy = None
        if isinstance(tool, BaseTool):
            policy = agreed(tool, by_name.find(tool.name), policy_on(tool))
        if policy is not None and policy.kind == "read":
            tool = _cached(tool, policy, options)
        elif policy is not None and policy.kind == "write":
            tool = _invalidating(tool, policy, options)
        wrapped.append(tool)
    return wrapped


# -- both kinds -----------------------------------------------------------------------------------------------------------


def _cached(tool: T, policy: ToolPolicy, options: Mapping[str, Any]) -> T:
    arguments = Arguments(tool)
    refuse_unscoped(tool, arguments, policy)
    given: dict[str, Any] = {
        "scope": GLOBAL if policy.scope is None else policy.scope,
        "ttl": policy.ttl,
        "cache_if": policy.cache_if,
        "poll": policy.poll,
        "cost": policy.cost,
    } | dict(options)

    def decorator(function: Callable[..., Any]) -> Callable[..., Any]:
        plain = _plain(function, arguments, tool.name)
        left_out = arguments.injected.intersection(inspect.signature(plain).parameters) | set(policy.ignore)
        stored: Callable[..., Any] = AgentCache([*policy.resources], ignore=sorted(left_out), **given)(plain)
        return stored

    return _rebuilt(tool, decorator, "read")


def _invalidating(tool: T, policy: ToolPolicy, options: Mapping[str, Any]) -> T:
    arguments = Arguments(tool)
    said: dict[str, Any] = {
        "scope": policy.scope or GLOBAL,
        "no_effect": policy.no_effect,
        "no_effect_if": policy.no_effect_if,
    }
    given = said | dict(options)
    write = AgentCacheInvalidator([*policy.resources], **given)
    return _rebuilt(tool, lambda function: write(_plain(function, arguments, tool.name)), "write")


def _checked(tool: T, caller: str) -> T:
    if not isinstance(tool, BaseTool):
        kind = type(tool).__name__
        raise TypeError(f"{caller} takes a LangChain tool, not {kind}; make one of a function with @tool first")
    return tool


def _said(tool: BaseTool, said: ToolPolicy | None, kind: str) -> ToolPolicy:
    if said is None:
        fix = f"say what {tool.name!r} {kind}s, here or in its metadata['agent_cache']"
        raise ConfigurationError("resource", None, fix)
    if said.kind != kind:
        conflict(tool, said.kind, kind)
    return said


def _as_tuple(resource: Resource) -> tuple[str, ...]:
    return (resource,) if isinstance(resource, str) else tuple(resource)


# -- the copy -------------------------------------------------------------------------------------------------------------


def _rebuilt(tool: T, decorator: Decorator, kind: str) -> T:
    """A copy of the tool with its functions decorated; the sync and the async one keep entries of their own."""

    def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
        made = _unpacking(decorator(function), function)
        setattr(made, WRAPPED, kind)
        return made

    if isinstance(tool, (StructuredTool, Tool)):
        update: dict[str, Callable[..., Any]] = {}
        if tool.func is not None:
            update["func"] = wrapped(tool.func)
        if tool.coroutine is not None:
            update["coroutine"] = wrapped(tool.coroutine)
        return cast("T", tool.model_copy(update=update))
    return _with_methods(tool, wrapped)


def _with_methods(tool: T, wrapped: Decorator) -> T:
    """The same for a tool whose work is done by its methods: an object of a class of its own."""
    own: Any = type(tool)
    methods = {"_run": _method(own._run, wrapped(tool._run))}
    if own._arun is not BaseTool._arun:
        methods["_arun"] = _method(own._arun, wrapped(tool._arun))
    namespace = {"__module__": own.__module__, "__qualname__": own.__qualname__, "__doc__": own.__doc__, **methods}
    copy = tool.model_copy()
    object.__setattr__(copy, "__class__", type(own)(own.__name__, (own,), namespace))
    return copy


def _method(original: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` as the method it was before it was bound."""
    if inspect.iscoroutinefunction(original):

        @wraps(original)
        async def amethod(_self: Any, /, *args: Any, **kwargs: Any) -> Any:
            return await function(*args, **kwargs)

        made: Callable[..., Any] = amethod
    else:

        @wraps(original)
        def method(_self: Any, /, *args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        made = method
    setattr(made, WRAPPED, getattr(function, WRAPPED))
    return made


# -- the function ---------------------------------------------------------------------------------------------------------


class _Bubbled:
    """An interrupt, or another thing that LangGraph raises through tools: of this call alone."""

    def __init__(self, error: GraphBubbleUp) -> None:
        self.error = error


def _packed(result: Any) -> Any:
    parts: Iterable[object] = result if isinstance(result, list) else (result,)
    own = any(isinstance(part, ToolOutputMixin) for part in parts) or _asked_a_human()
    return OneCallOnly(result) if own else result


def _asked_a_human() -> bool:
    try:
        return was_answered(get_config())
    except RuntimeError:  # outside a run
        return False


def _unpacked(result: Any) -> Any:
    if isinstance(result, OneCallOnly):
        result = result.result
    if isinstance(result, _Bubbled):
        raise result.error
    return result


def _plain(function: Callable[..., Any], arguments: Arguments, name: str) -> Callable[..., Any]:
    """``function`` as a plain one that names its arguments, and whose result may be kept or says that it may not.

    A function of ``**kwargs`` is given the required arguments of the tool's schema by name, so that resource
    templates can use them; an optional one that is missing is not one that is None. A bound method, a partial or
    another callable object has a state that its name does not tell: it is marked as local, so that its answers are
    not taken for those of its namesake in another process.
    """
    if _is_async(function):

        @wraps(definition(function))
        async def aplain(*args: Any, **kwargs: Any) -> Any:
            try:
                return _packed(await function(*args, **kwargs))
            except GraphBubbleUp as error:
                return OneCallOnly(_Bubbled(error))

        plain: Any = aplain
    else:

        @wraps(definition(function))
        def sync_plain(*args: Any, **kwargs: Any) -> Any:
            try:
                return _packed(function(*args, **kwargs))
            except GraphBubbleUp as error:
                return OneCallOnly(_Bubbled(error))

        plain = sync_plain
    plain.__signature__ = _named(inspect.signature(function), arguments)
    if not inspect.isfunction(function):
        plain.__qualname__ = f"{name}.<locals>.{plain.__name__}"
    return cast("Callable[..., Any]", plain)


def _named(signature: inspect.Signature, arguments: Arguments) -> inspect.Signature:
    parameters = list(signature.parameters.values())
    if parameters and parameters[-1].kind is Parameter.VAR_KEYWORD:
        named = [
            Parameter(name, Parameter.KEYWORD_ONLY)
            for name, needed in arguments.needed.items()
            if needed and name not in signature.parameters and name.isidentifier() and not keyword.iskeyword(name)
        ]
        parameters[-1:] = [*named, parameters[-1]]
    return signature.replace(parameters=parameters)


def _unpacking(stored: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that calls ``stored`` and gives out what it stands for; looks like ``function`` to LangChain."""
    if _is_async(function):

        @wraps(definition(function))
        async def aforward(*args: Any, **kwargs: Any) -> Any:
            try:
                return _unpacked(await stored(*args, **kwargs))
            except AgentLoopDetectedError as error:
                raise ended(error) from None

        made: Any = aforward
    else:

        @wraps(definition(function))
        def forward(*args: Any, **kwargs: Any) -> Any:
            try:
                return _unpacked(stored(*args, **kwargs))
            except AgentLoopDetectedError as error:
                raise ended(error) from None

        made = forward
    if not inspect.isfunction(function):
        made.__signature__ = inspect.signature(function)
    return cast("Callable[..., Any]", made)


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(definition(function))
