"""A real agent of the SDK with its own scripted model."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

os.environ["OPENAI_AGENTS_DISABLE_TRACING"] = "1"  # the SDK reads it when it is imported

import pytest
from agents import Agent, RunResult
from agents.testing import ScriptedModel, assistant_message, function_call

from agent_cache.config import settings
from agent_cache.policy import scopes_of_reads

Call = tuple[str, dict[str, Any]]


def scripted(*steps: Sequence[Call] | Call) -> ScriptedModel:
    """A model whose every step is one answer with its (parallel) calls; after the last one it says "done"."""
    script: list[Any] = []
    for number, step in enumerate(steps):
        calls: Any = [step] if isinstance(step[0], str) else step
        script.append([function_call(n, json.dumps(a), call_id=f"call-{number}-{i}") for i, (n, a) in enumerate(calls)])
    return ScriptedModel([*script, [assistant_message("done")]])


def agent_with(tools: Sequence[Any], *steps: Sequence[Call] | Call, **options: Any) -> Agent[Any]:
    return Agent(name="agent", model=scripted(*steps), tools=list(tools), **options)


def outputs(result: RunResult) -> list[Any]:
    """What the model was told the tools returned, in order."""
    return [item.raw_item["output"] for item in result.new_items if item.type == "tool_call_output_item"]  # type: ignore[index]


def notes(result: RunResult) -> list[Any]:
    """Where the results came from."""
    items = [item for item in result.new_items if item.type == "tool_call_output_item"]
    return [(item.custom_data or {}).get("agent_cache") for item in items]


@pytest.fixture(autouse=True)
def _alone(_fresh_process_state: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for register in ("_scopes", "_backends"):  # a write of this test does not reach for other tests' reads
        monkeypatch.setattr(scopes_of_reads, register, {})
    settings.notices.forget()
