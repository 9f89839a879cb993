"""What is wrong with a policy is said before a tool runs; and what a tool's arguments are."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain.tools import InjectedState
from langchain_core.tools import StructuredTool, tool
from pydantic import BaseModel, Field, SecretStr, field_validator
from pydantic.v1 import BaseModel as OldModel

from agent_cache import AgentCache, AgentCacheInvalidator, AgentCacheSession, ConfigurationError, watched
from agent_cache.adapters import Policies
from agent_cache_langchain import AgentCacheMiddleware
from tests.langchain.conftest import ScriptedModel, Way
from tests.langchain.shop import ORDER, POLICIES, Shop


class Ref(BaseModel):
    repo: str
    branch: str = "main"


class TestBadInput:
    @pytest.mark.parametrize(
        ("policies", "said"),
        [
            ({"get_order": {"kind": "read", "resource": "order:{nobody}"}}, r"tool 'get_order'.*{nobody}"),
            ({"set_status": {"kind": "write", "resource": "order:{nobody}"}}, r"tool 'set_status'.*{nobody}"),
            ({"get_user": {"kind": "read", "resource": "user"}}, r"'get_user'.*there are get_order, set_status"),
            ({"find_*": {"kind": "read", "resource": "user"}}, r"'find_\*'.*no such tool"),
        ],
    )
    async def test_of_a_tool_before_anything_runs(self, policies: Any, said: str, agent: Way) -> None:
        shop = Shop()
        with pytest.raises(ConfigurationError, match=said):
            await agent.run(shop.tools, [[ORDER]], AgentCacheMiddleware(policies))
        assert agent.runner.model.seen == []
        with pytest.raises(ConfigurationError, match=said):
            AgentCacheMiddleware(policies).check(shop.tools)

    @pytest.mark.parametrize(
        ("policies", "said"),
        [
            ({"get_order": {"kind": "reads", "resource": "order"}}, "'read', 'write', 'other'"),
            ({"get_order": {"kind": "read"}}, "say what this read tool reads"),
            ({"get_order": {"kind": "read", "resource": "order", "tll": 3}}, "'tll' is unknown"),
            ({"get_order": {"resource": "order"}}, "'kind' is missing"),
            ({"get_order": "read"}, "give a ToolPolicy or a mapping"),
            ([("get_order", {})], "give a mapping from tool names"),
        ],
    )
    def test_of_a_policy_at_once(self, policies: Any, said: str) -> None:
        with pytest.raises(ConfigurationError, match=said):
            AgentCacheMiddleware(policies)

    def test_of_a_file(self, tmp_path: Path) -> None:
        file = tmp_path / "policies.toml"
        file.write_text('[tools.get_user]\nkind = "read"\nresource = "user"\n')
        with pytest.raises(ConfigurationError, match="'get_user'"):
            AgentCacheMiddleware(Policies.from_toml(file)).check(Shop().tools)

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"identity": 7}, "identity"),
            ({"backend": "redis://"}, "backend"),
            ({"unknown_tools": "maybe"}, "'raise' or 'ignore'"),
            ({"on_loop": "explode"}, "on_loop"),
            ({"max_tool_repeats": 0}, "max_tool_repeats"),
        ],
    )
    def test_of_an_option(self, options: dict[str, Any], said: str) -> None:
        with pytest.raises(ConfigurationError, match=said):
            AgentCacheMiddleware(POLICIES, **options)

    def test_tagged_both(self) -> None:
        shop = Shop()
        shop.read.metadata = {"agent_cache": {"kind": "write", "resource": "order"}}
        with pytest.raises(ConfigurationError, match=r"'get_order'.*tagged both 'write' and 'read'"):
            AgentCacheMiddleware(POLICIES).check(shop.tools)
        AgentCacheMiddleware(POLICIES, trust_metadata=False).check(shop.tools)

    def test_tagged_otherwise_than_decorated(self) -> None:
        @tool
        @AgentCache("order:{order_id}")
        def get_order(order_id: int) -> str:
            """One order."""
            return "paid"

        @tool
        @AgentCacheInvalidator("order:{order_id}")
        def set_status(order_id: int) -> str:
            """Change it."""
            return "ok"

        @tool
        @watched
        def look(order_id: int) -> str:
            """Look."""
            return "ok"

        tools = [get_order, set_status, look]
        for name, wrong, right in (("get_order", "write", "read"), ("set_status", "read", "write")):
            policy = {"kind": wrong, "resource": "order"}
            with pytest.raises(ConfigurationError, match=rf"'{name}'.*tagged both '{right}' and '{wrong}'"):
                AgentCacheMiddleware({name: policy}).check(tools)
            AgentCacheMiddleware({name: {**policy, "kind": right}}).check(tools)
            AgentCacheMiddleware({"*": policy}).check(tools)  # a pattern means those that say nothing
        AgentCacheMiddleware({"look": {"kind": "read", "resource": "order"}}).check(tools)

    def test_a_name_goes_before_a_tag(self) -> None:
        shop = Shop()
        shop.read.metadata = {"agent_cache": {"kind": "read", "resource": "order:{nobody}"}}
        AgentCacheMiddleware(POLICIES).check(shop.tools)

    def test_policies_for_more_tools_than_one_agent_has(self) -> None:
        AgentCacheMiddleware(POLICIES, unknown_tools="ignore").check([Shop().read])

    async def test_what_others_say_of_their_tools_can_be_overlooked(self, way: Way) -> None:
        shop = Shop()
        shop.read.metadata = {"agent_cache": POLICIES["get_order"]}
        await way.run([shop.read], [[ORDER], [ORDER]], AgentCacheMiddleware(trust_metadata=False))
        assert shop.reads == 2


class TestArguments:
    async def test_a_json_schema_tool(self, way: Way) -> None:
        """As MCP adapters make them: a schema and a function of anything, and a runtime that LangGraph fills in."""
        ran: list[dict[str, Any]] = []

        async def call_tool(runtime: Any = None, **arguments: Any) -> str:
            ran.append(arguments)
            assert runtime is not None
            return str(sorted(arguments.items()))

        def call_now(runtime: Any = None, **arguments: Any) -> str:
            ran.append(arguments)
            return str(sorted(arguments.items()))

        schema = {"type": "object", "properties": {"path": {"type": "string"}, "no-name": {}}, "required": ["path"]}
        made = StructuredTool(
            name="read-file", description="R.", args_schema=schema, coroutine=call_tool, func=call_now
        )
        with pytest.raises(ConfigurationError, match="handed runtime"):
            AgentCacheMiddleware({"read-file": {"kind": "read", "resource": "file:{path}"}}).check([made])
        cache = AgentCacheMiddleware({"read-file": {"kind": "read", "resource": "file:{path}", "scope": "global"}})
        asked: list[dict[str, Any]] = [
            {"path": "a"},
            {"path": "a"},
            {"path": "a", "no-name": 1},
            {"path": "a", "no-name": 1, "more": [2]},
            {"no-name": 1, "path": "a"},
            {"path": "a", "runtime": "forged"},
        ]
        messages = await way.run([made], [[("read-file", a)] for a in asked], cache)
        assert len(ran) == 3
        assert messages[0].content == messages[1].content != messages[2].content

    async def test_nested_models_in_templates_and_keys(self, way: Way) -> None:
        ran: list[str] = []

        def read(ref: Ref) -> str:
            """R."""
            ran.append(ref.branch)
            return ref.repo

        async def aread(ref: Ref) -> str:
            return read(ref)

        def write(ref: Ref) -> str:
            """W."""
            return ref.repo

        tools = [StructuredTool.from_function(read, aread), StructuredTool.from_function(write)]
        cache = AgentCacheMiddleware(
            {
                "read": {"kind": "read", "resource": "repo:{ref.repo}"},
                "write": {"kind": "write", "resource": "repo:{ref.repo}"},
            }
        )
        one: Any = {"ref": {"repo": "r"}}
        same = {"ref": {"repo": "r"}}  # not what names a default: a tool may ask its model which fields were given
        other = {"ref": {"repo": "r", "branch": "dev"}}
        await way.run(tools, [[("read", a)] for a in (one, same, other, other)], cache)
        assert ran == ["main", "dev"]
        await way.run(tools, [[("write", one)], [("read", same)]], cache)
        assert ran == ["main", "dev", "main"]

    async def test_secrets_are_no_part_of_a_key_nor_taken_for_each_other(self, way: Way) -> None:
        class Input(BaseModel):
            token: SecretStr

        ran: list[str] = []

        def whoami(token: SecretStr) -> str:
            """W."""
            ran.append(token.get_secret_value())
            return token.get_secret_value()

        made = StructuredTool.from_function(whoami, args_schema=Input)
        cache = AgentCacheMiddleware({"whoami": {"kind": "read", "resource": "me"}})
        messages = await way.run([made], [[("whoami", {"token": "a"})], [("whoami", {"token": "b"})]], cache)
        assert [m.content for m in messages] == ["a", "b"]

    async def test_old_models(self, way: Way) -> None:
        class Input(OldModel):
            order_id: int

        ran: list[int] = []

        def get_order(order_id: int) -> str:
            """O."""
            ran.append(order_id)
            return "paid"

        made = StructuredTool.from_function(get_order, args_schema=Input)
        await way.run([made], [[ORDER], [("get_order", {"order_id": "7"})]], AgentCacheMiddleware(READ))
        assert ran == [7]

    async def test_validators_decide_what_is_written(self, way: Way) -> None:
        """The write's schema has one; the resource is what the tool gets, not what the model wrote."""

        class Input(BaseModel):
            order_id: str

            @field_validator("order_id")
            @classmethod
            def plain(cls, given: str) -> str:
                return given.strip().lstrip("#")

        shop = Shop()

        def set_status(order_id: str) -> str:
            """W."""
            return order_id

        write = StructuredTool.from_function(set_status, args_schema=Input)
        wrote = ("set_status", {"order_id": " #7"})
        await way.run([shop.read, write], [[ORDER], [wrote], [ORDER]], AgentCacheMiddleware(POLICIES))
        assert shop.reads == 2

    async def test_what_validators_make_of_them_cannot_be_told_beside_injected_ones(self, way: Way) -> None:
        class Input(BaseModel):
            order_id: str
            state: Annotated[Any, InjectedState]

            @field_validator("order_id")
            @classmethod
            def plain(cls, given: str) -> str:
                return given.lstrip("#")

        shop, ran = Shop(), []

        def set_status(order_id: str, state: Any) -> str:
            """W."""
            return order_id

        def get_order2(order_id: str, state: Any) -> str:
            """R."""
            ran.append(order_id)
            return order_id

        write = StructuredTool.from_function(set_status, args_schema=Input)
        read = StructuredTool.from_function(get_order2, args_schema=Input)
        policies = {**POLICIES, "get_order2": {**POLICIES["get_order"], "scope": "global"}}
        steps = [[ORDER], [("set_status", {"order_id": "#7"})], [ORDER], *[[("get_order2", {"order_id": "#7"})]] * 2]
        await way.run([shop.read, write, read], steps, AgentCacheMiddleware(policies))
        assert shop.reads == 2  # the write dropped all orders
        assert ran == ["7", "7"]  # the read ran uncached

    async def test_ignored_ones(self, way: Way) -> None:
        class Input(BaseModel):
            order_id: int
            reason: str = Field(default="", description="Why.")

        ran: list[str] = []

        def get_order(order_id: int, reason: str) -> str:
            """O."""
            ran.append(reason)
            return "paid"

        made = StructuredTool.from_function(get_order, args_schema=Input)
        policies = {"get_order": {**POLICIES["get_order"], "ignore": ["reason"]}}
        steps = [[("get_order", {"order_id": 7, "reason": r})] for r in ("a", "b")]
        await way.run([made], steps, AgentCacheMiddleware(policies))
        assert ran == ["a"]


READ = {"get_order": POLICIES["get_order"]}


def test_calls_made_in_parallel_find_one_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    shop, made, found, threads = Shop(), [], [], []
    plans = AgentCacheMiddleware(POLICIES)._plans
    real = plans._new

    def find() -> None:
        found.append(plans.find("get_order", shop.read))

    def new(tool: Any) -> Any:
        if not made:
            threads.append(threading.Thread(target=find))
            threads[0].start()
        made.append(tool)
        return real(tool)

    monkeypatch.setattr(plans, "_new", new)
    find()
    threads[0].join(10)
    assert len(made) == 1
    assert found[0] is found[1]


async def test_hints_and_reports_name_the_call_as_the_model_made_it() -> None:
    shop = Shop()
    agent: Any = create_agent(
        ScriptedModel(steps=[[ORDER]] * 9), shop.tools, middleware=[AgentCacheMiddleware(POLICIES)]
    )
    async with AgentCacheSession(max_tool_repeats=2, on_loop="warn") as session:
        await agent.ainvoke({"messages": [("user", "go")]})
        assert session.get_metrics()["loop_detections"] > 0
        assert session.get_metrics()["resources"]["order"]["hits"] == 8
