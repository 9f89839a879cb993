"""What went wrong in prototypes: error texts, approvals, structured outputs, contexts, copies, wrong policies."""

from __future__ import annotations

import copy
from types import ModuleType
from typing import Any

import pytest
from agents import (
    Agent,
    FunctionTool,
    RunContextWrapper,
    RunHooks,
    Runner,
    ToolOutputImage,
    ToolOutputText,
    function_tool,
)
from agents.testing import ScriptedModel, assistant_message
from agents.tool_context import ToolContext

from agent_cache import AgentCache, AgentCacheSession, ConfigurationError, get_metrics
from agent_cache.adapters import is_decorated
from agent_cache_openai_agents import (
    cached_agent,
    cached_function,
    cached_function_tool,
    ending_on_loops,
    invalidating_function_tool,
    watched_function_tool,
)
from tests.openai_agents_adapter.conftest import agent_with, notes, outputs


async def test_the_sdks_error_texts_are_not_kept() -> None:
    ran: list[int] = []

    @function_tool
    async def flaky() -> str:
        ran.append(1)
        if len(ran) < 3:
            raise OSError("down")
        return "up"

    tool = cached_function_tool(flaky, "it")
    told = outputs(await Runner.run(agent_with([tool], *[("flaky", {})] * 4), "go"))
    assert [text == "up" for text in told] == [False, False, True, True]
    assert len(ran) == 3


async def test_failures_are_handled_as_before() -> None:
    seen: list[str] = []

    def handler(ctx: RunContextWrapper[Any], error: Exception) -> str:
        seen.append(repr(error))
        return f"sorry: {error}"

    @function_tool(failure_error_function=handler)
    async def flaky() -> str:
        raise OSError("down")

    @function_tool(failure_error_function=None)
    async def strict() -> str:
        raise OSError("down")

    agent = agent_with([cached_function_tool(flaky, "it")], ("flaky", {}))
    assert outputs(await Runner.run(agent, "go")) == ["sorry: down"]
    assert seen == ["OSError('down')"]
    with pytest.raises(Exception, match="down"):
        await Runner.run(agent_with([cached_function_tool(strict, "it")], ("strict", {})), "go")


async def test_wrong_arguments_are_the_tools_to_refuse() -> None:
    @function_tool
    async def look(number: int) -> str:
        return "seen"

    tool = cached_function_tool(look, "it:{number}")
    told = outputs(await Runner.run(agent_with([tool], ("look", {"number": "x"}), ("look", {"number": 1})), "go"))
    assert told[0] != "seen"
    assert told[1] == "seen"
    assert get_metrics()["misses"] == 1


async def test_a_returned_error_is_kept_unless_it_is_said() -> None:
    ran: list[int] = []

    @function_tool
    async def flaky() -> str:
        ran.append(1)
        return "Error: down" if len(ran) == 1 else "up"

    tool = cached_function_tool(flaky, "it", cache_if=lambda text: not text.startswith("Error"))
    assert outputs(await Runner.run(agent_with([tool], *[("flaky", {})] * 3), "go")) == ["Error: down", "up", "up"]


async def test_structured_outputs_survive() -> None:
    @function_tool
    async def picture() -> list[ToolOutputText | ToolOutputImage]:
        return [ToolOutputText(text="look"), ToolOutputImage(image_url="data:image/png;base64,AAAA", detail="low")]

    tool = cached_function_tool(picture, "picture")
    told = outputs(await Runner.run(agent_with([tool], ("picture", {}), ("picture", {})), "go"))
    assert told[0] == told[1]
    assert [part["type"] for part in told[1]] == ["input_text", "input_image"]
    assert get_metrics()["hits"] == 1
    async with AgentCacheSession(max_tool_repeats=3, on_loop="staged"):
        told = outputs(await Runner.run(agent_with([tool], *[("picture", {})] * 4), "go"))
    assert [len(parts) for parts in told] == [2, 2, 2, 3]  # the hint is one part more


async def test_a_hint_stands_beside_a_single_structured_output() -> None:
    @function_tool
    async def picture() -> ToolOutputImage:
        return ToolOutputImage(image_url="data:image/png;base64,AAAA")

    @function_tool
    async def text() -> dict[str, str]:
        return {"type": "text", "text": "seen"}

    for tool, kind in ((picture, "input_image"), (text, "input_text")):
        agent = agent_with([cached_function_tool(tool, "it")], *[(tool.name, {})] * 4)
        async with AgentCacheSession(max_tool_repeats=3, on_loop="staged"):
            told = outputs(await Runner.run(agent, "go"))
        assert [part["type"] for part in told[3]] == [kind, "input_text"]
        assert tool.name in told[3][1]["text"]


async def test_approval_is_asked_for_hits_too() -> None:
    ran: list[int] = []

    @function_tool(needs_approval=True)
    async def look() -> str:
        ran.append(1)
        return "secret"

    tool = cached_function_tool(look, "it")
    agent = agent_with([tool], ("look", {}), ("look", {}))
    result = await Runner.run(agent, "go")
    for asked in (1, 2):
        assert len(result.interruptions) == 1, f"approval {asked}"
        state = result.to_state()
        state.approve(result.interruptions[0])
        result = await Runner.run(agent, state)
    assert result.final_output == "done"
    assert len(ran) == 1


async def test_hooks_fire_for_hits() -> None:
    class Hooks(RunHooks[Any]):
        def __init__(self) -> None:
            self.seen: list[str] = []

        async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
            self.seen.append("start")

        async def on_tool_end(self, context: Any, agent: Any, tool: Any, result: Any) -> None:
            self.seen.append(result)

    @function_tool
    async def look() -> str:
        return "seen"

    hooks = Hooks()
    await Runner.run(agent_with([cached_function_tool(look, "it")], ("look", {}), ("look", {})), "go", hooks=hooks)
    assert hooks.seen == ["start", "seen"] * 2


async def test_a_users_own_custom_data_stays() -> None:
    @function_tool(custom_data_extractor=lambda context: {"theirs": context.output})
    async def look() -> str:
        return "seen"

    result = await Runner.run(agent_with([cached_function_tool(look, "it")], ("look", {})), "go")
    items = [item for item in result.new_items if item.type == "tool_call_output_item"]
    assert items[0].custom_data == {"theirs": "seen", "agent_cache": {"kind": "read", "executed": True}}


async def test_a_copy_of_a_wrapped_tool_and_a_tool_wrapped_twice() -> None:
    ran: list[int] = []

    @function_tool
    async def look() -> str:
        ran.append(1)
        raise OSError("down")

    once = ending_on_loops(ending_on_loops(look))
    copied = copy.copy(once)
    assert copied.__wrapped__ is look.__wrapped__
    assert outputs(await Runner.run(agent_with([copied], ("look", {})), "go")) == outputs(
        await Runner.run(agent_with([look], ("look", {})), "go")
    )


async def test_the_copy_looks_the_same() -> None:
    @function_tool(timeout=9, needs_approval=True)
    async def look(number: int) -> str:
        """Look."""
        return "seen"

    ours = cached_function_tool(look, "it:{number}")
    for name in (
        "name",
        "description",
        "params_json_schema",
        "strict_json_schema",
        "needs_approval",
        "timeout_seconds",
    ):
        assert getattr(ours, name) == getattr(look, name)
    assert ours.__wrapped__ is look.__wrapped__


async def test_approval_by_arguments_is_decided_as_before() -> None:
    async def many(ctx: RunContextWrapper[Any], arguments: dict[str, Any], call_id: str) -> bool:
        return bool(arguments["number"] > 5)

    @function_tool(needs_approval=many)
    async def look(number: int) -> str:
        return f"{number} seen"

    tool = cached_function_tool(look, "it:{number}")
    few = await Runner.run(agent_with([tool], ("look", {"number": 1})), "go")
    assert outputs(few) == ["1 seen"]
    asked = await Runner.run(agent_with([tool], ("look", {"number": 9})), "go")
    assert len(asked.interruptions) == 1


# -- contexts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("annotation", [RunContextWrapper, RunContextWrapper[int], ToolContext, ToolContext[int]])
def test_a_context_and_no_scope_is_an_error_at_once(annotation: Any) -> None:
    async def mine(ctx: Any, number: int) -> str:
        return "mine"

    mine.__annotations__["ctx"] = annotation
    with pytest.raises(ConfigurationError, match="say who may share"):
        cached_function("it")(mine)
    with pytest.raises(ConfigurationError, match="say who may share"):
        cached_function_tool(function_tool(mine), "it")
    assert is_decorated(cached_function("it", scope="user")(mine))


def test_a_tool_made_by_hand_is_handed_the_context() -> None:
    async def invoke(ctx: ToolContext[Any], arguments: str) -> str:
        return "mine"

    tool = FunctionTool(
        name="t", description="", params_json_schema={}, on_invoke_tool=invoke, strict_json_schema=False
    )
    with pytest.raises(ConfigurationError, match="say who may share"):
        cached_function_tool(tool, "it")


async def test_a_tool_made_by_hand_hits() -> None:
    ran: list[str] = []

    async def invoke(ctx: ToolContext[Any], arguments: str) -> str:
        ran.append(arguments)
        return "done"

    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    tool = FunctionTool(
        name="t", description="", params_json_schema=schema, on_invoke_tool=invoke, strict_json_schema=False
    )
    cached = cached_function_tool(tool, "it:{a}", scope="global")
    result = await Runner.run(agent_with([cached], *[("t", {"a": 1})] * 2), "go")
    assert outputs(result) == ["done", "done"]
    assert len(ran) == 1


async def test_closures_of_one_name_do_not_share() -> None:
    def tool_for(user: str) -> FunctionTool:
        @function_tool
        def mine() -> str:
            return user

        return cached_function_tool(mine, "it")

    for user in ("ann", "bob"):
        assert outputs(await Runner.run(agent_with([tool_for(user)], ("mine", {})), "go")) == [user]


# -- wrong policies ----------------------------------------------------------------------------------------------------


def test_what_is_wrong_is_said_before_a_run() -> None:
    @function_tool
    def look(number: int) -> str:
        return "seen"

    @function_tool
    @AgentCache("it")
    def decorated() -> str:
        return "it"

    helper = Agent(name="helper", model=ScriptedModel([[assistant_message("hi")]])).as_tool("helper", "Helps.")
    with pytest.raises(ConfigurationError, match=r"tool 'look': resource='it:\{nubmer\}'.*it has number"):
        cached_function_tool(look, "it:{nubmer}")
    with pytest.raises(ConfigurationError, match="FunctionTool"):
        cached_function_tool("look", "it")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="FunctionTool"):
        ending_on_loops("look")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="has a decorator"):
        cached_function_tool(decorated, "it")
    with pytest.raises(ConfigurationError, match="agent as a tool"):
        cached_function_tool(helper, "it", scope="global")
    with pytest.raises(ConfigurationError, match="ttl"):
        invalidating_function_tool(look, "it", ttl=3)
    with pytest.raises(ConfigurationError, match="there is no such tool"):
        cached_agent(agent_with([look]), {"lok": {"kind": "read", "resource": "it"}})
    assert watched_function_tool(helper).name == "helper"


async def test_an_agent_as_a_tool_is_watched() -> None:
    inner = Agent(name="helper", model=ScriptedModel([[assistant_message("hi")]] * 2))
    tools = [watched_function_tool(inner.as_tool("helper", "Helps."))]
    call = ("helper", {"input": "please"})
    result = await Runner.run(agent_with(tools, call, call), "go")
    assert outputs(result) == ["hi", "hi"]
    assert notes(result) == [{"kind": "other", "executed": True}] * 2


# -- too old -----------------------------------------------------------------------------------------------------------


def test_a_framework_that_is_too_old_or_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib
    import sys

    for name in [n for n in sys.modules if n.startswith("agent_cache_openai_agents")]:
        monkeypatch.delitem(sys.modules, name)
    old = ModuleType("agents.tool")
    old.FunctionTool = object  # type: ignore[attr-defined]
    for module in (old, None):
        monkeypatch.setitem(sys.modules, "agents.tool", module)
        with pytest.raises(ImportError, match=r"openai-agents>=0.22.*agent-cache\[openai-agents\]"):
            importlib.import_module("agent_cache_openai_agents")
