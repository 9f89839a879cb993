"""A real LangChain agent with a model that follows a script."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

pytest.importorskip("langchain")

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult

Call = tuple[str, dict[str, Any]]


class ScriptedModel(BaseChatModel):
    """Each step is one AIMessage with its parallel tool calls; after the last one it says "done"."""

    steps: list[list[Call]]

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **kwargs: Any) -> ScriptedModel:  # type: ignore[override]
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
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
        self.agent = create_agent(ScriptedModel(steps=steps), tools=list(tools), **options)

    async def ainvoke(self, **options: Any) -> list[ToolMessage]:
        return self._tool_messages(await self.agent.ainvoke({"messages": [("user", "go")]}, **options))

    def invoke(self, **options: Any) -> list[ToolMessage]:
        return self._tool_messages(self.agent.invoke({"messages": [("user", "go")]}, **options))

    def _tool_messages(self, state: dict[str, Any]) -> list[ToolMessage]:
        return [m for m in state["messages"] if isinstance(m, ToolMessage)]


@pytest.fixture
def scripted() -> Callable[..., Runner]:
    return Runner
