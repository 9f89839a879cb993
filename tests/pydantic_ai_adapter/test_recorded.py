"""A run of a pydantic-ai agent recorded and replayed: no tool runs, and the model is told what it was told."""

from __future__ import annotations

from pathlib import Path

from agent_cache import AgentCacheSession
from agent_cache_pydantic_ai import AgentCacheCapability
from tests.pydantic_ai_adapter.conftest import POLICIES, READ, WRITE, Shop, said


async def test_a_run_of_an_agent(shop: Shop, tmp_path: Path) -> None:
    agent = shop.agent(READ, READ, WRITE, READ, capabilities=[AgentCacheCapability(POLICIES)])
    async with AgentCacheSession(record=tmp_path / "c"):
        seen = said((await agent.run("go")).all_messages())
    assert seen == ["paid", "paid", "ok", "sent"]
    shop.ran.clear()
    async with AgentCacheSession(replay=tmp_path / "c") as session:
        assert said((await agent.run("go")).all_messages()) == seen
    assert session.unplayed() == ()
    assert shop.ran == []


async def test_tools_no_policy_names(shop: Shop, tmp_path: Path) -> None:
    agent = shop.agent(READ, WRITE, READ, capabilities=[AgentCacheCapability({})])
    async with AgentCacheSession(record=tmp_path / "c"):
        seen = said((await agent.run("go")).all_messages())
    shop.ran.clear()
    async with AgentCacheSession(replay=tmp_path / "c"):
        assert said((await agent.run("go")).all_messages()) == seen == ["paid", "ok", "sent"]
    assert shop.ran == []
