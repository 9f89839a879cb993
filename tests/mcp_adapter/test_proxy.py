"""The proxy between the official client and real servers: over stdio, over HTTP, when they crash, and on its command line."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.shared.exceptions import MCPError

from agent_cache import cli
from agent_cache_mcp import CachedClient
from agent_cache_mcp.calls import ServerCache
from agent_cache_mcp.relay import Relay
from agent_cache_mcp.upstream import CommandServer, Message, ServerGoneError

SHOP = str(Path(__file__).with_name("shop.py"))


def said(result: Any) -> str:
    return str(result.content[0].text)


# -- real servers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_before_a_real_streamable_http_server(mode: str, doors: Any, hit: Any) -> None:
    async with doors.http_shop() as (_, port):
        proxy = doors.proxy(behind=["--url", f"http://127.0.0.1:{port}/mcp"])
        async with Client(proxy, mode=mode) as client:
            assert (client.protocol_version > "2026") == (mode == "auto")
            given = {"user_id": "1"}
            assert [hit(await client.call_tool("get_user", given)) for _ in range(2)] == [False, True]
            await client.call_tool("set_user", {"user_id": "1", "name": "Bob"})
            assert "Bob" in said(await client.call_tool("get_user", given))
            assert {tool.name for tool in (await client.list_tools()).tools} >= {"get_user", "set_user"}


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_crash_over_stdio_is_told_and_survived(mode: str, doors: Any, hit: Any) -> None:
    async with Client(doors.proxy(), mode=mode) as client:
        given = {"user_id": "1"}
        await client.call_tool("set_user", {"user_id": "1", "name": "Bob"})
        await client.call_tool("get_user", given)
        with pytest.raises(MCPError, match="ended with exit code 3"):
            await client.call_tool("die")
        after = await client.call_tool("get_user", given)
        assert not hit(after)
        assert "Ann" in said(after)  # another server: what it knew is gone, and so is what was cached of it
        await client.list_tools()


async def test_a_crash_over_http_is_told_and_survived(doors: Any, hit: Any) -> None:
    async with doors.http_shop() as (process, port):
        behind = ["--url", f"http://127.0.0.1:{port}/mcp"]
        async with Client(doors.proxy(behind=behind)) as client:
            given = {"user_id": "1"}
            await client.call_tool("get_user", given)
            process.kill()
            await process.wait()
            with pytest.raises(MCPError, match=r"cannot be reached|connect"):
                await client.call_tool("touch")
            with pytest.raises(MCPError, match=r"cannot be reached|connect"):
                await client.call_tool("touch")
            async with doors.http_shop(port):
                after = await client.call_tool("get_user", given)
                assert not hit(after)


async def test_calls_under_way_at_a_crash_are_all_told(doors: Any) -> None:
    async with Client(doors.proxy()) as client:
        waiting = [asyncio.create_task(client.call_tool("get_slowly", {"user_id": user})) for user in "12"]
        await client.call_tool("wait_started")
        with pytest.raises(MCPError):
            await client.call_tool("die")
        for outcome in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(outcome, MCPError)
            assert "exit code 3" in str(outcome)


async def test_what_is_no_tool_call_passes(tmp_path: Path) -> None:
    """Resources, prompts, and the progress of a call."""
    script = tmp_path / "asks.py"
    script.write_text(
        "from mcp.server.mcpserver import Context, MCPServer\n"
        "server = MCPServer('asks')\n"
        "@server.resource('note://1')\n"
        "def note() -> str: return 'a note'\n"
        "@server.prompt()\n"
        "def hello() -> str: return 'say hello'\n"
        "@server.tool()\n"
        "async def slow(ctx: Context) -> str:\n"
        "    await ctx.report_progress(1, 2, 'half')\n"
        "    return 'done'\n"
        "server.run()\n",
        encoding="utf-8",
    )
    command = StdioServerParameters(
        command=sys.executable, args=["-m", "agent_cache.cli", "mcp-proxy", "--", sys.executable, str(script)]
    )
    progress: list[Any] = []

    async def seen(*told: Any) -> None:
        progress.append(told)

    async with Client(command) as client:
        assert (await client.read_resource("note://1")).contents[0].text == "a note"  # type: ignore[union-attr]
        assert "say hello" in str((await client.get_prompt("hello")).messages)
        assert said(await client.call_tool("slow", progress_callback=seen)) == "done"
    assert progress == [(1, 2, "half")]


async def test_dry_run_runs_everything_and_reports(doors: Any, tmp_path: Path) -> None:
    errors = tmp_path / "stderr"
    with errors.open("w", encoding="utf-8") as log:
        async with Client(stdio_client(doors.proxy("--dry-run"), errlog=log)) as client:
            given = {"user_id": "1"}
            results = [await client.call_tool("get_user", given) for _ in range(2)]
            await client.call_tool("set_user", {"user_id": "1", "name": "Bob"})
            await client.call_tool("get_user", given)
            await client.call_tool("touch")
            assert not any("agent_cache" in (result.meta or {}) for result in results)
            counts = (await client.call_tool("counts")).structured_content
            assert (counts or {})["get_user"] == 3
    text = errors.read_text(encoding="utf-8")
    assert text.count('get_user {"user_id": "1"}: would have run it and kept its answer') == 2
    assert text.count("would have given its answer") == 1
    assert "it says the same now" in text
    assert "dropped user:{user_id}" in text
    assert "touch {}: would have run it and dropped *" in text


async def test_a_client_of_ours_before_the_proxy(doors: Any) -> None:
    """Two caches in a row: the age of an answer is its whole age."""
    async with CachedClient(Client(doors.proxy()), "shop", policies=doors.policies) as client:
        first, second = [await client.call_tool("get_user", {"user_id": "1"}) for _ in range(2)]
        assert first.meta["agent_cache"] == {"hit": False}
        assert second.meta["agent_cache"]["hit"]


# -- the relay, message by message -------------------------------------------------------------------------------------------


class Scripted:
    """A server of our own: records what it is sent; answers what ``answers`` has."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers
        self.got: list[Message] = []
        self.starts = 0
        self.heard: Any = None
        self.ended: Any = None

    async def start(self, heard: Any, ended: Any) -> None:
        self.starts += 1
        self.heard, self.ended = heard, ended

    async def send(self, message: Message) -> None:
        self.got.append(message)
        answer = self.answers.get(str(message.get("method")))
        if answer is not None and "id" in message:
            await self.heard({"jsonrpc": "2.0", "id": message["id"], **answer})

    async def close(self) -> None:
        return None

    def methods(self) -> list[str]:
        return [str(message.get("method")) for message in self.got]


class Talk:
    """A relay before a scripted server, and what its client hears."""

    def __init__(self, answers: dict[str, Any], policies: Any = None, **options: Any) -> None:
        tools = {"result": {"tools": [{"name": "get", "inputSchema": {"properties": {"id": {}}}}, {"name": "set"}]}}
        self.server = Scripted({"tools/list": tools, **answers})
        read = {"get": {"kind": "read", "resource": "a:{id}"}}
        self.sent: list[Message] = []
        self.cache = ServerCache("scripted", read if policies is None else policies)
        self.relay = Relay(self.cache, self.server, self._send, **options)

    async def _send(self, message: Message) -> None:
        self.sent.append(message)

    async def say(self, method: str, number: int | str | None = None, **params: Any) -> Message | None:
        """Send it; what came back to this id."""
        before = len(self.sent)
        message: Message = {"jsonrpc": "2.0", "method": method, "params": params}
        if number is not None:
            message["id"] = number
        await self.relay.from_client(message)
        while self.relay._calls:
            await asyncio.gather(*self.relay._calls.values(), return_exceptions=True)
        return next((each for each in self.sent[before:] if "method" not in each and each.get("id") == number), None)

    async def __aenter__(self) -> Talk:
        await self.relay.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.relay.close()


RESULT = {"result": {"content": [{"type": "text", "text": "x"}]}}


async def test_ids_are_the_clients_own() -> None:
    async with Talk({"tools/call": RESULT}) as talk:
        for number in (1, "1", 2):
            answer = await talk.say("tools/call", number, name="get", arguments={"id": 7})
            assert answer is not None
            assert type(answer["id"]) is type(number)
        assert talk.server.methods().count("tools/call") == 1


async def test_an_error_of_the_protocol_passes_and_is_not_kept() -> None:
    async with Talk({"tools/call": {"error": {"code": -5, "message": "no", "data": [1]}}}) as talk:
        for number in (1, 2):
            answer = await talk.say("tools/call", number, name="get", arguments={"id": 7})
            assert answer is not None
            assert answer["error"] == {"code": -5, "message": "no", "data": [1]}
        assert talk.server.methods().count("tools/call") == 2


@pytest.mark.parametrize("extra", [{"inputResponses": {}}, {"requestState": "s"}, {"task": {"ttl": 1}}])
async def test_parts_of_longer_exchanges_pass(extra: dict[str, Any]) -> None:
    async with Talk({"tools/call": RESULT}) as talk:
        for number in (1, 2, 3):
            given = extra if number > 1 else {}
            answer = await talk.say("tools/call", number, name="get", arguments={"id": 7}, **given)
            assert answer is not None
            assert ("_meta" in answer["result"]) == (number == 1)
        assert talk.server.methods().count("tools/call") == 3
        assert talk.server.got[-1]["params"].items() >= extra.items()


async def test_a_policy_that_fits_no_tool_runs_none() -> None:
    async with Talk({"tools/call": RESULT}, {"gte": {"kind": "read", "resource": "a"}}) as talk:
        for number in (1, 2):
            answer = await talk.say("tools/call", number, name="get", arguments={})
            assert answer is not None
            assert "gte" in answer["error"]["message"]
        assert "tools/call" not in talk.server.methods()
        assert await talk.say("ping", 3) is None  # everything else passes
        assert talk.server.methods()[-1] == "ping"


async def test_a_server_without_a_list_of_tools_is_passed_through() -> None:
    no_list = {"error": {"code": -32_601, "message": "unknown"}}
    async with Talk({"tools/list": no_list, "tools/call": RESULT}, {}) as talk:
        for number in (1, 2):
            await talk.say("tools/call", number, name="get", arguments={"id": 7})
        assert talk.server.methods().count("tools/call") == 2


async def test_a_cancelled_call_is_cancelled_at_the_server_unless_others_wait() -> None:
    async with Talk({}) as talk:

        async def call(number: int) -> asyncio.Task[None]:
            params = {"name": "get", "arguments": {"id": 7}}
            await talk.relay.from_client({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params})
            return talk.relay._calls[str(number)]

        first, second = await call(1), await call(2)
        async with asyncio.timeout(30):
            while "tools/call" not in talk.server.methods():
                await asyncio.sleep(0)
        await talk.relay.from_client({"method": "notifications/cancelled", "params": {"requestId": 1}})
        await asyncio.gather(first, return_exceptions=True)
        assert "notifications/cancelled" not in talk.server.methods()
        await talk.relay.from_client({"method": "notifications/cancelled", "params": {"requestId": 2}})
        await asyncio.gather(second, return_exceptions=True)
        async with asyncio.timeout(30):
            while "notifications/cancelled" not in talk.server.methods():
                await asyncio.sleep(0)
        asked = next(message for message in talk.server.got if message.get("method") == "tools/call")
        cancelled = talk.server.got[-1]
        assert cancelled["params"]["requestId"] == asked["id"]
        assert talk.sent == []


async def test_the_servers_requests_and_the_clients_answers_pass() -> None:
    async with Talk({}) as talk:
        question = {"jsonrpc": "2.0", "id": 0, "method": "sampling/createMessage", "params": {}}
        await talk.server.heard(question)
        assert talk.sent == [question]
        answer = {"jsonrpc": "2.0", "id": 0, "result": {"role": "assistant"}}
        await talk.relay.from_client(answer)
        assert talk.server.got == [answer]
        await talk.server.heard({"jsonrpc": "2.0", "id": 99, "result": {}})  # nobody asked
        assert talk.sent == [question]


async def test_after_a_crash_the_server_is_greeted_as_the_client_did() -> None:
    greeted = {"result": {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {}}}
    async with Talk({"initialize": greeted, "tools/call": RESULT}) as talk:
        assert await talk.say("initialize", 1, clientInfo={"name": "me"}) is not None
        await talk.say("notifications/initialized")
        await asyncio.gather(*talk.relay._tasks)
        await talk.server.ended("it is gone")
        del talk.server.got[:]
        answer = await talk.say("tools/call", 2, name="get", arguments={"id": 7})
        assert answer is not None
        assert "result" in answer
        assert talk.server.starts == 2
        assert talk.server.methods() == ["initialize", "notifications/initialized", "tools/list", "tools/call"]
        assert talk.server.got[0]["params"] == {"clientInfo": {"name": "me"}}
        assert talk.server.got[0]["id"] != 1


async def test_a_server_that_cannot_be_started_again_is_told_each_time() -> None:
    async with Talk({"tools/call": RESULT}) as talk:
        await talk.server.ended("it is gone")

        async def refuse(heard: Any, ended: Any) -> None:
            raise ServerGoneError("no such file")

        talk.server.start = refuse  # type: ignore[method-assign]
        for number, method in ((1, "tools/call"), (2, "tools/list")):
            answer = await talk.say(method, number, name="get")
            assert answer is not None
            assert answer["error"]["message"] == "no such file"


async def test_a_message_of_many_megabytes_and_a_line_that_is_none(tmp_path: Path) -> None:
    script = tmp_path / "echo.py"
    script.write_text(
        "import sys\nprint('hello')\nprint()\n"
        "for line in sys.stdin: sys.stdout.write('[' + line.strip() + ']\\n'); sys.stdout.flush()\n",
        encoding="utf-8",
    )
    server = CommandServer([sys.executable, str(script)])
    heard: asyncio.Queue[Message] = asyncio.Queue()
    ended: asyncio.Queue[str] = asyncio.Queue()
    await server.start(heard.put, ended.put)
    message = {"text": "ä" * 3_000_000}
    await server.send(message)
    assert await asyncio.wait_for(heard.get(), 60) == message
    await server.close()
    assert ended.empty()
    with pytest.raises(ServerGoneError):
        await server.send(message)


# -- the command line ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ([], "give the server"),
        (["--url", "http://x", "--", "cmd"], "give the server"),
        (["--policy", "missing.toml", "--", "cmd"], "missing.toml"),
        (["--policy", "unknown-key.toml", "--", "cmd"], "colour"),
        (["--policy", "unknown-table.toml", "--", "cmd"], "servers"),
        (["--policy", "both.toml", "--", "cmd"], "kind"),
        (["--policy", "no.toml", "--", "cmd"], "cannot be read"),
        (["--backend", "nothing://", "--", "cmd"], "--backend"),
        (["--listen", "8080", "--", "cmd"], "HOST:PORT"),
        (["--header", "nonsense", "--url", "http://x"], "NAME:VALUE"),
        (["--open-world-ttl", "-1", "--", "cmd"], "open_world_ttl"),
        (["--", "there-is-no-such-command"], "cannot be started"),
    ],
)
def test_what_is_wrong_is_told_before_anything_runs(line: list[str], told: str, warm: Any, tmp_path: Path) -> None:
    (tmp_path / "unknown-key.toml").write_text('[tools.a]\nkind = "read"\nresource = "x"\ncolour = 1\n')
    (tmp_path / "unknown-table.toml").write_text("[servers.a]\n")
    (tmp_path / "both.toml").write_text('[tools.a]\nkind = ["read", "write"]\nresource = "x"\n')
    (tmp_path / "no.toml").write_text("no toml")
    done = subprocess.run(
        warm.command("-m", "agent_cache.cli", "mcp-proxy", *line, imports=("mcp.types", "uvicorn")),
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in (1, 2)
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


async def test_a_policy_for_a_tool_the_server_lacks_is_told_to_the_client_and_on_stderr(
    doors: Any, tmp_path: Path
) -> None:
    doors.policies = {"get_usr": {"kind": "read", "resource": "a"}}
    errors = tmp_path / "stderr"
    with errors.open("w", encoding="utf-8") as log:
        async with Client(stdio_client(doors.proxy(), errlog=log), mode="legacy") as client:
            with pytest.raises(MCPError, match="get_usr"):
                await client.call_tool("touch")
    assert "get_usr" in errors.read_text(encoding="utf-8")


def test_the_module_is_the_same_program(capsys: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agent_cache_mcp", "proxy", "--help"], capture_output=True, text=True, check=True
    )
    assert "--dry-run" in done.stdout
    assert cli.main(["--help"]) == 0
    assert "mcp-proxy" in capsys.readouterr().out
    assert cli.main([]) == 2
    assert cli.main(["nonsense"]) == 2
    assert "nonsense" in capsys.readouterr().err


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def missing(name: str) -> Any:
        raise ImportError("agent_cache_mcp needs mcp >= 1.24: pip install 'agent-cache[mcp]'")

    monkeypatch.setattr(cli, "import_module", missing)
    assert cli.main(["mcp-proxy", "--", "cmd"]) == 2
    assert "agent-cache[mcp]" in capsys.readouterr().err
