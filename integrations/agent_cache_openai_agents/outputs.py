"""What a tool's result carries besides: a hint for the model, and for people where it came from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from inspect import isawaitable
from typing import Any

from agents import FunctionTool, ToolOutputFileContent, ToolOutputImage, ToolOutputText
from agents.tool import FunctionToolCustomDataContext
from agents.tool_context import ToolContext

from agent_cache.adapters import Served
from agent_cache.model import LoopEvent

__all__ = ["Structured", "note", "noted", "with_hints"]

Structured = ToolOutputText | ToolOutputImage | ToolOutputFileContent
_NOTE = "_agent_cache"


def with_hints(tool: FunctionTool, result: Any, hints: Iterable[LoopEvent]) -> Any:
    """The result, and what the loop detector has to say to the model beside it."""
    text = "\n".join(event.hint for event in hints)
    if not text or tool.output_json_schema is not None:  # a program reads it, and expects what was declared
        return result
    said = ToolOutputText(text=text)
    if isinstance(result, list) and result and all(map(_is_structured, result)):
        return [*result, said]
    if _is_structured(result):
        return [result, said]
    return f"{result}\n\n{text}"


def _is_structured(result: Any) -> bool:
    if isinstance(result, Mapping):
        return result.get("type") in ("text", "image", "file")
    return isinstance(result, Structured)


def note(ctx: ToolContext[Any], kind: str, served: Served[Any]) -> None:
    """Remember at a call how it was answered."""
    setattr(ctx, _NOTE, {"kind": kind, "executed": served.executed, **served.origin})


def noted(tool: FunctionTool) -> FunctionTool:
    """Let the tool's output items say in ``custom_data["agent_cache"]`` how a call was answered; the model never sees it."""
    theirs = tool.custom_data_extractor

    async def extract(context: FunctionToolCustomDataContext) -> Mapping[str, Any] | None:
        data: Any = theirs(context) if theirs is not None else None
        if isawaitable(data):
            data = await data
        ours = getattr(context.tool_context, _NOTE, None)
        return data if ours is None else {**(data or {}), "agent_cache": ours}

    tool.custom_data_extractor = extract
    return tool
