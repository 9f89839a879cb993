"""A real pydantic-ai agent with a model that follows a script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from agent_cache.config import settings
from agent_cache.policy import scopes_of_reads

Call = tuple[str, dict[str, Any]]


def scripted(*steps: Sequence[Call] | Call) -> FunctionModel:
    """A model whose every step is one answer with its (parallel) calls; after the last one it says "done"."""

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        number = 0
        for message in reversed(messages):
            if isinstance(message, ModelResponse):
                number += 1
            elif any(part.part_kind == "user-prompt" and part.content == "go" for part in message.parts):
                break
        if number >= len(steps):
            return ModelResponse(parts=[TextPart("done")])
        step: Any = steps[number]
        calls: Sequence[Call] = [step] if isinstance(step[0], str) else step
        return ModelResponse(
            parts=[ToolCallPart(n, a, tool_call_id=f"call-{number}-{i}") for i, (n, a) in enumerate(calls)]
        )

    return FunctionModel(answer)


def returned(messages: Sequence[ModelMessage]) -> list[ToolReturnPart]:
    """What the tools returned, in the order in which the model got it."""
    requests = [m for m in messages if isinstance(m, ModelRequest)]
    return [part for request in requests for part in request.parts if isinstance(part, ToolReturnPart)]


def said(messages: Sequence[ModelMessage]) -> list[Any]:
    return [part.content for part in returned(messages)]


class Shop:
    """Tools, what they know, and a count of what ran."""

    def __init__(self) -> None:
        self.status = {7: "paid", 8: "new"}
        self.ran: list[str] = []

    def agent(self, *steps: Sequence[Call] | Call, **options: Any) -> Agent[Any, str]:
        agent: Agent[Any, str] = Agent(scripted(*steps), **options)

        @agent.tool_plain
        async def get_order(order_id: int, detail: bool = False) -> str:
            self.ran.append(f"get {order_id}")
            return self.status[order_id]

        @agent.tool_plain
        def get_order_blocking(order_id: int) -> str:
            self.ran.append(f"get {order_id}")
            return self.status[order_id]

        @agent.tool_plain
        async def set_status(order_id: int, new: str) -> str:
            self.ran.append(f"set {order_id}")
            self.status[order_id] = new
            return "ok"

        return agent


POLICIES: dict[str, Any] = {
    "get_order*": {"kind": "read", "resource": "order:{order_id}"},
    "set_status": {"kind": "write", "resource": "order:{order_id}"},
}
READ: Call = ("get_order", {"order_id": 7})
WRITE: Call = ("set_status", {"order_id": 7, "new": "sent"})


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture(autouse=True)
def _alone(_fresh_process_state: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for register in ("_scopes", "_backends"):  # a write of this test does not reach for other tests' reads
        monkeypatch.setattr(scopes_of_reads, register, {})
    settings.notices.forget()
