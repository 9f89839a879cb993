"""A real LangChain agent, and a bare ToolNode in a graph, with a model that follows a script."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

pytest.importorskip("langchain")

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from agent_cache import RedisBackend
from agent_cache.engine import guard

Call = tuple[str, dict[str, Any]]


class _Thinking:
    """The time as the loop detector sees it: a model takes a second for each answer, everything else takes none."""

    seconds = 0.0


THINKING = _Thinking()


@pytest.fixture(autouse=True)
def _model_takes_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_now", lambda: THINKING.seconds)


class ScriptedModel(BaseChatModel):
    """Each step is one AIMessage with its parallel tool calls; after the last one it says "done"."""

    steps: list[list[Call]]
    seen: list[list[BaseMessage]] = []  # noqa: RUF012 - pydantic copies it

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **kwargs: Any) -> ScriptedModel:  # type: ignore[override]
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        self.seen.append(list(messages))
        THINKING.seconds += 1
        number = sum(isinstance(m, AIMessage) for m in messages)
        calls = self.steps[number] if number < len(self.steps) else []
        answer = AIMessage(
            "" if calls else "done",
            tool_calls=[{"name": n, "args": a, "id": f"call-{number}-{i}"} for i, (n, a) in enumerate(calls)],
        )
        return ChatResult(generations=[ChatGeneration(message=answer)])


class Runner:
    """One agent and one script; ``invoke`` and ``ainvoke`` give the tool messages of a run."""

    def __init__(self, tools: Sequence[Any], steps: list[list[Call]], **options: Any) -> None:
        self.model = ScriptedModel(steps=steps)
        self.agent: Any = self._built(list(tools), **options)

    def _built(self, tools: list[Any], **options: Any) -> Any:
        return create_agent(self.model, tools=tools, **options)

    async def ainvoke(self, **options: Any) -> list[ToolMessage]:
        return self._tool_messages(await self.agent.ainvoke({"messages": [("user", "go")]}, **options))

    def invoke(self, **options: Any) -> list[ToolMessage]:
        return self._tool_messages(self.agent.invoke({"messages": [("user", "go")]}, **options))

    def _tool_messages(self, state: dict[str, Any]) -> list[ToolMessage]:
        return [m for m in state["messages"] if isinstance(m, ToolMessage)]


class NodeRunner(Runner):
    """The same with a graph made by hand: a model and a ToolNode."""

    def _built(
        self,
        tools: list[Any],
        middleware: Sequence[Any] = (),
        context_schema: Any = None,
        checkpointer: Any = None,
        **options: Any,
    ) -> Any:
        for one in middleware:
            options |= {"wrap_tool_call": one.wrap_tool_call, "awrap_tool_call": one.awrap_tool_call}
            one.check(tools)
        graph: Any = StateGraph(MessagesState, context_schema=context_schema)
        graph.add_node("model", lambda state: {"messages": [self.model.invoke(state["messages"])]})
        graph.add_node("tools", ToolNode(tools, **options))
        graph.add_edge(START, "model")
        graph.add_conditional_edges("model", tools_condition)
        graph.add_edge("tools", "model")
        return graph.compile(checkpointer=checkpointer)


class Way:
    """How a script is run: by an agent or a ToolNode, with ``invoke`` or ``ainvoke``."""

    def __init__(self, kind: str, *, is_async: bool) -> None:
        self.kind = kind
        self.is_async = is_async
        self.runner: Any = None

    async def run(
        self, tools: Sequence[Any], steps: list[list[Call]], *middleware: Any, build: Any = None, **options: Any
    ) -> list[ToolMessage]:
        make = Runner if self.kind == "agent" else NodeRunner
        self.runner = make(tools, steps, middleware=list(middleware), **(build or {}))
        return await self.again(**options)

    async def again(self, **options: Any) -> list[ToolMessage]:
        if self.is_async:
            result: list[ToolMessage] = await self.runner.ainvoke(**options)
        else:
            result = await asyncio.to_thread(self.runner.invoke, **options)
        return result


@pytest.fixture
def scripted() -> Callable[..., Runner]:
    return Runner


@pytest.fixture(params=["agent-async", "agent-sync", "node-async", "node-sync"])
def way(request: pytest.FixtureRequest) -> Way:
    kind, _, how = request.param.partition("-")
    return Way(kind, is_async=how == "async")


@pytest.fixture(params=["async", "sync"])
def agent(request: pytest.FixtureRequest) -> Way:
    return Way("agent", is_async=request.param == "async")


@pytest.fixture
def dead_redis(unused_tcp_port: int, impatient: None) -> Iterator[RedisBackend]:
    """A Redis that is not there."""
    backend = RedisBackend(f"redis://127.0.0.1:{unused_tcp_port}/0", connect_timeout=1)
    yield backend
    backend.sync.close()
