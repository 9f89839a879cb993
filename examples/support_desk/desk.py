"""The desk: one LangChain agent for everybody, a scripted model, and an auditor."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, AgentState
from langchain.tools.tool_node import ToolCallRequest
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import BaseTool
from langgraph.types import Command

from agent_cache import AgentCacheSession, AgentLoopDetectedError

from .conversations import Call, Conversation, Step
from .shop import Shop
from .tools import Caller


class ScriptedModel(BaseChatModel):
    """A chat model that follows the script of the conversation it is in: no key, no network."""

    scripts: Mapping[str, Sequence[Step]]

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **kwargs: Any) -> ScriptedModel:
        return self

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        opening = next(m for m in messages if isinstance(m, HumanMessage))
        number = sum(isinstance(m, AIMessage) for m in messages)
        step = self.scripts[opening.name or ""][number]
        if callable(step):
            seen = {m.name or "": _value(m) for m in messages if isinstance(m, ToolMessage)}
            answer = AIMessage(step(seen))
        else:
            answer = AIMessage("", tool_calls=[
                {"name": c.tool, "args": dict(c.args), "id": _call_id(number, i)}
                for i, c in enumerate(step)
            ])  # fmt: skip
        return ChatResult(generations=[ChatGeneration(message=answer)])


class Auditor(AgentMiddleware[AgentState[Any], Caller]):
    """Stands between the model and its tools and compares each read with the database.

    Legal answers of a read are what the database says when the call starts, and what it says
    after each commit until the call returns. Anything else was not true at any moment of the
    call: it is stale, or somebody else's.
    """

    def __init__(self, shop: Shop) -> None:
        super().__init__()
        self.shop = shop
        self.calls = 0
        self.waited = 0.0
        """Seconds all callers together waited for their answers."""
        self.stale: list[str] = []
        self._truths: dict[str, Callable[[dict[str, Any], str], Any]] = {
            "return_policy": lambda a, who: shop.policy(),
            "search_products": lambda a, who: shop.search(a["kind"]),
            "check_stock": lambda a, who: shop.stock(a["sku"]),
            "get_order": lambda a, who: shop.order(a["order_id"]),
            "track_parcel": lambda a, who: shop.parcel(a["order_id"]),
            "my_orders": lambda a, who: shop.orders(who),
            "my_cart": lambda a, who: shop.cart(who),
        }

    async def awrap_tool_call(
        self,
        request: ToolCallRequest,
        handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]],
    ) -> ToolMessage | Command[Any]:
        call = request.tool_call
        began = perf_counter()
        truth = self._truths.get(call["name"])
        if truth is None:  # a write
            answer = await handler(request)
            self._count(began)
            return answer
        who = request.runtime.context.customer  # type: ignore[attr-defined]
        legal: list[Any] = []

        def sample() -> None:
            legal.append(truth(call["args"], who))

        sample()
        self.shop.commit_hooks.append(sample)
        try:
            answer = await handler(request)
        finally:
            self.shop.commit_hooks.remove(sample)
        self._count(began)
        if not isinstance(answer, ToolMessage) or _value(answer) not in legal:
            self.stale.append(f"{call['name']}({call['args']}) for {who}: {answer.content}")  # type: ignore[union-attr]
        return answer

    def _count(self, began: float) -> None:
        self.calls += 1
        self.waited += perf_counter() - began


@dataclass
class Outcome:
    """How one conversation went: what is comparable of it, how long it took, what stopped it."""

    conversation: Conversation
    answers: list[str] = field(default_factory=list)
    seconds: float = 0.0
    stopped: AgentLoopDetectedError | None = None


class Desk:
    """One agent that serves every customer.

    Args:
        shop: the shop its tools work on.
        tools: the tools, decorated or bare.
        conversations: all talks it will hear (the model's scripts).
        sessions: open an :class:`~agent_cache.AgentCacheSession` for each conversation.
    """

    def __init__(
        self,
        shop: Shop,
        tools: Sequence[BaseTool],
        conversations: Sequence[Conversation],
        *,
        sessions: bool,
    ) -> None:
        self.audit = Auditor(shop)
        self._sessions = sessions
        scripts = {c.name: [s for t in c.turns for s in t.steps] for c in conversations}
        self._agent = create_agent(
            ScriptedModel(scripts=scripts),
            tools=list(tools),
            middleware=[self.audit],
            context_schema=Caller,
        )

    async def talk(self, conversation: Conversation) -> Outcome:
        """Hold one conversation from the first turn to the last, or until it is stopped."""
        outcome = Outcome(conversation)
        history: list[AnyMessage] = []
        began = perf_counter()
        async with AsyncExitStack() as stack:
            session = None
            if self._sessions:
                session = await stack.enter_async_context(
                    AgentCacheSession(conversation.name, identity={"user": conversation.customer})
                )
            for turn in conversation.turns:
                if session is not None:
                    session.new_turn()
                history.append(HumanMessage(turn.customer_says, name=conversation.name))
                try:
                    state = await self._agent.ainvoke(
                        {"messages": [*history]},
                        config={"recursion_limit": 200},
                        context=Caller(conversation.customer),
                    )
                except AgentLoopDetectedError as stop:
                    outcome.stopped = stop
                    break
                history = state["messages"]
        outcome.seconds = perf_counter() - began
        outcome.answers = list(_comparable(conversation, history))
        return outcome


def _comparable(conversation: Conversation, history: Sequence[AnyMessage]) -> list[str]:
    """Every tool result and every final answer, without the reads that raced with a write."""
    steps = [s for t in conversation.turns for s in t.steps]
    calls: dict[str, Call] = {
        _call_id(n, i): c for n, step in enumerate(steps) if not callable(step) for i, c in enumerate(step)
    }
    lines = []
    for message in history:
        if isinstance(message, ToolMessage):
            call = calls[message.tool_call_id]
            if not call.racing:
                lines.append(f"{call.tool}({dict(call.args)}) -> {message.content}")
        elif isinstance(message, AIMessage) and not message.tool_calls:
            lines.append(f"answer: {message.text}")
    return lines


def _call_id(step: int, position: int) -> str:
    return f"call_{step}_{position}"


def _value(message: ToolMessage) -> Any:
    return json.loads(message.content) if isinstance(message.content, str) else message.content
