"""What is to be done about the calls of one tool: its policy, found and checked, ready to be carried out.

Policies come from the middleware by name, or stand on the tool itself in ``tool.metadata["agent_cache"]``.
"""

from __future__ import annotations

import hashlib
import json
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, NoReturn

from langchain_core.tools import BaseTool

from agent_cache import ConfigurationError
from agent_cache.adapters import (
    AdaptedTool,
    Policies,
    ToolPolicy,
    adapted,
    decorated_kind,
    function_identity,
    is_decorated,
)
from agent_cache.config import settings
from agent_cache_langchain.arguments import Arguments, functions_of

__all__ = ["METADATA", "WRAPPED", "Plan", "Plans", "identity_of", "policy_on", "refuse_unscoped", "wrapped_kind"]

METADATA = "agent_cache"
WRAPPED = "__agent_cache_wrapped__"  # on what cached_tool and invalidating_tool made: "read" or "write"
_OTHER = ToolPolicy(kind="other")


@dataclass(frozen=True, slots=True)
class Plan:
    """One tool's. ``adapted`` is None for a tool that looks after itself (a decorated or a wrapped one)."""

    name: str
    kind: str
    adapted: AdaptedTool | None
    arguments: Arguments | None
    names: tuple[str, ...]
    """Under which the loop detector knows the tool."""

    def given(self, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
        """The call's arguments as the tool gets them; None where they do not fit it."""
        return dict(arguments) if self.arguments is None else self.arguments.of(arguments)

    @property
    def told_id(self) -> bool:
        return self.arguments is not None and self.arguments.takes_call_id

    @property
    def hidden(self) -> frozenset[str]:
        return frozenset() if self.arguments is None else frozenset(self.arguments.injected)


class Plans:
    """The plans of a middleware's tools, each made once.

    Args:
        policies: by tool name.
        trust_metadata: whether what tools say of themselves counts.
        shared_as: what makes tools the same ones in another process, where their functions do not say it.
        provenance: whether the reads are to tell where an answer came from.
    """

    def __init__(
        self, policies: Policies, *, trust_metadata: bool, shared_as: str | None, provenance: bool = False
    ) -> None:
        self._policies = policies
        self._trusts = trust_metadata
        self._shared_as = shared_as
        self._provenance = provenance
        self._lock = Lock()
        self._made: dict[int, tuple[weakref.ref[BaseTool], Plan]] = {}
        self._unknown: dict[str, Plan] = {}
        self._checked: frozenset[str] | None = None

    def check(self, tools: Iterable[Any], *, unknown_tools: bool) -> None:
        """Make the plans of these tools, and see that every policy has its tool.

        Raises:
            ConfigurationError: naming the tool and what is wrong.
        """
        known = [tool for tool in tools if isinstance(tool, BaseTool)]
        for tool in known:
            self._plan(tool)
        names = frozenset(tool.name for tool in known)
        if unknown_tools and self._checked != names:
            self._policies.check(names)
            self._checked = names

    def find(self, name: str, tool: BaseTool | None) -> Plan:
        """The plan for a call. A tool that was refused, and a tool nobody knows, are run as they are, under watch.

        Raises:
            ConfigurationError: the policy does not fit the tool.
        """
        if tool is None:
            return self._unknown.get(name) or self._unknown.setdefault(name, _watching(name, None))
        try:
            return self._plan(tool)
        except UnscopedError as refusal:
            settings.notices.once(("langchain", "unscoped", tool.name), "%s runs uncached: %s", tool.name, refusal)
            return self._keep(tool, _watching(tool.name, Arguments(tool)))

    def _plan(self, tool: BaseTool) -> Plan:
        made = self._made.get(id(tool))
        if made is not None and made[0]() is tool:
            return made[1]
        with self._lock:  # equal calls made in parallel must find one plan
            made = self._made.get(id(tool))
            if made is not None and made[0]() is tool:
                return made[1]
            return self._keep(tool, self._new(tool))

    def _keep(self, tool: BaseTool, plan: Plan) -> Plan:
        number = id(tool)
        self._made[number] = weakref.ref(tool, lambda _: self._made.pop(number, None)), plan
        return plan

    def _new(self, tool: BaseTool) -> Plan:
        policy = agreed(tool, self._policies.find(tool.name), policy_on(tool) if self._trusts else None)
        wrapped = wrapped_kind(tool)
        if wrapped is not None:
            does = _decorated_as(tool) if wrapped == "decorated" else wrapped
            # a pattern may mean other tools; what a decorator says is not taken back by one
            means_it = wrapped != "decorated" or tool.name in set(self._policies)
            if policy is not None and means_it and does and policy.kind not in (does, "other"):
                conflict(tool, does, policy.kind)
            names = (tool.name, *(getattr(function, "__name__", "") for function in functions_of(tool)))
            return Plan(tool.name, wrapped, None, None, names)
        arguments = Arguments(tool)
        if policy is None or policy.kind == "other":
            return _watching(tool.name, arguments, policy or _OTHER)
        if policy.kind == "read":
            refuse_unscoped(tool, arguments, policy)
            policy = replace(policy, ignore=tuple(name for name in policy.ignore if name in arguments.needed))
        try:
            identity = identity_of(tool, self._shared_as)
            ready = adapted(tool.name, policy, arguments.names, identity, provenance=self._provenance)
        except ConfigurationError as error:
            raise ConfigurationError(
                f"policy of tool {tool.name!r}: {error.parameter}", error.value, error.fix
            ) from None
        return Plan(tool.name, policy.kind, ready, arguments, (tool.name,))


def _watching(name: str, arguments: Arguments | None, policy: ToolPolicy = _OTHER) -> Plan:
    ready = adapted(name, policy, arguments.names if arguments is not None else (), None)
    return Plan(name, "other", ready, arguments, (name,))


class UnscopedError(ConfigurationError):
    """A tool that may be told who is asking, and nobody said who may share its answers."""


def refuse_unscoped(tool: BaseTool, arguments: Arguments, policy: ToolPolicy) -> None:
    """A read that is handed state, store, runtime or config needs a declared scope.

    Raises:
        UnscopedError: saying so.
    """
    if policy.scope is None and arguments.carriers:
        raise UnscopedError(
            f"scope of tool {tool.name!r}",
            None,
            f"it is handed {', '.join(sorted(arguments.carriers))} by LangChain, which may tell who is asking, and that is "
            "not part of the key: say who may share its answers, scope='user' with an identity in the session, or "
            "scope='global' if they are the same for everybody",
        )


def policy_on(tool: BaseTool) -> ToolPolicy | None:
    """What the tool says of itself.

    Raises:
        ConfigurationError: it is not a policy.
    """
    said = (tool.metadata or {}).get(METADATA)
    return None if said is None else ToolPolicy.of(said, f"metadata[{METADATA!r}] of tool {tool.name!r}")


def agreed(tool: BaseTool, by_name: ToolPolicy | None, by_tag: ToolPolicy | None) -> ToolPolicy | None:
    """The policy by name, else the tag; they may differ in detail, not in what the tool does.

    Raises:
        ConfigurationError: one says it reads and the other that it writes.
    """
    if by_name is not None and by_tag is not None and {by_name.kind, by_tag.kind} == {"read", "write"}:
        conflict(tool, by_tag.kind, by_name.kind)
    return by_name or by_tag


def conflict(tool: BaseTool, one: str, other: str) -> NoReturn:
    fix = f"it is tagged both {one!r} and {other!r}; a tool that changes anything is a write, and a write only"
    raise ConfigurationError("policy", tool.name, fix)


def wrapped_kind(tool: BaseTool) -> str | None:
    """Whether the tool looks after itself: made by cached_tool or invalidating_tool, or decorated under ``@tool``."""
    for function in functions_of(tool):
        kind = getattr(function, WRAPPED, None)
        if isinstance(kind, str):
            return kind
        if is_decorated(function):
            return "decorated"
    return None


def _decorated_as(tool: BaseTool) -> str:
    """What the decorators under ``@tool`` make of it; empty if none says (``@watched``)."""
    return next((kind for function in functions_of(tool) if (kind := decorated_kind(function))), "")


def identity_of(tool: BaseTool, shared_as: str | None) -> str | None:
    """What makes the tool this tool in every process; None where only this very object is it."""
    functions = [function_identity(function) for function in functions_of(tool)]
    if shared_as is not None:
        who = f"as {shared_as}"
    elif functions and all(functions):
        who = " and ".join(map(str, functions))
    else:
        return None
    visible = tool.tool_call_schema
    shape = visible if isinstance(visible, dict) else _json_schema(visible)
    text = json.dumps([tool.name, tool.response_format, shape], sort_keys=True, default=repr)
    return f"langchain {who} {hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"


def _json_schema(schema: Any) -> Any:
    make = schema.model_json_schema if hasattr(schema, "model_json_schema") else schema.schema
    try:
        return make()
    except Exception:  # noqa: BLE001 - a schema with a type that has no JSON schema: its fields' names will do
        return sorted(getattr(schema, "model_fields", {}))
