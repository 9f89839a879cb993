"""Which policy a tool gets, and what its resources become."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.client.client import Client
from mcp.server.mcpserver import MCPServer

from agent_cache import ConfigurationError, UnkeyableArgumentError
from agent_cache.adapters import Policies, ToolPolicy
from agent_cache.tags import Template
from agent_cache_mcp import CachedClient
from agent_cache_mcp.calls import Asker, ServerCache
from agent_cache_mcp.policies import WRITES_ALL, below, policy_of, uri_of

READ_ALL = ToolPolicy(kind="read", resource="*")


def decide(definition: dict[str, Any], *, trusted: bool = True, ttl: float | None = None, strict: bool = True) -> Any:
    policies = Policies({"named": {"kind": "read", "resource": "a"}})
    return policy_of({"name": "t", **definition}, policies, trusted=trusted, open_world_ttl=ttl, strict=strict)


@pytest.mark.parametrize(
    ("hints", "expected"),
    [
        ({"readOnlyHint": True, "openWorldHint": False}, READ_ALL),
        ({"readOnlyHint": True, "openWorldHint": True}, ToolPolicy(kind="other")),
        ({"readOnlyHint": True}, ToolPolicy(kind="other")),  # the world is open unless they say otherwise
        ({"readOnlyHint": False}, WRITES_ALL),
        ({"readOnlyHint": "yes"}, WRITES_ALL),
        ({"idempotentHint": True, "destructiveHint": False}, WRITES_ALL),
        ({}, WRITES_ALL),
        (None, WRITES_ALL),
    ],
)
def test_annotations_of_a_trusted_server(hints: Any, expected: ToolPolicy) -> None:
    assert decide({"annotations": hints}) == expected
    assert decide({"annotations": hints}, trusted=False) == WRITES_ALL


def test_reads_of_an_open_world_need_a_ttl() -> None:
    assert decide({"annotations": {"readOnlyHint": True}}, ttl=30).ttl == 30


def test_the_name_wins_then_meta_then_annotations() -> None:
    meta = {"agent_cache": {"kind": "read", "resource": "b"}}
    hints = {"readOnlyHint": True, "openWorldHint": False}
    assert decide({"name": "named", "_meta": meta, "annotations": hints}).resource == ("a",)
    assert decide({"_meta": meta, "annotations": hints}).resource == ("b",)
    assert decide({"annotations": hints}).resource == ("*",)


@pytest.mark.parametrize(
    "said", [{"kind": "both"}, {"resource": "a"}, "read", {"kind": "read", "resource": "a", "x": 1}]
)
def test_a_wrong_meta_is_an_error_for_its_author_and_disbelieved_by_others(said: Any, caplog: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"_meta\.agent_cache"):
        decide({"_meta": {"agent_cache": said}})
    with caplog.at_level(logging.WARNING, "agent_cache"):
        assert decide({"_meta": {"agent_cache": said}}, strict=False) == WRITES_ALL
    assert "counts as a write" in caplog.text


def test_a_remote_servers_template_that_fits_no_parameter_is_disbelieved(caplog: Any) -> None:
    cache = ServerCache("crm")
    said = {"kind": "read", "resource": "user:{nobody}"}
    with caplog.at_level(logging.WARNING, "agent_cache"):
        cache.learn([{"name": "t", "_meta": {"agent_cache": said}}])
    assert "nobody" in caplog.text


@pytest.mark.parametrize(
    ("resource", "inside"),
    [
        ("*", "crm"),
        ("user:{id}", "crm:user:{id}"),
        ("user://{id}", "crm:user:{id}"),
        ("file:///{a.b}/x", "crm:file:{a.b}:x"),
        ("a%20b://c%C3%A4/", "crm:a b:cä"),
        ("plain", "crm:plain"),
    ],
)
def test_resources_are_inside_their_servers(resource: str, inside: str) -> None:
    assert below(ToolPolicy(kind="write", resource=resource), "crm").resources == (inside,)


def test_a_uri_with_a_hidden_separator_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="encoded"):
        below(ToolPolicy(kind="write", resource="file:///a%2Fb"), "crm")


@given(st.text(min_size=1).filter(str.strip), st.text(min_size=1).filter(str.strip))
def test_no_two_servers_share_a_path(one: str, other: str) -> None:
    def path(server: str) -> Any:
        resource = below(ToolPolicy(kind="write", resource="*"), server).resources[0]
        return Template.parse(resource, []).fill({})

    try:
        paths = path(one), path(other)
    except UnicodeEncodeError:
        return
    import unicodedata

    same = unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other)
    assert (paths[0] == paths[1]) == same
    assert len(paths[0][0]) == 1


@pytest.mark.parametrize(
    ("arguments", "uri"),
    [
        ({"id": "1"}, "user://1"),
        ({"id": 1}, "user://1"),
        ({"id": "a b"}, "user://a%20b"),
        ({"id": None}, None),
        ({}, None),
        ({"id": True}, None),
        ({"id": ["1"]}, None),
    ],
)
def test_the_uri_of_a_call(arguments: dict[str, Any], uri: str | None) -> None:
    assert uri_of("user://{id}", arguments) == uri


async def test_servers_do_not_touch_each_others_entries() -> None:
    async def run() -> dict[str, Any]:
        return {"content": []}

    caches = [ServerCache(name, {"get": {"kind": "read", "resource": "*"}}) for name in ("one", "two")]
    for cache in caches:
        cache.learn([{"name": "get"}])
        await cache.call("get", {}, run, Asker())
    await caches[0].call("unheard_of", {}, run, Asker())
    assert [(await cache.call("get", {}, run, Asker())).executed for cache in caches] == [True, False]


async def test_a_users_functions_see_the_result_as_it_is_sent() -> None:
    seen: list[Any] = []

    def wanted(result: Any) -> bool:
        seen.append(result)
        return bool(result["content"])

    def nothing_done(result: Any) -> bool:
        return bool(result["content"])

    policies = {
        "get": ToolPolicy(kind="read", resource="a", cache_if=wanted),
        "set": ToolPolicy(kind="write", resource="a", no_effect_if=nothing_done),
    }
    cache = ServerCache("crm", policies)
    cache.learn([{"name": "get"}, {"name": "set"}])
    text = [{"type": "text", "text": "x"}]

    async def ask(name: str, content: Any) -> bool:
        async def run() -> dict[str, Any]:
            return {"content": content}

        return (await cache.call(name, {}, run, Asker())).executed

    assert [await ask("get", []), await ask("get", text), await ask("get", text)] == [True, True, False]
    assert seen[0] == {"content": []}
    await ask("set", text)
    assert not await ask("get", text)
    await ask("set", [])
    assert await ask("get", text)


async def test_a_client_with_a_wrong_policy_does_not_open(shop: Any) -> None:
    server = shop.fill(MCPServer("shop"), shop.Shop())
    for policies, told in (({"get_usr": {"kind": "other"}}, "get_usr"), ({"get_user": {"kind": "?"}}, "kind")):
        with pytest.raises(ConfigurationError, match=told):
            async with CachedClient(Client(server), "shop", policies=policies):
                pytest.fail("it opened")


@pytest.mark.parametrize(
    ("options", "told"),
    [({"client": object()}, "client"), ({"principal": ""}, "principal"), ({"server": " "}, "server")],
)
def test_wrong_options_of_a_client(options: dict[str, Any], told: str, shop: Any) -> None:
    client = Client(MCPServer("shop"))
    with pytest.raises(ConfigurationError, match=told):
        CachedClient(**{"client": client, "server": "shop", **options})


async def test_arguments_that_cannot_be_keyed_run_every_time() -> None:
    """The protocol's JSON always can; a client may hand over anything."""
    cache = ServerCache("crm", {"get": {"kind": "read", "resource": "a"}})
    cache.learn([{"name": "get"}])

    async def run() -> dict[str, Any]:
        return {"content": []}

    try:
        answers = [await cache.call("get", {"x": object()}, run, Asker()) for _ in range(2)]
    except UnkeyableArgumentError:
        pytest.fail("a cache never breaks a tool")
    assert all(answer.executed for answer in answers)
