"""One call of one tool through the cache: shared by the capability and the toolset.

Finds the tool's policy, runs the call through :class:`~agent_cache.adapters.AdaptedTool` in the session it belongs to,
and tells the model what the loop detector found.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from opentelemetry import trace
from pydantic_ai import RunContext, ToolReturn
from pydantic_ai import exceptions as _exceptions
from pydantic_ai.exceptions import ToolRetryError
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.toolsets import ToolsetTool

from agent_cache.adapters import (
    AdaptedTool,
    HeldSessions,
    Policies,
    Served,
    ToolPolicy,
    adapted,
    in_session,
    is_decorated,
    pass_through,
    taken_hints,
)
from agent_cache.backends.base import Backend
from agent_cache.config import settings
from agent_cache.errors import ConfigurationError
from agent_cache.session import AgentCacheSession
from agent_cache_pydantic_ai.tools import KnownTool, is_meddled, known_tool, source_of

__all__ = ["METADATA", "Calls", "Identity", "SessionId"]

_FOR_THE_RUN = ("ModelRetry", "CallDeferred", "ApprovalRequired", "SkipToolExecution")  # not all are in every version
pass_through(*(getattr(_exceptions, name) for name in _FOR_THE_RUN if hasattr(_exceptions, name)))

METADATA = "agent_cache"
"""The key of a policy in a tool's metadata."""

Identity = Callable[[RunContext[Any]], Mapping[str, object] | None]
SessionId = Callable[[RunContext[Any]], str | None]

# They carry the id of the call they answer: no other call may be given them.
_OF_ONE_CALL: tuple[type[Exception], ...] = (
    ToolRetryError,
    getattr(_exceptions, "ToolFailedError", ToolRetryError),
)
# Tools of pydantic-ai itself, which change what the model can call.
_ITS_OWN = ("tool-search", "capability-load")
_OTHER = ToolPolicy(kind="other")
_MOST_TURNS = 1_024


class _OneCallsError(Exception):
    """A failure that belongs to one call; those who waited for it make theirs."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        super().__init__(str(error))


class Calls:
    """The calls of the tools of an agent or a toolset.

    Args:
        policies: by tool name.
        identity: who asks, from the run's context; None where the session around the run says it.
        session: the id of the session a call belongs to; None for the run itself.
        backend: where answers are kept.
        provenance: add to a result's metadata where it came from.
        dynamic: some tools named in the policies may be absent.
        options: for every session.

    Raises:
        ConfigurationError: naming what is wrong.
    """

    def __init__(
        self,
        policies: Policies | Mapping[str, ToolPolicy | Mapping[str, Any]] | None,
        identity: Identity | None,
        session: SessionId | None,
        backend: Backend | None,
        provenance: bool,
        dynamic: bool,
        options: Mapping[str, Any],
    ) -> None:
        for name, given in (("identity", identity), ("session", session)):
            if given is not None and not callable(given):
                raise ConfigurationError(name, given, "give a function of the run's context")
        if "identity" in options or "session_id" in options:
            raise ConfigurationError("options", dict(options), "say it with identity= and session=")
        self.policies = policies if isinstance(policies, Policies) else Policies(policies)
        self._identity = identity
        self._session = session
        self._backend = backend
        self._provenance = bool(provenance)
        self._dynamic = dynamic
        self._held = HeldSessions(**options)
        self._tools: dict[tuple[str, str], tuple[object, ToolPolicy, AdaptedTool]] = {}
        self._known: dict[str, tuple[object, object, KnownTool]] = {}
        self._turns: OrderedDict[str, str | None] = OrderedDict()
        self._lock = threading.Lock()

    # -- before a run --------------------------------------------------------------------------------------------------

    def check(self, tools: Mapping[str, ToolsetTool[Any]]) -> None:
        """That the policies fit the tools of this step.

        Raises:
            ConfigurationError: a policy for no tool, a template that names no argument, a policy given twice and
                differently, a read that is told who asks and does not say who may share its answers.
        """
        if not self._dynamic:
            self.policies.check(tools)
        for name, tool in tools.items():
            if _is_ours(tool.tool_def):
                known = self._what(tool.tool_def, tool)
                policy = self._policy(name, tool.tool_def, known)
                if policy is not None:
                    try:
                        self._adapted(name, policy, known)
                    except ConfigurationError as error:
                        parameter = f"policy of tool {name!r}: {error.parameter}"
                        raise ConfigurationError(parameter, error.value, error.fix) from None
                    _check_scope(name, policy, known)

    def release(self, ctx: RunContext[Any]) -> None:
        """The run is over: so is its session, unless ``session=`` says what it belongs to."""
        if self._session is None and ctx.run_id is not None:
            self._held.release(ctx.run_id)

    # -- a call --------------------------------------------------------------------------------------------------------

    async def answer(
        self,
        ctx: RunContext[Any],
        definition: ToolDefinition,
        tool: ToolsetTool[Any] | None,
        arguments: dict[str, Any],
        run: Callable[[], Awaitable[Any]],
    ) -> Any:
        """Answer a call of a tool; ``run`` runs it.

        Raises:
            AgentLoopDetectedError: the session's loop policy stopped the call, and with it the run.
        """
        if not _is_ours(definition):
            return await run()
        known = self._what(definition, tool)
        policy = self._policy(definition.name, definition, known)
        if policy is None and is_decorated(known.function):
            async with self._block(ctx):
                return _with_hints(await run())
        policy = self._allowed(ctx, definition, known, policy or _OTHER)
        adapted_tool = self._adapted(definition.name, policy, known)
        async with self._block(ctx):
            served = await _called(adapted_tool, arguments, run, self._backend)
            value = _with_hints(served.value)
        trace.get_current_span().set_attribute("agent_cache.executed", served.executed)
        return _with_provenance(value, policy, served) if self._provenance else value

    def _block(self, ctx: RunContext[Any]) -> Any:
        """Where a call belongs: the session around the run, else the one held for it."""
        if in_session():
            return nullcontext()
        session_id = ctx.run_id if self._session is None else self._session(ctx)
        if session_id is None:
            return nullcontext()
        session = self._held.attach(session_id, None if self._identity is None else self._identity(ctx))
        return _Turn(session, new=self._is_new_turn(session_id, ctx.run_id))

    def _is_new_turn(self, session_id: str, run_id: str | None) -> bool:
        """Every run answers a message of the user: what was repeated before it is no loop."""
        with self._lock:
            last = self._turns.get(session_id, run_id)
            self._turns[session_id] = run_id
            self._turns.move_to_end(session_id)
            if len(self._turns) > _MOST_TURNS:
                self._turns.popitem(last=False)
        return last != run_id

    def _what(self, definition: ToolDefinition, tool: ToolsetTool[Any] | None) -> KnownTool:
        """What is known of a tool: looked at once, as long as it is the same one."""
        of, schema, known = self._known.get(definition.name, (None, None, None))
        source = source_of(tool)
        if known is None or of is not source or schema is not definition.parameters_json_schema:
            known = known_tool(definition, source, meddled=is_meddled(tool))
            self._known[definition.name] = source, definition.parameters_json_schema, known
        return known

    def _policy(self, name: str, definition: ToolDefinition, known: KnownTool) -> ToolPolicy | None:
        by_name = self.policies.find(name)
        tagged = (definition.metadata or {}).get(METADATA)
        at_tool = None if tagged is None else ToolPolicy.of(tagged, f"tool {name!r}, metadata[{METADATA!r}]")
        if by_name is not None and at_tool is not None and by_name != at_tool:
            raise ConfigurationError(
                f"policies[{name!r}]", by_name.as_mapping(), f"the tool itself says {at_tool.as_mapping()}; keep one"
            )
        policy = by_name or at_tool
        if policy is not None and is_decorated(known.function):
            raise ConfigurationError(
                f"policies[{name!r}]",
                policy.as_mapping(),
                "the tool's function has a decorator of agent_cache; keep one",
            )
        return policy

    def _allowed(
        self, ctx: RunContext[Any], definition: ToolDefinition, known: KnownTool, policy: ToolPolicy
    ) -> ToolPolicy:
        """The policy in force for this call: what a human approved was approved once, and is not kept."""
        if policy.kind != "read":
            return policy
        if ctx.tool_call_approved or definition.kind != "function":
            return _OTHER
        try:
            _check_scope(definition.name, policy, known)
        except ConfigurationError as error:
            settings.notices.once(
                ("pydantic-ai scope", definition.name), "%s runs uncached: %s", definition.name, error.fix
            )
            return _OTHER
        return policy

    def _adapted(self, name: str, policy: ToolPolicy, known: KnownTool) -> AdaptedTool:
        if known.identity is not None:
            return adapted(name, policy, known.parameters, known.identity, known.returns, provenance=self._provenance)
        owner, kept, made = self._tools.get((name, policy.kind), (None, None, None))
        if made is None or owner is not known.owner or kept != policy:
            made = adapted(name, policy, known.parameters, None, known.returns, provenance=self._provenance)
            self._tools[name, policy.kind] = known.owner, policy, made
        return made


class _Turn:
    """A block of a held session, at the beginning of a turn or in it."""

    def __init__(self, session: AgentCacheSession, *, new: bool) -> None:
        self._session = session
        self._new = new

    async def __aenter__(self) -> None:
        await self._session.__aenter__()
        if self._new:
            self._session.new_turn()

    async def __aexit__(self, *error: Any) -> None:
        await self._session.__aexit__(*error)


def _is_ours(definition: ToolDefinition) -> bool:
    """Whether it is a tool that does something for the user: not an output, nor one that runs elsewhere."""
    return definition.kind in ("function", "unapproved") and getattr(definition, "tool_kind", None) not in _ITS_OWN


def _check_scope(name: str, policy: ToolPolicy, known: KnownTool) -> None:
    if policy.kind == "read" and policy.scope is None and known.takes_context:
        raise ConfigurationError(
            f"policies[{name!r}].scope",
            None,
            "the tool is handed the run context, which may tell who is asking and is not part of the key: say who may "
            "share its answers, scope='user' with an identity in the session (or identity=lambda ctx: {...}), or "
            "scope='global' if they are the same for everybody",
        )


async def _called(
    tool: AdaptedTool, arguments: dict[str, Any], run: Callable[[], Awaitable[Any]], backend: Backend | None
) -> Served[Any]:
    ran = False

    async def once() -> Any:
        nonlocal ran
        ran = True
        try:
            return await run()
        except _OF_ONE_CALL as error:
            raise _OneCallsError(error) from error

    try:
        return await tool(arguments, once, backend=backend)
    except _OneCallsError as failed:
        error = failed.error
    if ran:
        raise error
    return Served(await run(), executed=True)


def _with_hints(result: Any) -> Any:
    """What the loop detector has to say goes to the model beside the result, never into it."""
    hints = [event.hint for event in taken_hints()]
    if not hints:
        return result
    if not isinstance(result, ToolReturn):
        return ToolReturn(return_value=result, content="\n".join(hints))
    said = [] if result.content is None else [result.content] if isinstance(result.content, str) else result.content
    return replace(result, content=[*said, *hints])


def _with_provenance(result: Any, policy: ToolPolicy, served: Served[Any]) -> Any:
    said = {"agent_cache": {"kind": policy.kind, "executed": served.executed, **served.origin}}
    if not isinstance(result, ToolReturn):
        return ToolReturn(return_value=result, metadata=said)
    if result.metadata is None or isinstance(result.metadata, dict):
        return replace(result, metadata={**(result.metadata or {}), **said})
    return result
