"""The same with every version of the SDK from 1.24 on: a session over real stdio, the adapter in the client or as the proxy.

Only names that both generations have are used here, so that this file runs in an environment with mcp 1.x too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from mcp import ClientSession
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.shared import exceptions

from agent_cache import AgentCacheSession, AgentLoopDetectedError, ConfigurationError
from agent_cache_mcp import ServerNews, cached_session
from agent_cache_mcp.sessions import SessionSource
from agent_cache_mcp.watch import Watch

McpError: type[Exception] = getattr(exceptions, "MCPError", None) or exceptions.McpError  # type: ignore[attr-defined]


def said(result: Any) -> str:
    return str(result.content[0].text)


def failed(result: Any) -> bool:
    return bool(result.is_error if hasattr(result, "is_error") else result.isError)


@asynccontextmanager
async def session_of(command: StdioServerParameters, news: ServerNews | None = None) -> AsyncIterator[ClientSession]:
    async with stdio_client(command) as (read, write), ClientSession(read, write, message_handler=news) as session:
        await session.initialize()
        yield session


@pytest.fixture(params=["session", "proxy"])
def opened(request: pytest.FixtureRequest, doors: Any) -> Callable[[], Any]:
    @asynccontextmanager
    async def open_it() -> AsyncIterator[Any]:
        if request.param == "proxy":
            async with session_of(doors.proxy()) as session:
                yield session
        else:
            news = ServerNews()
            async with (
                session_of(doors.shop(), news) as session,
                cached_session(session, "shop", policies=doors.policies, news=news) as ours,
            ):
                yield ours

    return open_it


async def test_a_hit_a_write_and_a_failure(opened: Any, hit: Any) -> None:
    async with opened() as session:
        given = {"user_id": "1"}
        first, second = [await session.call_tool("get_user", given) for _ in range(2)]
        assert (hit(first), hit(second)) == (False, True)
        assert second.content == first.content
        await session.call_tool("set_user", {"user_id": "1", "name": "Bob"})
        assert "Bob" in said(await session.call_tool("get_user", given))
        await session.call_tool("touch", {})
        assert not hit(await session.call_tool("get_user", given))
        for _ in range(2):
            assert failed(await session.call_tool("fails", given))


async def test_images_and_embedded_resources(opened: Any, hit: Any) -> None:
    async with opened() as session:
        first, second = [await session.call_tool("get_picture", {"user_id": "1"}) for _ in range(2)]
        assert hit(second)
        assert second.content == first.content
        assert [block.type for block in second.content] == ["text", "image", "resource"]


async def test_equal_calls_at_once(opened: Any) -> None:
    async with opened() as session:
        calls = [asyncio.create_task(session.call_tool("get_slowly", {"user_id": "1"})) for _ in range(5)]
        await session.call_tool("wait_started", {})
        await session.call_tool("open_gate", {})
        assert {said(result) for result in await asyncio.gather(*calls)} == {"Ann"}
        assert '"get_slowly": 1' in said(await session.call_tool("counts", {}))


async def test_a_read_and_a_write_at_once(opened: Any) -> None:
    async with opened() as session:
        reading = asyncio.create_task(session.call_tool("get_slowly", {"user_id": "1"}))
        await session.call_tool("wait_started", {})
        await session.call_tool("set_user", {"user_id": "1", "name": "Bob"})
        await session.call_tool("open_gate", {})
        assert said(await reading) == "Ann"
        assert said(await session.call_tool("get_slowly", {"user_id": "1"})) == "Bob"


async def test_loops_and_users(doors: Any, hit: Any) -> None:
    async with session_of(doors.shop()) as session:
        for principal in ("alice", "bob"):
            async with cached_session(session, "shop", policies=doors.policies, principal=principal) as ours:
                assert not hit(await ours.call_tool("get_user", {"user_id": "1"}))
        async with cached_session(session, "shop", policies=doors.policies) as ours, AgentCacheSession():
            for _ in range(5):
                await ours.call_tool("get_user", {"user_id": "1"})
            with pytest.raises(AgentLoopDetectedError):
                await ours.call_tool("get_user", {"user_id": "1"})


async def test_a_crash_behind_the_proxy(doors: Any) -> None:
    async with session_of(doors.proxy()) as session:
        with pytest.raises(McpError, match="exit code 3"):
            await session.call_tool("die", {})
        assert "Ann" in said(await session.call_tool("get_user", {"user_id": "1"}))


async def test_the_proxy_before_a_real_streamable_http_server(doors: Any, hit: Any) -> None:
    async with doors.http_shop() as (_, port):
        command = doors.proxy(behind=["--url", f"http://127.0.0.1:{port}/mcp"])
        async with session_of(command) as session:
            given = {"user_id": "1"}
            assert [hit(await session.call_tool("get_user", given)) for _ in range(2)] == [False, True]
            await session.call_tool("set_user", {"user_id": "1", "name": "Bob"})
            assert "Bob" in said(await session.call_tool("get_user", given))


async def test_a_wrong_policy_opens_nothing(doors: Any) -> None:
    async with session_of(doors.shop()) as session:
        with pytest.raises(ConfigurationError, match="get_usr"):
            async with cached_session(session, "shop", policies={"get_usr": {"kind": "other"}}):
                pytest.fail("it opened")


async def test_one_resource_is_asked_for_in_the_words_of_this_sdk(doors: Any) -> None:
    """The shop has no such request: what matters is that the SDK could send it and the server did answer."""
    async with session_of(doors.shop()) as session:
        with pytest.raises(McpError):
            await SessionSource(session, session).subscribe("user://1")


async def test_notifications_in_the_words_of_this_sdk(doors: Any, hit: Any) -> None:
    import mcp.types as types

    def worded(inner: Any) -> Any:
        wrapper: Any = types.ServerNotification
        return wrapper(inner) if hasattr(wrapper, "model_fields") else inner

    policies = {"get_user": {"kind": "read", "resource": "user://{user_id}"}}
    news = ServerNews()
    async with (
        session_of(doors.shop(), news) as session,
        cached_session(session, "shop", policies=policies, news=news) as ours,
    ):
        assert isinstance(news.watch, Watch)
        given = {"user_id": "1"}
        uri: Any = "user://1"
        await ours.call_tool("get_user", given)
        params = types.ResourceUpdatedNotificationParams(uri=uri)
        method: Any = "notifications/resources/updated"
        await news(worded(types.ResourceUpdatedNotification(method=method, params=params)))
        assert not hit(await ours.call_tool("get_user", given))
        assert hit(await ours.call_tool("get_user", given))
        listed: Any = "notifications/tools/list_changed"
        await news(worded(types.ToolListChangedNotification(method=listed)))
        assert not hit(await ours.call_tool("get_user", given))
