"""What a server says has changed invalidates; a server that says nothing any more is not believed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from mcp.client.client import Client
from mcp.types import TextContent

from agent_cache import AgentCacheSession
from agent_cache_mcp import CachedClient, ServerNews, cached_session
from agent_cache_mcp.calls import Asker, ServerCache
from agent_cache_mcp.results import Wire
from agent_cache_mcp.watch import LIST_CHANGED, UPDATED, Watch

WAYS = ["auto", "legacy", "session", "proxy-auto", "proxy-legacy"]
DEFINITION = {"name": "get_user", "inputSchema": {"properties": {"user_id": {}}}}
READ = {"get_user": {"kind": "read", "resource": "user://{user_id}"}}


def said(result: Any) -> str:
    block = result.content[0]
    assert isinstance(block, TextContent)
    return block.text


@pytest.fixture
def opened(news_server: Any, doors: Any) -> Callable[[str], Any]:
    doors.policies = news_server.POLICIES

    @asynccontextmanager
    async def open_way(way: str) -> AsyncIterator[tuple[Any, Any]]:
        """A client by each way, and what became of its server's state (None: in another process)."""
        state = news_server.News()
        policies = news_server.POLICIES
        if way in ("auto", "legacy"):
            async with CachedClient(Client(state.server(), mode=way), "news", policies=policies) as client:
                yield client, state
        elif way == "session":
            news = ServerNews()
            async with (
                Client(state.server(), mode="legacy", message_handler=news) as client,
                cached_session(client.session, "news", policies=policies, news=news) as ours,
            ):
                yield ours, state
        else:
            behind = ["--", *doors.program("news_server")]
            async with Client(doors.proxy(behind=behind), mode=way.removeprefix("proxy-")) as client:
                yield client, None

    return open_way


async def until(condition: Callable[[], Any]) -> None:
    """Ask again until it holds; what is waited for is on its way."""
    async with asyncio.timeout(30):
        while not await condition():
            await asyncio.sleep(0)


@pytest.mark.parametrize("way", WAYS)
async def test_an_updated_resource_drops_what_read_it(way: str, opened: Any, hit: Any) -> None:
    async with opened(way) as (client, _):
        for user in "12":
            await client.call_tool("get_user", {"user_id": user})
            assert hit(await client.call_tool("get_user", {"user_id": user}))
        await client.call_tool("change", {"user_id": "1", "name": "Bob"})

        async def is_new() -> bool:
            return said(await client.call_tool("get_user", {"user_id": "1"})) == "Bob"

        await until(is_new)
        assert hit(await client.call_tool("get_user", {"user_id": "2"}))


@pytest.mark.parametrize("way", WAYS)
async def test_a_changed_list_of_tools_drops_everything(way: str, opened: Any, hit: Any) -> None:
    async with opened(way) as (client, _):
        await client.call_tool("get_user", {"user_id": "1"})
        await client.call_tool("rename_tools", {})

        async def is_run() -> bool:
            return not hit(await client.call_tool("get_user", {"user_id": "1"}))

        await until(is_run)
        assert hit(await client.call_tool("get_user", {"user_id": "1"}))  # the tools are known again


@pytest.mark.parametrize("way", ["auto", "proxy-auto"])
async def test_a_lost_subscription_drops_everything_and_is_made_again(way: str, opened: Any, hit: Any) -> None:
    async with opened(way) as (client, _):
        await client.call_tool("get_user", {"user_id": "1"})
        await client.call_tool("end_streams", {})

        async def is_run() -> bool:
            return not hit(await client.call_tool("get_user", {"user_id": "1"}))

        await until(is_run)
        await client.call_tool("get_user", {"user_id": "1"})
        await client.call_tool("change", {"user_id": "1", "name": "Bob"})

        async def is_new() -> bool:
            return said(await client.call_tool("get_user", {"user_id": "1"})) == "Bob"

        await until(is_new)


async def test_one_stream_for_all_resources(opened: Any) -> None:
    async with opened("auto") as (client, state):
        for user in "12":
            await client.call_tool("get_user", {"user_id": user})
        await until(lambda: _is(len(state.listening._streams) == 1))


async def _is(value: bool) -> bool:
    return value


async def test_what_was_followed_is_dropped_on_leaving(news_server: Any, hit: Any) -> None:
    """Nobody listens between two connections of one principal: what happened then nobody would know."""
    state = news_server.News()
    asked = []
    for _ in range(2):
        async with CachedClient(
            Client(state.server()), "news", policies=news_server.POLICIES, principal="me"
        ) as client:
            asked.append(hit(await client.call_tool("get_user", {"user_id": "1"})))
    assert asked == [False, False]


async def test_without_watching_nothing_is_asked_of_the_server(news_server: Any, hit: Any) -> None:
    state = news_server.News()
    made = CachedClient(Client(state.server()), "news", policies=news_server.POLICIES, watch=False)
    async with made as client:
        assert [hit(await client.call_tool("get_user", {"user_id": "1"})) for _ in range(2)] == [False, True]
        assert not state.listening._streams
        assert not state.subscribed


async def test_a_handler_of_the_users_own_still_hears(news_server: Any) -> None:
    heard: list[Any] = []

    async def mine(message: Any) -> None:
        heard.append(message)

    client = Client(news_server.News().server(), mode="legacy", message_handler=mine)
    async with CachedClient(client, "news", policies=news_server.POLICIES) as ours:
        await ours.call_tool("rename_tools", {})
        await until(lambda: _is(bool(heard)))


# -- the parts -----------------------------------------------------------------------------------------------------------


class Quiet:
    """A source that agrees to everything."""

    listens = False
    subscribes = True

    def __init__(self) -> None:
        self.asked: list[str] = []

    def listen(self, uris: tuple[str, ...]) -> Any:
        raise AssertionError("it has no streams")

    async def subscribe(self, uri: str) -> None:
        self.asked.append(uri)


def cache(policies: Any = READ) -> ServerCache:
    made = ServerCache("crm", policies)
    made.learn([DEFINITION])
    return made


async def ask(server: ServerCache, user: Any = "1", run: Any = None) -> bool:
    async def answer() -> Wire:
        return {"content": []}

    return not (await server.call("get_user", {"user_id": user}, run or answer, Asker())).executed


@pytest.mark.parametrize(
    ("news", "dropped"),
    [
        ((UPDATED, "user://1"), [True, False]),
        ((UPDATED, "user://3"), [True, True]),  # nobody here knows what reads it: all of its scheme
        ((UPDATED, "order://1"), [False, False]),
        ((UPDATED, "no uri"), [True, True]),
        ((LIST_CHANGED, None), [True, True]),
        (("notifications/progress", None), [False, False]),
    ],
)
async def test_what_a_notification_drops(news: Any, dropped: list[bool]) -> None:
    server = cache()
    watch = Watch(server)
    await watch.start(Quiet())
    for user in "12":
        await watch.follow(server.followed("get_user", {"user_id": user}))
        await ask(server, user)
    await watch.heard(news)
    server.learn([DEFINITION])
    assert [not await ask(server, user) for user in "12"] == dropped


async def test_a_path_with_slashes_in_a_uri(hit: Any) -> None:
    server = ServerCache("files", {"read_file": {"kind": "read", "resource": "file://{path}"}})
    server.learn([{"name": "read_file", "inputSchema": {"properties": {"path": {}}}}])
    watch, source = Watch(server), Quiet()
    await watch.start(source)

    async def run() -> Wire:
        return {"content": []}

    given = {"path": "/a b/c.txt"}
    await watch.follow(server.followed("read_file", given))
    assert source.asked == ["file:///a%20b/c.txt"]
    await server.call("read_file", given, run, Asker())
    assert not (await server.call("read_file", given, run, Asker())).executed
    await watch.heard((UPDATED, "file:///a%20b/c.txt"))
    assert (await server.call("read_file", given, run, Asker())).executed


async def test_an_answer_that_was_under_way_when_the_news_came_is_not_kept() -> None:
    server = cache()
    watch = Watch(server)
    await watch.start(Quiet())
    await watch.follow(server.followed("get_user", {"user_id": "1"}))
    began, gate = asyncio.Event(), asyncio.Event()

    async def slow() -> Wire:
        began.set()
        await gate.wait()
        return {"content": []}

    reading = asyncio.create_task(ask(server, run=slow))
    await began.wait()
    await watch.heard((UPDATED, "user://1"))
    gate.set()
    assert not await reading
    assert not await ask(server)
    assert await ask(server)


async def test_news_are_no_calls_of_the_agent() -> None:
    server = cache()
    watch = Watch(server)
    await watch.start(Quiet())
    async with AgentCacheSession(max_tool_repeats=2, on_loop="raise") as session:
        for _ in range(20):
            await watch.heard((UPDATED, "user://1"))
        assert session.get_metrics()["loop_detections"] == 0


async def test_a_server_that_tells_no_news_fails_no_call() -> None:
    class Refusing(Quiet):
        async def subscribe(self, uri: str) -> None:
            raise ValueError("no")

    server = cache()
    watch = Watch(server)
    await watch.start(Refusing())
    await watch.follow(server.followed("get_user", {"user_id": "1"}))
    assert not watch.follows("user://1")
    assert not await ask(server)
    assert await ask(server)


async def test_more_resources_than_are_followed_are_dropped_when_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent_cache_mcp.watch._MOST", 2)
    server = cache()
    watch = Watch(server)
    await watch.start(Quiet())
    for user in "123":
        await watch.follow(server.followed("get_user", {"user_id": user}))
        if user != "3":
            await ask(server, user)
    assert [await ask(server, user) for user in "12"] == [False, True]


async def test_an_error_of_the_transport_is_a_loss() -> None:
    server = cache()
    news = ServerNews()
    watch = news.watch = Watch(server)
    await watch.start(Quiet())
    await ask(server)
    await news(ConnectionError("gone"))
    server.learn([DEFINITION])
    assert not await ask(server)
