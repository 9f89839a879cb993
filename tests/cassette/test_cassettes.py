"""The file: what it says, what it does not say, what of it is refused, and what a killed run leaves."""

from __future__ import annotations

import json
import logging
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from agent_cache import (
    AgentCache,
    AgentCacheSession,
    CassetteError,
    ConfigurationError,
    ReplayedToolError,
    UnrecordedCallError,
    watched,
)
from agent_cache.cassette import files, load
from agent_cache.context import current_view

Shop = Any  # what conftest.py makes

HEADER = '{"agent_cache_cassette":1}\n'
CALL = {
    "tool": "weigh",
    "origin": "shop:weigh",
    "kind": "watched",
    "arguments": {"grams": 1.0},
    "began": 1,
    "ended": 2,
    "outcome": "returned",
    "result": {"form": "json", "value": 0.5},
}


async def test_it_is_json_lines_that_people_can_read(shop: Shop, path: Path) -> None:
    async with AgentCacheSession(record=path):
        await shop.get_cart("jürgen")
        await shop.add("jürgen", "pear")
        await shop.get_cart.invalidate("jürgen")
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert lines[0]["agent_cache_cassette"] == 1
    assert lines[-1] == {"end": {"calls": 3}}
    read, write, invalidation = lines[1:-1]
    assert "jürgen" in path.read_text("utf-8")
    assert (read["tool"], read["kind"], read["arguments"]) == ("get_cart", "read", {"user_id": "jürgen"})
    assert read["result"] == {"form": "json", "value": {"items": [], "total": 0.0}}
    assert read["resources"][0].endswith(":j%C3%BCrgen")
    assert (write["kind"], write["result"]["value"]) == ("write", {"t": ["pear", 1]})
    assert (invalidation["kind"], invalidation["tool"]) == ("invalidate", "get_cart")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
async def test_numbers_that_json_has_not_stop_no_recording(path: Path, value: float) -> None:
    @AgentCache("n")
    async def read(x: float) -> dict[str, list[float]]:
        return {"x": [x, 1.5]}

    @watched
    async def look(x: float) -> float:
        raise ValueError(x)

    async def run() -> list[str]:
        said = [repr(await read(value))]
        with pytest.raises(ValueError, match=str(value)) as caught:
            await look(value)
        return [*said, repr(caught.value), repr(await read(2.0))]

    async with AgentCacheSession(record=path):
        seen = await run()
    assert seen == [f"{{'x': [{value!r}, 1.5]}}", f"ValueError({value!r})", "{'x': [2.0, 1.5]}"]

    def refused(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    for line in path.read_text("utf-8").splitlines():
        json.loads(line, parse_constant=refused)
    async with AgentCacheSession(replay=path) as session:
        assert await run() == seen
        assert session.unplayed() == ()


async def test_a_cassette_written_by_hand_is_one(shop: Shop, path: Path) -> None:
    path.write_text(HEADER + json.dumps(CALL) + '\n{"end":{}}\n')
    async with AgentCacheSession(replay=path):
        assert shop.weigh(1.0) == 0.5
    assert shop.ran == []


async def test_only_its_owner_may_read_it(shop: Shop, path: Path) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text("of an earlier run, for everybody")
    partial.chmod(0o666)
    async with AgentCacheSession(record=path):
        assert stat.S_IMODE(partial.stat().st_mode) == 0o600
        await shop.get_cart("u")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "earlier" not in path.read_text()


# -- secrets -------------------------------------------------------------------------------------------------------------------


class Login(BaseModel):
    user: str
    password: str


@watched
async def call(token: str, body: dict[str, Any], login: Login) -> str:
    return "ok"


ARGUMENTS: dict[str, Any] = {
    "token": "hunter2-a",
    "body": {"deep": [{"password": "hunter2-b", "x": 1}]},
    "login": Login(user="ann", password="hunter2-c"),
}


@pytest.mark.parametrize(
    "redact",
    [
        ("token", "password"),
        lambda tool, arguments: {"user": arguments["login"].user, "x": arguments["body"]["deep"][0]["x"]},
    ],
    ids=["names", "function"],
)
async def test_secrets_are_not_in_it(path: Path, redact: Any) -> None:
    async with AgentCacheSession(record=path, redact=redact):
        await call(**ARGUMENTS)
    assert "hunter2" not in path.read_text()
    assert "ann" in path.read_text()
    async with AgentCacheSession(replay=path, redact=redact):
        assert await call(**{**ARGUMENTS, "token": "another"}) == "ok"
        with pytest.raises(UnrecordedCallError) as caught:
            await call(**{**ARGUMENTS, "login": Login(user="bob", password="hunter2-d")})
    assert "hunter2" not in str(caught.value)


async def test_secret_fields_of_an_identity_are_not_in_it(shop: Shop, path: Path) -> None:
    async with AgentCacheSession(record=path, redact="key", identity={"tenant": "acme", "key": "hunter2"}):
        await shop.add("u", "x")
    assert "hunter2" not in path.read_text()
    assert '"who":{"tenant":"acme","key":{"$":"redacted"}}' in path.read_text()


async def test_secret_identities_are_told_apart(path: Path) -> None:
    """Nobody is given what was recorded for another, though neither name is in the file."""

    @AgentCache("me", scope="user")
    async def whoami() -> str:
        session = current_view().session
        assert session is not None
        return f"name {len(str(session.identity['user']))}"

    async def ask(*users: str) -> list[str]:
        found: list[str] = []
        for user in users:
            async with AgentCacheSession(identity={"user": user}):
                found.append(await whoami())
        return found

    async with AgentCacheSession(record=path, redact="user"):
        assert await ask("al", "bob", "al") == ["name 2", "name 3", "name 2"]
    assert "bob" not in path.read_text()
    async with AgentCacheSession(replay=path, redact="user"):
        assert await ask("al", "al", "bob") == ["name 2", "name 2", "name 3"]


async def test_a_redact_that_fails_lets_nothing_run(path: Path) -> None:
    ran: list[int] = []

    @watched
    def tool(secret: str) -> None:
        ran.append(1)

    def redact(tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        raise KeyError(arguments["secret"])

    async with AgentCacheSession(record=path, redact=redact):
        with pytest.raises(ConfigurationError, match="it raised KeyError for tool") as caught:
            tool("hunter2")
    assert "hunter2" not in str(caught.value)
    assert ran == []


# -- what is refused -----------------------------------------------------------------------------------------------------------


def changed(**fields: Any) -> str:
    return json.dumps({**CALL, **fields})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is no cassette"),
        ("hello\n", "line 1: it is no JSON"),
        ("[1]\n", "it is no cassette"),
        ('{"agent_cache_cassette":true}\n', "it is no cassette"),
        ('{"agent_cache_cassette":2}\n', "its format is version 2"),
        (HEADER + "{]\n", "line 2: it is no JSON"),
        (HEADER + "[" * 100_000 + "\n", "line 2: it is no JSON"),
        (HEADER + '{"a":NaN}\n', "line 2: it is no JSON: NaN"),
        (HEADER + "1" * 5_000 + "\n", "line 2: it is no JSON"),
        (HEADER + '"text"\n', "line 2: it is no JSON object"),
        (HEADER + '{"tool":"x"}\n', "line 2: 'origin' is missing"),
        (HEADER + changed(tool=1) + "\n", "'tool' is not a text"),
        (HEADER + changed(kind=["read"]) + "\n", "'kind' is not a text"),
        (HEADER + changed(kind="pickle") + "\n", "'kind' is 'pickle'"),
        (HEADER + changed(outcome="x") + "\n", "'outcome' is 'x'"),
        (HEADER + changed(began=True) + "\n", "'began' is not a number"),
        (HEADER + changed(ended=-1) + "\n", "'ended' is not a number"),
        (HEADER + changed(arguments=[]) + "\n", "'arguments' is not an object"),
        (HEADER + changed(who="me") + "\n", "'who' is not an object"),
        (HEADER + changed(nested="yes") + "\n", "'nested' is not true or false"),
        (HEADER + changed(resources=[1]) + "\n", "'resources' is not a list of texts"),
        (HEADER + changed(result=None) + "\n", "'result' is not an object"),
        (HEADER + changed(outcome="raised") + "\n", "'error' does not say which"),
        (HEADER + changed(__class__="x") + "\n", "'__class__' is unknown"),
        (HEADER + '{"end":1}\n', "its end is not what it should be"),
        (HEADER + '{"end":{}}\n' + changed() + "\n", "line 3: there is something after its end"),
    ],
)
def test_what_is_no_cassette_is_refused_at_construction(path: Path, text: str, why: str) -> None:
    path.write_text(text)
    with pytest.raises(CassetteError) as caught:
        AgentCacheSession(replay=path)
    assert why in str(caught.value)
    assert caught.value.path == str(path)


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"form": "pickle", "value": 1},
        {"form": ["json"], "value": 1},
        {"form": "json", "text": 1},
        {"form": "json", "text": "{"},
        {"form": "json", "base64": "%"},
        {"form": "typed", "value": {"k": ["os:system", [], []]}},
        {"form": "typed", "value": {"nothing": 1}},
        {"form": "codec", "text": "x"},
    ],
)
async def test_a_result_that_is_none_is_refused_when_it_is_asked_for(shop: Shop, path: Path, result: Any) -> None:
    path.write_text(HEADER + changed(result=result) + "\n")
    async with AgentCacheSession(replay=path):
        with pytest.raises(CassetteError, match="the recorded result of weigh"):
            shop.weigh(1.0)
    assert shop.ran == []


@pytest.mark.parametrize(
    "arguments", [None, {"form": "json", "value": [1]}, {"form": "json", "value": "x"}, {"form": 1}]
)
async def test_an_error_with_odd_arguments_is_only_named(shop: Shop, path: Path, arguments: Any) -> None:
    error = {"type": "ValueError", "text": "odd", "args": arguments}
    path.write_text(HEADER + changed(outcome="raised", error=error) + "\n")
    async with AgentCacheSession(replay=path):
        with pytest.raises(ReplayedToolError, match="ValueError: odd"):
            shop.weigh(1.0)


def test_devices_folders_and_pipes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CassetteError, match="no regular file"):
        AgentCacheSession(replay="/dev/null")
    for parameter in ("record", "replay"):
        with pytest.raises(ConfigurationError, match="it is a folder"):
            AgentCacheSession(**{parameter: tmp_path})  # type: ignore[arg-type]


def test_what_is_too_large_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text(HEADER + changed() + "\n" + changed() + "\n")
    for name, limit, why in (
        ("MAX_FILE", 50, "bytes"),
        ("MAX_LINE", 100, "a line has more"),
        ("MAX_CALLS", 1, "calls"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(files, name, limit)
            with pytest.raises(CassetteError, match=why):
                load(path)


@pytest.mark.parametrize(
    ("given", "parameter"),
    [
        ({"record": ""}, "record"),
        ({"record": 7}, "record"),
        ({"record": b"x"}, "record"),
        ({"replay": "nowhere.cassette"}, "replay"),
        ({"record": "a", "replay": "b"}, "replay"),
        ({"record_mode": "once"}, "record_mode"),
        ({"replay": "a", "record_mode": "once"}, "record_mode"),
        ({"record": "a", "record_mode": "none"}, "record_mode"),
        ({"redact": ("x",)}, "redact"),
        ({"record": "a", "redact": 5}, "redact"),
        ({"record": "a", "redact": (5,)}, "redact"),
        ({"replay_errors": (ValueError,)}, "replay_errors"),
        ({"record": "a", "replay_errors": ("ValueError",)}, "replay_errors"),
        ({"record": "a", "replay_errors": (KeyboardInterrupt,)}, "replay_errors"),
        ({"record": "a", "replay_errors": 5}, "replay_errors"),
    ],
)
def test_bad_input_is_refused_at_construction(given: dict[str, Any], parameter: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        AgentCacheSession(**given)
    assert caught.value.parameter == parameter


async def test_one_tape_at_a_time(shop: Shop, path: Path, tmp_path: Path) -> None:
    async with AgentCacheSession(record=path):
        with pytest.raises(ConfigurationError, match="inside a session that records or replays"):
            AgentCacheSession(record=tmp_path / "b").__enter__()
        await shop.get_cart("u")
    async with AgentCacheSession(replay=path):
        with pytest.raises(ConfigurationError, match="inside a session that records or replays"):
            AgentCacheSession(replay=path).__enter__()
        assert await shop.get_cart("u")


# -- a run that ends badly -----------------------------------------------------------------------------------------------------


def test_a_place_that_cannot_be_written_is_said_on_entering(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigurationError, match="it cannot be written"):
        AgentCacheSession(record=tmp_path / "file" / "run.cassette").__enter__()


async def test_only_one_records_a_cassette(path: Path) -> None:
    import contextvars

    async with AgentCacheSession(record=path):
        with pytest.raises(ConfigurationError, match="another session or process is recording it"):
            contextvars.Context().run(AgentCacheSession(record=path).__enter__)
    async with AgentCacheSession(record=path):
        pass


KILLED = """
import os, signal, sys
from agent_cache import AgentCacheSession, watched
@watched
def weigh(grams: float) -> float:
    if grams == 3.0:
        os.kill(os.getpid(), signal.SIGKILL)
    return grams / 2
with AgentCacheSession(record=sys.argv[1]):
    for grams in (1.0, 2.0, 3.0):
        weigh(grams)
"""


def test_a_killed_run_leaves_the_old_cassette_and_what_it_had(
    shop: Shop, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with AgentCacheSession(record=path):
        shop.weigh(9.0)
    old = path.read_text()
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == old
    partial = path.with_name("run.cassette.partial")
    shop.ran.clear()
    with caplog.at_level(logging.WARNING, "agent_cache"), AgentCacheSession(replay=partial):
        assert [shop.weigh(1.0), shop.weigh(2.0)] == [0.5, 1.0]
        with pytest.raises(UnrecordedCallError, match="has no end: its run was killed"):
            shop.weigh(3.0)
    assert "has no end" in caplog.text
    assert shop.ran == []


def test_every_beginning_of_a_cassette_is_usable(shop: Shop, path: Path) -> None:
    with AgentCacheSession(record=path):
        for grams in (1.0, 2.0):
            shop.weigh(grams)
    raw = path.read_bytes()
    for size in range(len(HEADER) - 1, len(raw)):
        path.write_bytes(raw[:size])
        if b"\n" not in raw[: size + 1]:
            continue
        found = load(path)
        assert [call.arguments["grams"] for call in found.calls] == [1.0, 2.0][: len(found.calls)]
        assert not found.complete or size == len(raw) - 1


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def add(self: files.Writer, call: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(files.Writer, "add", add)
        yield


async def test_a_full_disk_fails_no_tool(
    shop: Shop, path: Path, full_disk: None, caplog: pytest.LogCaptureFixture
) -> None:
    async with AgentCacheSession(record=path):
        assert await shop.get_cart("u1") == {"items": [], "total": 0.0}
        assert shop.weigh(2.0) == 0.002
    assert caplog.text.count("recording stopped") == 1
    assert not path.exists()
    assert path.with_name("run.cassette.partial").exists()


def test_a_forked_child_does_not_write_into_its_parent_s(shop: Shop, path: Path) -> None:
    with AgentCacheSession(record=path):
        shop.weigh(1.0)
        child = os.fork()
        if child == 0:
            try:
                shop.weigh(2.0)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        shop.weigh(3.0)
    assert [call.arguments["grams"] for call in load(path).calls] == [1.0, 3.0]


async def test_a_call_after_the_end_is_not_recorded_and_said_so(
    shop: Shop, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import contextvars

    async with AgentCacheSession(record=path):
        context = contextvars.copy_context()
    assert context.run(shop.weigh, 1.0) == 0.001
    assert "weigh was called after its session ended" in caplog.text
    assert load(path).calls == ()


async def test_arguments_of_any_depth_are_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.cassette"

    @AgentCache("nested")
    async def nested(x: Any) -> int:
        return 1

    async with AgentCacheSession(record=path):
        await nested(1)
    head, call, end = path.read_text().splitlines()
    read = refused = 0
    for depth in (*range(1, 1_200, 7), *range(1_200, 60_000, 2_900)):  # how much a parser takes depends on the Python
        deep = call.replace('"arguments":{"x":1}', '"arguments":{"x":' + "[" * depth + "]" * depth + "}")
        assert deep != call
        path.write_text(f"{head}\n{deep}\n{end}\n")
        try:
            async with AgentCacheSession(replay=path) as session:
                assert len(session.unplayed()) == 1
            read += 1
        except CassetteError as error:
            refused += "too many levels" in error.why
    assert read > 10
    assert refused > 10
