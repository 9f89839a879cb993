"""What went wrong in prototypes: approvals, results with parts, deps, retries, hooks, wrong policies."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, ApprovalRequired, CallDeferred, ModelRetry, RunContext, ToolReturn
from pydantic_ai.capabilities import AbstractCapability, Capability
from pydantic_ai.exceptions import SkipToolExecution
from pydantic_ai.messages import BinaryContent, ModelMessage
from pydantic_ai.tools import DeferredToolRequests, DeferredToolResults, Tool
from pydantic_ai.toolsets import FunctionToolset, WrapperToolset

from agent_cache import AgentCache, AgentCacheSession, ConfigurationError, MemoryBackend, get_metrics
from agent_cache.testing import FakeClock
from agent_cache_pydantic_ai import AgentCacheCapability, AgentCacheToolset, Policies
from tests.pydantic_ai_adapter.conftest import POLICIES, READ, WRITE, Shop, returned, said, scripted


@dataclass(frozen=True)
class Who:
    user: str


class Address(BaseModel):
    town: str


def one(function: Any, *steps: Any, policy: Any = None, **options: Any) -> Agent[Any, Any]:
    """An agent with this tool as a read."""
    policies = {function.__name__: policy or {"kind": "read", "resource": "it"}}
    return Agent(scripted(*steps), tools=[function], capabilities=[AgentCacheCapability(policies)], **options)


# -- results -----------------------------------------------------------------------------------------------------------


async def test_a_tool_return_survives_whole_and_everybody_has_an_own_one() -> None:
    ran: list[int] = []

    async def picture() -> ToolReturn:
        ran.append(1)
        return ToolReturn(
            return_value={"size": [1, 2]},
            content=["look:", BinaryContent(b"\x89PNG", media_type="image/png")],
            metadata={"source": ("disk", 1)},
        )

    agent = one(picture, ("picture", {}), ("picture", {}))
    messages = (await agent.run("go")).all_messages()
    first, second = returned(messages)
    assert first.content == second.content == {"size": [1, 2]}
    assert first.metadata == second.metadata == {"source": ("disk", 1)}
    extra = [p.content for m in messages for p in m.parts if p.part_kind == "user-prompt" and p.content != "go"]
    assert extra == [["look:", BinaryContent(b"\x89PNG", media_type="image/png")]] * 2
    assert len(ran) == 1
    assert first.content is not second.content
    assert isinstance(first.content, dict)
    first.content["size"].append("spoilt")
    assert said((await agent.run("go")).all_messages()) == [{"size": [1, 2]}] * 2


async def test_models_come_back_as_models() -> None:
    async def address() -> Address:
        return Address(town="Ulm")

    agent = one(address, ("address", {}), ("address", {}))
    assert said((await agent.run("go")).all_messages()) == [Address(town="Ulm")] * 2
    assert get_metrics()["hits"] == 1


async def test_a_model_as_the_only_argument_is_named_by_the_template() -> None:
    ran: list[str] = []

    async def look(where: Address) -> str:
        ran.append(where.town)
        return where.town

    policy = {"kind": "read", "resource": "town:{where.town}"}
    agent = one(look, ("look", {"town": "Ulm"}), ("look", {"town": "Ulm"}), ("look", {"town": "Bonn"}), policy=policy)
    assert said((await agent.run("go")).all_messages()) == ["Ulm", "Ulm", "Bonn"]
    assert ran == ["Ulm", "Bonn"]


async def test_provenance_stands_beside_the_result(shop: Shop) -> None:
    clock = FakeClock()
    policies = {**POLICIES, "get_order": {**POLICIES["get_order*"], "scope": "user"}}
    capability = AgentCacheCapability(
        policies,
        provenance=True,
        backend=MemoryBackend(clock=clock),
        identity=lambda ctx: {"tenant": "acme", "user": "ada"},
        session=lambda ctx: "chat",
    )
    agent = shop.agent(READ, READ, capabilities=[capability])
    parts = returned((await agent.run("go")).all_messages())
    clock.advance(90)
    parts += returned((await agent.run("go")).all_messages())
    parts += returned((await shop.agent(WRITE, capabilities=[capability]).run("go")).all_messages())
    assert [part.content for part in parts] == ["paid", "paid", "paid", "paid", "ok"]
    hit = {"kind": "read", "executed": False, "tags": ["order:7"]}
    assert [part.metadata["agent_cache"] for part in parts] == [
        {"kind": "read", "executed": True},
        {**hit, "age": 0.0},
        {**hit, "age": 90.0},
        {**hit, "age": 90.0},
        {"kind": "write", "executed": True},
    ]


async def test_an_answer_beyond_its_ttl_says_so(shop: Shop) -> None:
    clock = FakeClock()
    policies = {"get_order": {**POLICIES["get_order*"], "ttl": 5, "stale_while_revalidate": 60}}
    capability = AgentCacheCapability(policies, provenance=True, backend=MemoryBackend(clock=clock))
    agent = shop.agent(READ, capabilities=[capability])
    await agent.run("go")
    clock.advance(15)
    parts = returned((await agent.run("go")).all_messages())
    assert [part.metadata["agent_cache"] for part in parts] == [
        {"kind": "read", "executed": False, "age": 15.0, "tags": ["order:7"], "stale": "stale_while_revalidate"}
    ]


# -- what is never kept ------------------------------------------------------------------------------------------------


async def test_a_retry_is_not_kept_and_answers_its_own_call() -> None:
    ran: list[int] = []

    async def look() -> str:
        ran.append(1)
        await asyncio.sleep(0)
        raise ModelRetry("not now")

    agent = one(look, [("look", {}), ("look", {})], ("look", {}), retries=9)
    messages = (await agent.run("go")).all_messages()
    ids = [
        part.tool_call_id
        for m in messages
        for part in m.parts
        if getattr(part, "tool_call_id", None) and m.kind == "request"
    ]
    assert sorted(ids) == ["call-0-0", "call-0-1", "call-1-0"]
    assert len(ran) == 3


@pytest.mark.parametrize("error", [CallDeferred, ApprovalRequired])
async def test_deferred_calls_are_asked_for_again(error: type[Exception]) -> None:
    ran: list[int] = []

    async def look() -> str:
        ran.append(1)
        raise error

    agent = one(look, ("look", {}), output_type=[str, DeferredToolRequests])
    for runs in (1, 2):
        assert isinstance((await agent.run("go")).output, DeferredToolRequests)
        assert len(ran) == runs


async def test_what_was_approved_was_approved_once() -> None:
    """A read that asks for approval in its body: the approved answer is not served to those who were not asked."""
    ran: list[int] = []

    async def look(ctx: RunContext[None]) -> str:
        if not ctx.tool_call_approved:
            raise ApprovalRequired
        ran.append(1)
        return "secret"

    policy = {"kind": "read", "resource": "it", "scope": "global"}
    agent = one(look, ("look", {}), policy=policy, output_type=[str, DeferredToolRequests])
    for runs in (1, 2):
        first = await agent.run("go")
        assert isinstance(first.output, DeferredToolRequests), "approval was asked for"
        again = await agent.run(
            message_history=first.all_messages(),
            deferred_tool_results=DeferredToolResults(approvals={"call-0-0": True}),
        )
        assert "secret" in said(again.all_messages())
        assert len(ran) == runs


async def test_approval_that_depends_on_who_asks_is_asked_of_everybody() -> None:
    """What an admin may see unasked is not served, from the cache, to those who would have been asked."""

    def look() -> str:
        return "secret"

    policy: dict[str, Any] = {"kind": "read", "resource": "it"}

    def agent(**policy: Any) -> Agent[Who, Any]:
        return Agent(
            scripted(("look", {})),
            deps_type=Who,
            output_type=[str, DeferredToolRequests],
            toolsets=[FunctionToolset([look]).approval_required(lambda ctx, tool, args: ctx.deps.user != "admin")],
            capabilities=[AgentCacheCapability({"look": policy}, identity=lambda ctx: {"user": ctx.deps.user})],
        )

    with pytest.raises(ConfigurationError, match="say who may share"):
        await agent(**policy).run("go", deps=Who("admin"))
    for _ in range(2):
        assert (await agent(**policy, scope="user").run("go", deps=Who("admin"))).output == "done"
        assert isinstance((await agent(**policy, scope="user").run("go", deps=Who("ann"))).output, DeferredToolRequests)


async def test_an_approved_write_invalidates() -> None:
    state = ["old"]
    agent: Agent[None, Any] = Agent(
        scripted(("look", {}), ("change", {}), ("look", {})),
        output_type=[str, DeferredToolRequests],
        capabilities=[
            AgentCacheCapability(
                {
                    "look": {"kind": "read", "resource": "it"},
                    "change": {"kind": "write", "resource": "it"},
                }
            )
        ],
    )

    @agent.tool_plain
    async def look() -> str:
        return state[0]

    @agent.tool_plain(requires_approval=True)
    async def change() -> str:
        state[0] = "new"
        return "ok"

    first = await agent.run("go")
    again = await agent.run(
        message_history=first.all_messages(), deferred_tool_results=DeferredToolResults(approvals={"call-1-0": True})
    )
    assert said(again.all_messages()) == ["old", "ok", "new"]


async def test_what_another_capability_put_in_place_of_the_tool_is_not_kept(shop: Shop) -> None:
    class Skip(AbstractCapability[Any]):
        skipping = True

        async def before_tool_execute(
            self, ctx: Any, *, call: Any, tool_def: Any, args: dict[str, Any]
        ) -> dict[str, Any]:
            if self.skipping:
                raise SkipToolExecution("made up")
            return args

    skip = Skip()
    agent = shop.agent(READ, capabilities=[AgentCacheCapability(POLICIES), skip])
    assert said((await agent.run("go")).all_messages()) == ["made up"]
    skip.skipping = False
    assert said((await agent.run("go")).all_messages()) == ["paid"]


async def test_output_tools_are_none_of_ours(shop: Shop) -> None:
    agent = shop.agent(
        ("final_result", {"town": "Ulm"}), output_type=Address, capabilities=[AgentCacheCapability(POLICIES)]
    )
    for _ in range(2):
        assert (await agent.run("go")).output == Address(town="Ulm")
    assert get_metrics()["misses"] == 0


async def test_the_frameworks_own_tools_are_none_of_ours() -> None:
    """Loading a capability changes what the model can call, however wide a pattern of a policy is."""
    deferred = Capability[Any](id="more", description="More.", instructions="More.", defer_loading=True)
    load = ("load_capability", {"id": "more"})
    everything = AgentCacheCapability({"*": {"kind": "read", "resource": "it", "scope": "global"}}, dynamic_tools=True)
    agents = [Agent(scripted(load, load), capabilities=[deferred, *ours]) for ours in ([], [everything])]
    without, with_ours = [(await agent.run("go")).all_messages() for agent in agents]

    def outcomes(messages: list[ModelMessage]) -> list[str]:
        return [str(part.content) for m in messages[1:] for part in m.parts if hasattr(part, "content")]

    assert outcomes(with_ours) == outcomes(without)
    assert get_metrics()["misses"] == 0


async def test_a_tools_error_ends_the_run_and_is_not_kept() -> None:
    ran: list[int] = []

    async def look() -> str:
        ran.append(1)
        raise OSError("down")

    agent = one(look, ("look", {}))
    for runs in (1, 2):
        with pytest.raises(OSError, match="down"):
            await agent.run("go")
        assert len(ran) == runs


async def test_hits_do_not_count_as_tool_calls(shop: Shop) -> None:
    result = await shop.agent(READ, READ, WRITE, capabilities=[AgentCacheCapability(POLICIES)]).run("go")
    usage: Any = result.usage
    assert (usage if hasattr(usage, "tool_calls") else usage()).tool_calls == 2


# -- deps --------------------------------------------------------------------------------------------------------------


async def test_a_read_with_a_context_and_no_scope_is_an_error_before_the_first_request() -> None:
    asked: list[ModelMessage] = []

    async def mine(ctx: RunContext[Who]) -> str:
        return ctx.deps.user

    agent = one(mine, ("mine", {}), deps_type=Who)
    with pytest.raises(ConfigurationError, match="say who may share"):
        await agent.run("go", deps=Who("ann"))
    assert asked == []


async def test_a_wrapper_that_sees_the_context_counts_as_one() -> None:
    class Greeting(WrapperToolset[Who]):
        async def call_tool(self, name: str, tool_args: dict[str, Any], ctx: RunContext[Who], tool: Any) -> Any:
            return f"{ctx.deps.user}: {await super().call_tool(name, tool_args, ctx, tool)}"

    def look() -> str:
        return "hello"

    agent = Agent(
        scripted(("look", {})),
        deps_type=Who,
        toolsets=[Greeting(FunctionToolset([look]))],
        capabilities=[AgentCacheCapability({"look": {"kind": "read", "resource": "it"}})],
    )
    with pytest.raises(ConfigurationError, match="say who may share"):
        await agent.run("go", deps=Who("ann"))


async def test_a_shared_read_with_a_context_is_possible_if_it_is_said() -> None:
    ran: list[str] = []

    async def rates(ctx: RunContext[Who]) -> str:
        ran.append(ctx.deps.user)
        return "1.08"

    agent = one(rates, ("rates", {}), deps_type=Who, policy={"kind": "read", "resource": "rates", "scope": "global"})
    for user in ("ann", "bob"):
        assert said((await agent.run("go", deps=Who(user))).all_messages()) == ["1.08"]
    assert ran == ["ann"]


async def test_closures_of_one_name_do_not_share() -> None:
    def agent_for(user: str) -> Agent[Any, Any]:
        def mine() -> str:
            return user

        return one(mine, ("mine", {}))

    for user in ("ann", "bob"):
        assert said((await agent_for(user).run("go")).all_messages()) == [user]


# -- policies ----------------------------------------------------------------------------------------------------------


async def test_a_policy_at_the_tool() -> None:
    ran: list[int] = []
    toolset: FunctionToolset[Any] = FunctionToolset()

    @toolset.tool_plain(metadata={"agent_cache": {"kind": "read", "resource": "it"}})
    def look() -> int:
        ran.append(1)
        return len(ran)

    agent: Agent[None, str] = Agent(
        scripted(("shop_look", {}), ("shop_look", {})),
        toolsets=[toolset.prefixed("shop")],
        capabilities=[AgentCacheCapability()],
    )
    assert said((await agent.run("go")).all_messages()) == [1, 1]


@pytest.mark.parametrize(
    ("policies", "message"),
    [
        ({"get_oder": {"kind": "read", "resource": "order"}}, "there is no such tool"),
        (
            {"get_order": {"kind": "read", "resource": "order:{id}"}},
            r"policy of tool 'get_order': resource='order:\{id\}'",
        ),
        ({"get_order": {"kind": "write", "resource": "order"}}, "the tool itself says"),
        ({"decorated": {"kind": "read", "resource": "order"}}, "has a decorator"),
    ],
)
async def test_wrong_policies_are_said_before_the_first_request(policies: Any, message: str) -> None:
    asked: list[int] = []

    def get_order(order_id: int) -> str:
        return "paid"

    @AgentCache("it")
    def decorated() -> str:
        return "it"

    model = scripted()
    tagged = {"agent_cache": {"kind": "read", "resource": "order"}} if "write" in str(policies) else None
    agent: Agent[None, str] = Agent(
        model, tools=[Tool(get_order, metadata=tagged), decorated], capabilities=[AgentCacheCapability(policies)]
    )
    with pytest.raises(ConfigurationError, match=message):
        await agent.run("go")
    assert asked == []


def test_wrong_options_are_said_at_once() -> None:
    with pytest.raises(ConfigurationError, match="resource"):
        AgentCacheCapability({"a": {"kind": "read"}})
    with pytest.raises(ConfigurationError, match="identity"):
        AgentCacheCapability(identity={"user": "ann"})  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="on_loop"):
        AgentCacheCapability(on_loop="explode")


async def test_tools_may_be_absent_if_it_is_said(shop: Shop) -> None:
    policies = {**POLICIES, "later": {"kind": "read", "resource": "later"}}
    agent = shop.agent(READ, capabilities=[AgentCacheCapability(policies, dynamic_tools=True)])
    assert said((await agent.run("go")).all_messages()) == ["paid"]


# -- the toolset -------------------------------------------------------------------------------------------------------


def toolset_of(shop: Shop) -> FunctionToolset[Any]:
    toolset: FunctionToolset[Any] = FunctionToolset()

    @toolset.tool_plain
    async def get_order(order_id: int) -> str:
        shop.ran.append(f"get {order_id}")
        return shop.status[order_id]

    @toolset.tool_plain
    async def set_status(order_id: int, new: str) -> str:
        shop.status[order_id] = new
        return "ok"

    return toolset


async def test_a_toolset_hits_invalidates_and_stops_loops(shop: Shop) -> None:
    toolset = AgentCacheToolset(toolset_of(shop), Policies(POLICIES), dynamic_tools=True, max_tool_repeats=3)
    agent: Agent[None, str] = Agent(scripted(READ, READ, WRITE, READ), toolsets=[toolset])
    assert said((await agent.run("go")).all_messages()) == ["paid", "paid", "ok", "sent"]
    assert shop.ran == ["get 7", "get 7"]
    from agent_cache import AgentLoopDetectedError

    looping: Agent[None, str] = Agent(scripted(*[READ] * 9), toolsets=[toolset])
    with pytest.raises(AgentLoopDetectedError):
        await looping.run("go")


async def test_a_toolset_keeps_what_it_knows_over_the_steps_of_a_dynamic_one(shop: Shop) -> None:
    inner = toolset_of(shop)

    class Dynamic(WrapperToolset[Any]):
        async def for_run(self, ctx: Any) -> Any:
            return Dynamic(self.wrapped)

        async def for_run_step(self, ctx: Any) -> Any:
            return Dynamic(self.wrapped)

    agent: Agent[None, str] = Agent(scripted(READ, READ), toolsets=[AgentCacheToolset(Dynamic(inner), POLICIES)])
    for _ in range(2):
        assert said((await agent.run("go")).all_messages()) == ["paid", "paid"]
    assert shop.ran == ["get 7"]


async def test_two_users_of_a_toolset_are_kept_apart() -> None:
    toolset: FunctionToolset[Who] = FunctionToolset()

    @toolset.tool
    def mine(ctx: RunContext[Who]) -> str:
        return ctx.deps.user

    cached = AgentCacheToolset(
        toolset,
        {"mine": {"kind": "read", "resource": "it", "scope": "user"}},
        identity=lambda ctx: {"user": ctx.deps.user},
    )
    agent = Agent(scripted(("mine", {}), ("mine", {})), deps_type=Who, toolsets=[cached])
    for user in ("ann", "bob"):
        assert said((await agent.run("go", deps=Who(user))).all_messages()) == [user] * 2
    assert get_metrics()["hits"] == 2


async def test_the_session_of_a_run_ends_with_it(shop: Shop) -> None:
    async with AgentCacheSession() as session:
        agent = shop.agent(READ, READ, capabilities=[AgentCacheCapability(POLICIES)])
        await agent.run("go")
        assert session.get_metrics()["hits"] == 1


# -- too old -----------------------------------------------------------------------------------------------------------


def test_a_framework_that_is_too_old_or_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib
    import sys

    for name in [n for n in sys.modules if n.startswith("agent_cache_pydantic_ai")]:
        monkeypatch.delitem(sys.modules, name)
    old = ModuleType("pydantic_ai.capabilities")
    old.AbstractCapability = object  # type: ignore[attr-defined]
    for module in (old, None):
        monkeypatch.setitem(sys.modules, "pydantic_ai.capabilities", module)
        with pytest.raises(ImportError, match=r"pydantic-ai-slim>=2.*agent-cache\[pydantic-ai\]"):
            importlib.import_module("agent_cache_pydantic_ai")
