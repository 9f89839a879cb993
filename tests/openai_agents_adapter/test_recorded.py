"""A run of an OpenAI agent recorded and replayed: no tool runs, and the model is told what it was told."""

from __future__ import annotations

from pathlib import Path

from agents import Runner, function_tool

from agent_cache import AgentCacheSession
from agent_cache_openai_agents import cached_agent
from tests.openai_agents_adapter.conftest import agent_with, outputs


async def test_a_run_of_an_agent(tmp_path: Path) -> None:
    ran: list[str] = []
    status = {7: "paid"}

    @function_tool(strict_mode=False)
    async def get_order(order_id: int) -> str:
        ran.append("get")
        return status[order_id]

    @function_tool
    async def set_status(order_id: int, new: str) -> str:
        ran.append("set")
        status[order_id] = new
        return "ok"

    @function_tool
    def untold(text: str) -> str:
        ran.append("untold")
        raise ValueError(text)

    policies = {
        "get_order": {"kind": "read", "resource": "order:{order_id}"},
        "set_status": {"kind": "write", "resource": "order:{order_id}"},
    }
    read, write = ("get_order", {"order_id": 7}), ("set_status", {"order_id": 7, "new": "sent"})
    told: list[list[object]] = []
    for how in ("record", "replay"):
        agent = cached_agent(
            agent_with([get_order, set_status, untold], read, read, write, read, ("untold", {"text": "x"})), policies
        )
        ran.clear()
        async with AgentCacheSession(**{how: tmp_path / "c"}):  # type: ignore[arg-type]
            told.append(outputs(await Runner.run(agent, "go")))
    assert told[0][:4] == ["paid", "paid", "ok", "sent"]
    assert told[1] == told[0]
    assert ran == []
