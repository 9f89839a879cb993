"""Function tools that are there already: their reads are answered from the cache, their writes invalidate.

The cache sits inside the SDK's failure handler: what the tool raised is an error to it, not yet a text.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Union, get_type_hints

from agents import Agent, FunctionTool
from agents.function_schema import FuncSchema, function_schema
from agents.tool_context import ToolContext
from pydantic import ValidationError

from agent_cache.adapters import (
    AdaptedTool,
    Policies,
    ToolPolicy,
    adapted,
    function_identity,
    is_decorated,
    taken_hints,
)
from agent_cache.backends.base import Backend
from agent_cache.errors import ConfigurationError
from agent_cache_openai_agents.functions import scope_is_missing
from agent_cache_openai_agents.loops import Invoke, ending_on_loops, with_invoke
from agent_cache_openai_agents.outputs import Structured, note, noted, with_hints

__all__ = ["cached_agent", "cached_function_tool", "invalidating_function_tool", "watched_function_tool"]

PolicyMapping = Policies | Mapping[str, ToolPolicy | Mapping[str, Any]]


def cached_function_tool(
    tool: FunctionTool,
    resource: str | Iterable[str],
    scope: str | None = None,
    *,
    backend: Backend | None = None,
    **options: Any,
) -> FunctionTool:
    """A copy of ``tool`` whose answers come from the cache while they are true.

    Name, schema, guardrails, approvals (asked for hits too) and hooks stay. Arguments count as validated where the
    tool was made of a function, defaults filled in; else as the model wrote them. What the tool raises, and the text the
    SDK makes of it, is not kept; for a tool that *returns* its errors give ``cache_if``.

    Args:
        tool: made by ``@function_tool`` or by hand.
        resource: what it reads; a name or a template over its arguments, ``"order:{order_id}"``, or several.
        scope: who may share an answer: ``"global"``, ``"session"``, or a field of the session's identity. Must be given
            for a tool that is handed the run's context (a tool made by hand always is).
        backend: where answers are kept; None: the session's, or the configured one.
        options: further fields of :class:`ToolPolicy`: ``ttl`` in seconds, ``ignore``, ``poll``, ``cost``, ``cache_if``.

    Raises:
        ConfigurationError: no scope where one is needed, a template that names no argument, an agent as a tool, a tool
            with a decorator of agent_cache already.
    """
    policy = ToolPolicy.of({"kind": "read", "resource": _several(resource), "scope": scope, **options}, _named(tool))
    return _wrapped(tool, policy, backend)


def invalidating_function_tool(
    tool: FunctionTool,
    resource: str | Iterable[str],
    scope: str | None = None,
    *,
    backend: Backend | None = None,
    **options: Any,
) -> FunctionTool:
    """A copy of ``tool`` that drops what it makes stale, whether it returns, raises or is cancelled.

    Args:
        tool: as for :func:`cached_function_tool`.
        resource: what it writes; a name or a template over its arguments, or several.
        scope: as for :class:`~agent_cache.AgentCacheInvalidator`.
        backend: as for :func:`cached_function_tool`.
        options: ``no_effect``, ``no_effect_if``, ``cost``.

    Raises:
        ConfigurationError: as for :func:`cached_function_tool`.
    """
    policy = ToolPolicy.of({"kind": "write", "resource": _several(resource), "scope": scope, **options}, _named(tool))
    return _wrapped(tool, policy, backend)


def watched_function_tool(tool: FunctionTool, *, poll: bool = False) -> FunctionTool:
    """A copy of ``tool`` that is not cached, and whose calls the session's loop detector sees.

    Args:
        tool: as for :func:`cached_function_tool`. One with a decorator of agent_cache is seen already: its loops end the
            run from here on.
        poll: it is meant to be polled.
    """
    if is_decorated(_function(tool)):
        return ending_on_loops(tool)
    return _wrapped(tool, ToolPolicy(kind="other", poll=poll), None)


def cached_agent(agent: Agent[Any], policies: PolicyMapping, *, backend: Backend | None = None) -> Agent[Any]:
    """A copy of ``agent`` whose function tools go by these policies; those without one are watched for loops.

    Hosted tools, handoffs and MCP servers stay as they are: wrap each agent you hand off to, and each server in a
    :class:`CachedMCPServer`. Runs belong to the :class:`~agent_cache.AgentCacheSession` around ``Runner.run``.

    Args:
        agent: any agent.
        policies: by tool name or pattern: :class:`ToolPolicy`, or ``{"kind": "read", "resource": "order:{order_id}"}``.
        backend: where answers are kept; None: the session's, or the configured one.

    Raises:
        ConfigurationError: a policy for no tool of the agent, or one that does not fit its tool.
    """
    known = policies if isinstance(policies, Policies) else Policies(policies)
    known.check(tool.name for tool in agent.tools if isinstance(tool, FunctionTool))
    return agent.clone(tools=[_by_policy(tool, known, backend) for tool in agent.tools])


def _by_policy(tool: Any, policies: Policies, backend: Backend | None) -> Any:
    if not isinstance(tool, FunctionTool):
        return tool
    policy = policies.find(tool.name)
    return watched_function_tool(tool) if policy is None else _wrapped(tool, policy, backend)


def _named(tool: FunctionTool) -> str:
    if not isinstance(tool, FunctionTool):
        raise ConfigurationError("tool", tool, "give a FunctionTool, such as @function_tool makes")
    return f"tool {tool.name!r}"


def _several(resource: str | Iterable[str]) -> Any:
    return resource if isinstance(resource, str) else tuple(resource)


def _function(tool: FunctionTool) -> Callable[..., Any] | None:
    """The function ``@function_tool`` was put on; None for a tool made by hand."""
    found: Callable[..., Any] | None = getattr(tool, "__wrapped__", None)
    return found


def _schema(tool: FunctionTool, function: Callable[..., Any] | None) -> FuncSchema | None:
    if function is None:
        return None
    try:
        return function_schema(
            function, name_override=tool.name, use_docstring_info=False, strict_json_schema=tool.strict_json_schema
        )
    except Exception:  # noqa: BLE001 - the SDK took it, in a way of its own: arguments count as the model wrote them
        return None


def _returns(function: Callable[..., Any] | None) -> Any:
    """The result's type: as annotated, or one of the SDK's structured outputs."""
    try:
        hint = get_type_hints(function).get("return", Any) if function is not None else Any
    except Exception:  # noqa: BLE001 - somebody's annotations; then plain values and structured outputs are kept
        hint = Any
    return Structured if hint is Any else Union[hint, Structured]  # noqa: UP007 - made at run time, of anything


@dataclass(frozen=True, slots=True)
class _Calls:
    """How calls of one tool are answered."""

    tool: FunctionTool
    adapted: AdaptedTool
    schema: FuncSchema | None
    backend: Backend | None

    def around(self, invoke: Invoke) -> Invoke:
        async def answer(ctx: ToolContext[Any], arguments: str) -> Any:
            given = self._arguments(arguments)
            if given is None:  # the tool will say what is wrong with them
                return await invoke(ctx, arguments)

            def run() -> Awaitable[Any]:
                return invoke(ctx, arguments)

            served = await self.adapted(given, run, backend=self.backend)
            note(ctx, self.adapted.policy.kind, served)
            return with_hints(self.tool, served.value, taken_hints())

        return answer

    def _arguments(self, text: str) -> dict[str, Any] | None:
        try:
            raw = json.loads(text) if text else {}
            if not isinstance(raw, dict):
                return None
            if self.schema is None:
                return raw
            parsed = self.schema.params_pydantic_model(**raw)
        except (ValueError, TypeError, ValidationError):
            return None
        values: dict[str, Any] = object.__getattribute__(parsed, "__dict__")  # a field may be called model_fields_set
        return {name: values[name] for name in type(parsed).model_fields if name in values}


def _wrapped(tool: FunctionTool, policy: ToolPolicy, backend: Backend | None) -> FunctionTool:
    named = _named(tool)
    function = _function(tool)
    if is_decorated(function):
        raise ConfigurationError(
            named, policy.as_mapping(), "its function has a decorator of agent_cache; keep one of the two"
        )
    if policy.kind == "read" and getattr(tool, "_is_agent_tool", False):
        raise ConfigurationError(
            named, policy.as_mapping(), "an agent as a tool is not cached: cache the tools it calls"
        )
    schema = _schema(tool, function)
    told_who_asks = schema is None or schema.takes_context
    if policy.kind == "read" and policy.scope is None and told_who_asks:
        raise scope_is_missing(named)
    names = tuple(schema.params_pydantic_model.model_fields) if schema is not None else _properties(tool)
    who = function_identity(function) if schema is not None else None
    parameters = json.dumps(tool.params_json_schema, sort_keys=True, default=repr)
    identity = None if who is None else f"openai-agents:{who}\0{tool.name}\0{parameters}"
    try:
        ready = adapted(tool.name, policy, names, identity, _returns(function), provenance=True)
    except ConfigurationError as error:
        raise ConfigurationError(f"policy of tool {tool.name!r}: {error.parameter}", error.value, error.fix) from None
    calls = _Calls(tool, ready, schema, backend)
    return noted(with_invoke(tool, calls.around))


def _properties(tool: FunctionTool) -> tuple[str, ...]:
    return tuple(tool.params_json_schema.get("properties", {}))
