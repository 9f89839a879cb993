"""A LangChain run recorded and replayed: no tool runs, and the model is told what it was told."""

from __future__ import annotations

from pathlib import Path

from langchain_core.tools import tool

from agent_cache import AgentCacheSession
from agent_cache_langchain import AgentCacheMiddleware, cached_tool
from tests.langchain.conftest import Way
from tests.langchain.shop import ORDER, POLICIES, SEND, Shop


async def test_a_run_of_an_agent(way: Way, tmp_path: Path) -> None:
    shop = Shop()
    ran: list[str] = []

    @tool
    def untold(text: str) -> str:
        """A tool no policy names."""
        ran.append(text)
        return text * 2

    @tool
    def failing(text: str) -> str:
        """A tool that fails."""
        ran.append(text)
        raise ValueError(f"no {text}")

    steps = [[ORDER, ("untold", {"text": "a"})], [ORDER], [SEND], [ORDER], [("failing", {"text": "b"})]]
    build = {"handle_tool_errors": True} if way.kind == "node" else {}
    if way.kind == "agent":
        steps.pop()
    tools = [*shop.tools, untold, failing]
    async with AgentCacheSession(record=tmp_path / "c"):
        seen = await way.run(tools, steps, AgentCacheMiddleware(POLICIES), build=build)
    assert [message.content for message in seen][:5] == ["paid", "aa", "paid", "ok", "sent"]
    reads, shop.status[7] = shop.reads, "changed since"
    ran.clear()
    async with AgentCacheSession(replay=tmp_path / "c") as session:
        again = await way.run(tools, steps, AgentCacheMiddleware(POLICIES), build=build)
    assert session.unplayed() == ()
    assert [(m.content, m.status, m.tool_call_id) for m in again] == [
        (m.content, m.status, m.tool_call_id) for m in seen
    ]
    assert (shop.reads, shop.status[7], ran) == (reads, "changed since", [])


async def test_a_wrapped_tool(way: Way, tmp_path: Path) -> None:
    ran: list[int] = []

    @tool(response_format="content_and_artifact")
    def look(number: int) -> tuple[str, dict[str, int]]:
        """Look."""
        ran.append(number)
        return "seen", {"number": number}

    wrapped = cached_tool(look, "look:{number}")
    async with AgentCacheSession(record=tmp_path / "c"):
        (seen,) = await way.run([wrapped], [[("look", {"number": 1})]])
    ran.clear()
    async with AgentCacheSession(replay=tmp_path / "c"):
        (again,) = await way.run([wrapped], [[("look", {"number": 1})]])
    assert (again.content, again.artifact) == (seen.content, seen.artifact) == ("seen", {"number": 1})
    assert ran == []
