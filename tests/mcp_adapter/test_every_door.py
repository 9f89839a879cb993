"""What holds behind every door, through the real SDKs: the client's, two servers', and the proxy over real stdio."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from mcp.client.client import Client
from mcp.server.mcpserver import MCPServer
from mcp.types import CallToolResult

from agent_cache import AgentCacheSession, AgentLoopDetectedError
from agent_cache.testing.servers import RedisServer
from agent_cache_mcp import CachedClient

DOORS = ["client", "extension", "middleware", "proxy"]
SERVERS = DOORS[1:]


def said(result: CallToolResult) -> str:
    return "\n".join(block.text for block in result.content if block.type == "text")


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def ran(call: Any) -> dict[str, int]:
    counts: dict[str, int] = (await call("counts")).structured_content
    return counts.get("result", counts)  # type: ignore[return-value]


async def test_a_hit_and_a_write_that_invalidates(door: str, doors: Any, hit: Any) -> None:
    async with doors.open(door) as call:
        first, second = await call("get_user", user_id="1"), await call("get_user", user_id="1")
        assert (hit(first), hit(second)) == (False, True)
        assert second.content == first.content
        assert second.structured_content == first.structured_content
        assert second.meta["agent_cache"]["age"] >= 0
        assert second.meta["agent_cache"]["tags"] == ["shop:user:1"]
        assert first.meta["agent_cache"] == {"hit": False}
        other = await call("get_user", user_id="2")
        assert "agent_cache" not in ((await call("set_user", user_id="1", name="Bob")).meta or {})
        third = await call("get_user", user_id="1")
        assert not hit(third)
        assert "Bob" in said(third)
        assert hit(await call("get_user", user_id="2"))
        assert "Eve" in said(other)
        assert (await ran(call))["get_user"] == 3


async def test_equal_writes_all_run(door: str, doors: Any) -> None:
    async with doors.open(door) as call:
        for _ in range(2):
            assert said(await call("set_user", user_id="1", name="Bob")) == "ok"
        assert (await ran(call))["set_user"] == 2


async def test_what_no_policy_names_is_a_write_to_everything_of_its_server(door: str, doors: Any, hit: Any) -> None:
    async with doors.open(door) as call:
        for user in "12":
            await call("get_user", user_id=user)
        await call("touch")
        assert [hit(await call("get_user", user_id=user)) for user in "12"] == [False, False]
        await call("counts")  # neither reads nor writes
        assert hit(await call("get_user", user_id="1"))


async def test_failures_come_back_as_they_are_and_are_never_kept(door: str, doors: Any) -> None:
    async with doors.open(door) as call:
        for _ in range(2):
            failed = await call("fails", user_id="1")
            assert failed.is_error
            assert "fails" in said(failed) or "no luck" in said(failed)
        assert (await ran(call))["fails"] == 2


async def test_images_and_embedded_resources_survive_a_hit(door: str, doors: Any, hit: Any, shop: Any) -> None:
    async with doors.open(door) as call:
        first, second = await call("get_picture", user_id="1"), await call("get_picture", user_id="1")
        assert hit(second)
        assert [block.type for block in second.content] == ["text", "image", "resource"]
        assert second.content == first.content
        assert second.content[1].data == shop.PIXEL
        assert second.structured_content == first.structured_content
        second.content.clear()
        assert len((await call("get_picture", user_id="1")).content) == 3


async def test_values_keep_their_types_on_a_hit(door: str, doors: Any) -> None:
    async with doors.open(door) as call:
        texts = [said(await call("get_user", user_id="1")) for _ in range(2)]
        structured = [(await call("get_user", user_id="1")).structured_content for _ in range(2)]
        assert texts[0] == texts[1]
        assert "2.0" in texts[0]
        assert repr(structured[0]) == repr(structured[1])


async def test_arguments_are_keyed_as_they_were_sent(door: str, doors: Any, hit: Any) -> None:
    """A default that the server fills in is not known here: two spellings of one call run twice, and never mix."""
    async with doors.open(door) as call:
        await call("get_user", user_id="1")
        assert not hit(await call("get_user", user_id="1", detail=1))
        two = await call("get_user", user_id="1", detail=2)
        assert not hit(two)
        assert '"detail": 2' in said(two) or '"detail":2' in said(two)


async def test_equal_calls_at_once_run_the_tool_once(door: str, doors: Any) -> None:
    async with doors.open(door) as call:
        calls = [asyncio.create_task(call("get_slowly", user_id="1")) for _ in range(8)]
        await call("wait_started")
        await call("open_gate")
        assert {said(result) for result in await asyncio.gather(*calls)} == {"Ann"}
        assert (await ran(call))["get_slowly"] == 1


async def test_a_read_and_a_write_at_once_are_never_stale(door: str, doors: Any, hit: Any) -> None:
    """The read begins before the write and ends after it: its answer is old, and must not be kept."""
    async with doors.open(door) as call:
        reading = asyncio.create_task(call("get_slowly", user_id="1"))
        await call("wait_started")
        await call("set_user", user_id="1", name="Bob")
        await call("open_gate")
        assert said(await reading) == "Ann"
        after = await call("get_slowly", user_id="1")
        assert not hit(after)
        assert said(after) == "Bob"


@pytest.mark.parametrize("door", SERVERS)
async def test_a_loop_is_told_to_the_model(door: str, doors: Any) -> None:
    async with doors.open(door, on_loop="raise") as call:
        results = [await call("get_user", user_id="1") for _ in range(6)]
        assert [result.is_error for result in results] == [False] * 5 + [True]
        assert "get_user" in said(results[-1])
        assert "5 times" in said(results[-1])
        assert (await ran(call))["get_user"] == 1
        assert not (await call("get_user", user_id="2")).is_error


@pytest.mark.parametrize("door", SERVERS)
async def test_servers_look_for_no_loops_unless_asked(door: str, doors: Any) -> None:
    async with doors.open(door) as call:
        assert not any([(await call("get_user", user_id="1")).is_error for _ in range(12)])


async def test_a_loop_raises_at_the_client(doors: Any) -> None:
    async with doors.open("client") as call, AgentCacheSession(on_loop="raise"):
        for _ in range(5):
            await call("get_user", user_id="1")
        with pytest.raises(AgentLoopDetectedError) as caught:
            await call("get_user", user_id="1")
        assert caught.value.tool == "get_user"


async def test_a_loop_ends_the_run_as_what_it_is(shop: Any) -> None:
    """The SDK's task groups wrap what is raised inside a client's block; ours gives it back."""
    server = shop.fill(MCPServer("shop"), shop.Shop())

    async def run() -> None:
        async with CachedClient(Client(server), "shop", policies=shop.POLICIES) as client, AgentCacheSession():
            while True:
                await client.call_tool("get_user", {"user_id": "1"})

    with pytest.raises(AgentLoopDetectedError):
        await run()


async def test_equal_failures_are_a_loop_at_the_client(doors: Any) -> None:
    async with doors.open("client") as call, AgentCacheSession(on_loop="raise"):
        caught = None
        for _ in range(12):
            try:
                assert (await call("fails", user_id="1")).is_error
            except AgentLoopDetectedError as error:
                caught = error
                break
        assert caught is not None
        assert caught.tool == "fails"


@pytest.mark.usefixtures("impatient")
async def test_nobody_notices_that_redis_has_died(door: str, doors: Any, hit: Any) -> None:
    with RedisServer() as server:
        async with doors.open(door, redis=server.url) as call:
            await call("get_user", user_id="1")
            assert hit(await call("get_user", user_id="1"))
            server.kill()
            assert "Ann" in said(await call("get_user", user_id="1"))
            assert said(await call("set_user", user_id="1", name="Bob")) == "ok"
            assert "Bob" in said(await call("get_user", user_id="1"))
