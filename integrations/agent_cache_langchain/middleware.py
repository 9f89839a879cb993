"""``AgentCacheMiddleware``: the cache between an agent made by ``create_agent`` (or a bare ToolNode) and its tools.

The order of one call: the tool's plan, the run's session, the arguments as the tool gets them, the cache. Each of these
is another module's; here they are put together, once for ``invoke`` and once for ``ainvoke``.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NotRequired

from langchain.agents.middleware import AgentMiddleware, AgentState
from langchain.agents.middleware.types import PrivateStateAttr
from langchain_core.messages import ToolMessage
from langgraph.channels.untracked_value import UntrackedValue
from langgraph.errors import GraphBubbleUp
from langgraph.prebuilt.tool_node import ToolCallRequest

from agent_cache import AgentLoopDetectedError, ConfigurationError
from agent_cache.adapters import OneCallOnly, Policies, Served, ToolPolicy, pass_through
from agent_cache.backends.base import Backend
from agent_cache.context import current_view
from agent_cache_langchain.interrupts import was_answered
from agent_cache_langchain.loops import ended, with_hints
from agent_cache_langchain.plans import Plan, Plans
from agent_cache_langchain.replay import FailedResult, answer_of, replay, with_provenance
from agent_cache_langchain.sessions import Identity, RunSessions

__all__ = ["AgentCacheMiddleware"]

pass_through(GraphBubbleUp)  # an interrupt is for a human: no stale answer takes its place

_RUN = "agent_cache_run"


class AgentCacheState(AgentState[Any]):
    """What the middleware keeps of a run: its name, which is neither shown nor saved."""

    agent_cache_run: NotRequired[Annotated[str, UntrackedValue, PrivateStateAttr]]


class AgentCacheMiddleware(AgentMiddleware[AgentCacheState, Any, Any]):
    """A cache for the tools of an agent.

    ::

        create_agent(model, tools, middleware=[AgentCacheMiddleware({
            "get_order": {"kind": "read", "resource": "order:{order_id}"},
            "set_status": {"kind": "write", "resource": "order:{order_id}"},
        })])

    With a bare ToolNode: ``ToolNode(tools, wrap_tool_call=m.wrap_tool_call, awrap_tool_call=m.awrap_tool_call)``, and
    ``m.check(tools)`` once, which an agent does by itself.

    Args:
        policies: what each tool reads or writes, by name or pattern (``get_*``): a :class:`~agent_cache.adapters.Policies`,
            or a mapping to policies or plain mappings. Tools may also say it themselves, in ``metadata["agent_cache"]``;
            by name goes first. Tools of which nothing is said are not cached; all calls are watched for loops.
        session: the id of the session the calls belong to, or a function of the ``ToolRuntime`` that returns it. None: the
            open :class:`~agent_cache.AgentCacheSession`, else the thread's, else one for each run.
        identity: who is asking: a mapping, a function of the ``ToolRuntime``, or names of fields such as
            ``("tenant", "user")`` that the run's context or its ``configurable`` has. An open session that has an identity
            goes first.
        trust_metadata: False to overlook what tools say of themselves, for tools that others describe.
        backend: where answers are kept; else the session's, else the configured one.
        shared_as: a name under which tools that are no importable functions (closures, MCP tools, objects) are the same
            tools in every process that gives it: only then can these processes share their answers.
        watch: False to leave tools of which nothing is said to another one of the agent's middleware: two that watch all
            would count every call twice.
        unknown_tools: what to do about a policy for a tool the agent does not have: ``"raise"`` or ``"ignore"``. If
            another middleware hides tools from the model, put this one before it, or ignore them.
        name: LangChain wants middleware of one agent to have different names.
        provenance: put ``{"agent_cache": {"kind": ..., "executed": ...}}`` into the ``response_metadata`` of the tools' messages
            (not seen by the model); of a read that was not executed also ``age`` (seconds), ``tags`` (the resources it depends
            on, ``["order:7"]``) and ``stale``, the rule by which an answer was served beyond its ttl.
        options: for the sessions it opens: ``on_loop``, ``max_tool_repeats``, ``keep`` and so on.

    Raises:
        ConfigurationError: a policy or an option that is wrong, now; one that does not fit its tool, before the first tool
            runs.
        AgentLoopDetectedError: from a run that circles, by ``on_loop``. With ``"short_circuit"``, where there is no
            result to give again, the model is told so in an error message.
    """

    state_schema = AgentCacheState

    def __init__(
        self,
        policies: Policies | Mapping[str, ToolPolicy | Mapping[str, Any]] | None = None,
        *,
        session: str | Callable[[Any], str | None] | None = None,
        identity: Identity = None,
        trust_metadata: bool = True,
        backend: Backend | None = None,
        shared_as: str | None = None,
        watch: bool = True,
        unknown_tools: str = "raise",
        name: str | None = None,
        provenance: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        if unknown_tools not in ("raise", "ignore"):
            raise ConfigurationError("unknown_tools", unknown_tools, "give 'raise' or 'ignore'")
        if backend is not None and not hasattr(backend, "lookup"):
            raise ConfigurationError("backend", backend, "give a backend such as MemoryBackend()")
        by_name = policies if isinstance(policies, Policies) else Policies(policies)
        told = self._provenance = bool(provenance)
        self._plans = Plans(by_name, trust_metadata=trust_metadata, shared_as=shared_as, provenance=told)
        self._sessions = RunSessions(session, identity, **options)
        self._watch = bool(watch)
        self._unknown_tools = unknown_tools == "raise"
        self._backend = backend
        self._name = name or type(self).__name__

    @property
    def name(self) -> str:
        """Its name among the agent's middleware."""
        return self._name

    def check(self, tools: Iterable[Any]) -> None:
        """See that every policy fits its tool and every tool its policy.

        Raises:
            ConfigurationError: naming the tool and what is wrong.
        """
        self._plans.check(tools, unknown_tools=self._unknown_tools)

    # -- hooks of the run ----------------------------------------------------------------------------------------------

    def before_agent(self, state: AgentCacheState, runtime: Any) -> dict[str, Any] | None:
        """Give the run a name, for when it has no thread."""
        return None if state.get(_RUN) else {_RUN: uuid.uuid4().hex}

    async def abefore_agent(self, state: AgentCacheState, runtime: Any) -> dict[str, Any] | None:
        """As :meth:`before_agent`."""
        return self.before_agent(state, runtime)

    def after_agent(self, state: AgentCacheState, runtime: Any) -> dict[str, Any] | None:
        """What belonged to this run alone is over with it; what belongs to a thread goes on."""
        run = state.get("agent_cache_run")
        if run:
            self._sessions.release(run)
        return None

    async def aafter_agent(self, state: AgentCacheState, runtime: Any) -> dict[str, Any] | None:
        """As :meth:`after_agent`."""
        return self.after_agent(state, runtime)

    def wrap_model_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        """Check policies against the tools before the model is asked."""
        self.check(request.tools)
        return handler(request)

    async def awrap_model_call(self, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        """As :meth:`wrap_model_call`."""
        self.check(request.tools)
        return await handler(request)

    # -- a call of a tool ----------------------------------------------------------------------------------------------
    # Errors that end here are given no traceback: it would keep the contexts of this run alive, and the loop detector takes
    # those for agents that are still at work.

    def wrap_tool_call(self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Any]) -> Any:
        """Answer a call from the cache, or run it."""
        call = self._call(request)
        if call.plan.kind == "other" and not self._watch:
            return handler(request)
        with self._session(request):
            try:
                if call.plan.adapted is None:
                    return call.finished(handler(request))
                try:
                    served = call.plan.adapted.blocking(
                        call.arguments, lambda: call.ran(lambda: handler(request)), backend=self._backend
                    )
                except FailedResult as failed:
                    return call.finished(call.failed(failed.with_traceback(None)))
                result = call.result if served.executed else handler(call.replayed(served))
                return call.finished(with_provenance(result, call.plan.kind, served) if self._provenance else result)
            except AgentLoopDetectedError as error:
                return call.stopped(error.with_traceback(None))

    async def awrap_tool_call(self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Any]) -> Any:
        """As :meth:`wrap_tool_call`."""
        call = self._call(request)
        if call.plan.kind == "other" and not self._watch:
            return await handler(request)
        with self._session(request):
            try:
                if call.plan.adapted is None:
                    return call.finished(await handler(request))

                async def run() -> Any:
                    return await call.aran(lambda: handler(request))

                try:
                    served = await call.plan.adapted(call.arguments, run, backend=self._backend)
                except FailedResult as failed:
                    return call.finished(call.failed(failed.with_traceback(None)))
                result = call.result if served.executed else await handler(call.replayed(served))
                return call.finished(with_provenance(result, call.plan.kind, served) if self._provenance else result)
            except AgentLoopDetectedError as error:
                return call.stopped(error.with_traceback(None))

    def _call(self, request: ToolCallRequest) -> _Call:
        plan = self._plans.find(request.tool_call["name"], request.tool)
        given = request.tool_call["args"]
        arguments = plan.given(given)
        if arguments is None:  # nobody knows what the tool will make of them
            if plan.kind == "write":
                return _Call(request, plan, {})  # whatever it may write is dropped
            plan, arguments = self._plans.find(request.tool_call["name"], None), dict(given)
        return _Call(request, plan, arguments)

    def _session(self, request: ToolCallRequest) -> Any:
        state = request.state
        run = state.get(_RUN) if isinstance(state, Mapping) else None
        return self._sessions.around(request.runtime, state, run)


@dataclass(slots=True)
class _Call:
    """One call under way, and what came of it."""

    request: ToolCallRequest
    plan: Plan
    arguments: dict[str, Any]
    result: Any = None
    bubbled: GraphBubbleUp | None = None

    @property
    def id(self) -> str | None:
        return self.request.tool_call["id"]

    def ran(self, run: Callable[[], Any]) -> Any:
        """Run the tool; what may be kept of it."""
        try:
            self.result = run()
        except GraphBubbleUp as bubbled:
            return self._bubbles(bubbled)
        return self._answer()

    async def aran(self, run: Callable[[], Awaitable[Any]]) -> Any:
        """As :meth:`ran`."""
        try:
            self.result = await run()
        except GraphBubbleUp as bubbled:
            return self._bubbles(bubbled)
        return self._answer()

    def _answer(self) -> Any:
        answer = answer_of(self.result, self.plan.name, self.id, told_id=self.plan.told_id)
        asked = self.request.runtime is not None and was_answered(self.request.runtime.config)
        return OneCallOnly(answer) if asked else answer

    def _bubbles(self, bubbled: GraphBubbleUp) -> OneCallOnly:
        """An interrupt and its like concern this call alone: not those who wait for its answer."""
        if isinstance(bubbled, AgentLoopDetectedError):
            raise bubbled
        self.bubbled = bubbled
        return OneCallOnly(bubbled, shown=type(bubbled).__name__)

    def replayed(self, served: Served[Any]) -> ToolCallRequest:
        """The request with a stand-in for the tool that gives the answer again."""
        assert self.request.tool is not None  # noqa: S101 - unknown tools are not cached
        return self.request.override(tool=replay(self.request.tool, served.value, self.plan.hidden))

    def failed(self, failed: FailedResult) -> ToolMessage:
        """The error message: the tool node's own, or for those who waited one of their own."""
        message = failed.message
        is_mine = message is self.result
        return message if is_mine else message.model_copy(update={"tool_call_id": self.id, "id": None}, deep=True)

    def finished(self, result: Any) -> Any:
        """The result as the graph gets it."""
        if self.bubbled is not None:
            raise self.bubbled
        return with_hints(result, *self.plan.names)

    def stopped(self, error: AgentLoopDetectedError) -> ToolMessage:
        """A loop: the run ends, or the model is told."""
        session = current_view().session
        if session is None or session.on_loop != "short_circuit":
            raise ended(error) from None
        return ToolMessage(content=error.event.hint, name=self.plan.name, tool_call_id=self.id, status="error")
