"""What a ToolPolicy says about freshness holds for the tools of frameworks."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from agent_cache import ConfigurationError
from agent_cache.adapters import Policies, Served, ToolPolicy, adapted, pass_through
from agent_cache.engine import stale
from tests.freshness.conftest import Quiet, Source, Store

SEARCH: dict[str, Any] = {"kind": "read", "resource": "search:{q}", "ttl": 10}


def test_a_file_may_say_it(tmp_path: Path) -> None:
    (tmp_path / "tools.toml").write_text(
        '[tools.search]\nkind = "read"\nresource = "search:{q}"\nttl = 10\nstale_while_revalidate = 60\n'
        "stale_if_error = 600\nearly_refresh = 1.5\njitter = 0.1\nsoft_timeout = 1\nhard_timeout = 2.5\n"
    )
    policy = Policies.from_toml(tmp_path / "tools.toml").find("search")
    assert policy is not None
    assert policy.freshness == {
        "stale_while_revalidate": 60, "stale_if_error": 600, "early_refresh": 1.5, "soft_timeout": 1, "hard_timeout": 2.5,
    }  # fmt: skip
    assert policy.jitter == 0.1
    assert policy.as_mapping()["stale_while_revalidate"] == 60
    tool = adapted("search", policy, ("q",), "search")
    fresh = tool._decorated(None, ("q",), is_async=True).__agent_cache__.policy.freshness
    assert (fresh.grace, fresh.hard_timeout) == (600.0, 2.5)


def test_what_is_not_said_is_no_part_of_a_policy() -> None:
    assert ToolPolicy.of(SEARCH, "search").as_mapping() == {"kind": "read", "resource": ["search:{q}"], "ttl": 10}


@pytest.mark.parametrize(
    ("more", "parameter"),
    [
        ({"stale_if_error": -1}, "stale_if_error"),
        ({"stale_while_revalidate": "5"}, "stale_while_revalidate"),
        ({"ttl": None, "stale_if_error": 5}, "stale_if_error"),
        ({"soft_timeout": 5}, "soft_timeout"),
        ({"soft_timeout": 5, "hard_timeout": 1, "stale_if_error": 5}, "soft_timeout"),
        ({"jitter": 1}, "jitter"),
        ({"kind": "write", "ttl": None, "hard_timeout": 5}, "hard_timeout"),
        ({"kind": "write", "ttl": None, "jitter": 0.5}, "jitter"),
    ],
)
def test_bad_fields_are_said_with_their_place(more: dict[str, Any], parameter: str) -> None:
    with pytest.raises(ConfigurationError) as said:
        Policies({"search": {**SEARCH, **more}})
    assert said.value.parameter == f"policies['search'].{parameter}"


async def test_an_adapter_hears_that_an_answer_was_stale(store: Store, source: Source, quiet: Quiet) -> None:
    policy = ToolPolicy.of({**SEARCH, "stale_while_revalidate": 60}, "search")
    tool = adapted("search", policy, ("q",), f"search {id(source)}", provenance=True)

    async def run() -> list[int]:
        return source.answer()

    async def ask() -> Served[list[int]]:
        return await tool({"q": "x"}, run)

    assert await ask() == Served([1], executed=True)
    assert (await ask()).stale is None
    await store.advance(15)
    served = await ask()
    assert (served.value, served.executed, served.stale) == ([1], False, "stale_while_revalidate")
    await quiet()
    served = await ask()
    assert (served.value, served.executed, served.stale) == ([2], False, None)


async def test_a_frameworks_control_flow_is_never_hidden(
    memory: Store, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupt(Exception):  # noqa: N818
        pass

    monkeypatch.setattr(stale, "_never_hidden", [*stale._never_hidden])
    policy = ToolPolicy.of({**SEARCH, "stale_if_error": 60}, "search")
    tool = adapted("search", policy, ("q",), f"search {id(source)}")

    def run() -> list[int]:
        return source.answer()

    assert tool.blocking({"q": "x"}, run).value == [1]
    memory.clock.advance(15)
    source.fails = Interrupt()
    served = tool.blocking({"q": "x"}, run)
    assert served.value == [1]
    pass_through(Interrupt)
    with pytest.raises(Interrupt):
        tool.blocking({"q": "x"}, run)


@pytest.mark.parametrize(
    ("package", "module", "names"),
    [
        ("agent_cache_langchain", "langgraph.errors", ["GraphBubbleUp"]),
        ("agent_cache_pydantic_ai", "pydantic_ai.exceptions", ["ModelRetry", "CallDeferred", "ApprovalRequired"]),
    ],
)
def test_the_adapters_name_theirs(package: str, module: str, names: list[str]) -> None:
    importlib.import_module(package)
    errors = importlib.import_module(module)
    assert {getattr(errors, name) for name in names} <= set(stale._never_hidden)
