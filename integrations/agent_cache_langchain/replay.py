"""A tool's answer as it is kept, and the tool that gives it again.

What is kept is never the framework's message: that has an id, which LangGraph tells messages apart by, and belongs to one
call. It is kept as content and artifact; on a hit a stand-in for the tool returns them, and LangChain makes a message of
them as it does of any tool's: with its own ids, after the same callbacks, in the same streams.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, Literal

from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool

from agent_cache.adapters import OneCallOnly, Served, replayable

__all__ = ["FailedResult", "ReplayTool", "answer_of", "replay", "with_provenance"]

HIT = {"agent_cache_hit": True}


@replayable
class FailedResult(Exception):  # noqa: N818 - never seen by anybody but us
    """An error that came as a message: raised past the cache, so that it is not kept, and those who waited get it too."""

    def __init__(self, message: ToolMessage) -> None:
        self.message = message
        super().__init__(message.text)

    def __agent_cache_state__(self) -> dict[str, Any]:
        """What a recording keeps: the content. An artifact may be anything, and the ids belong to one call."""
        return {"content": self.message.content, "name": self.message.name}

    @classmethod
    def __agent_cache_made__(cls, state: Mapping[str, Any]) -> FailedResult:
        """It again, from what was kept."""
        return cls(ToolMessage(content=state["content"], name=state["name"], tool_call_id="", status="error"))


def answer_of(result: Any, name: str, call_id: str | None, *, told_id: bool) -> Any:
    """What may be kept and shared of what a tool node returned.

    Args:
        result: the message, or a command, or several of them.
        name: the tool's.
        call_id: the call's.
        told_id: the tool knows it.

    Raises:
        FailedResult: the message says that the call failed.
    """
    if not isinstance(result, ToolMessage):
        return OneCallOnly(result, shown=_without(repr(result), call_id))
    if result.status == "error":
        raise FailedResult(result)
    answer = {"content": result.content, "artifact": result.artifact}
    if not _is_as_langchain_makes_it(result, name, call_id) or (told_id and call_id and call_id in repr(answer)):
        return OneCallOnly(answer, shown=_without(repr(answer), call_id))
    return answer


def _is_as_langchain_makes_it(message: ToolMessage, name: str, call_id: str | None) -> bool:
    """A tool may return a message of its own, with more in it than an answer."""
    plain = message.id is None and not message.additional_kwargs and not message.response_metadata
    return plain and message.name == name and message.tool_call_id == call_id


def _without(text: str, call_id: str | None) -> str:
    return text.replace(call_id, "") if call_id else text


class ReplayTool(BaseTool):
    """Stands in for a tool on a hit: returns what the tool returned before."""

    response_format: Literal["content", "content_and_artifact"] = "content_and_artifact"
    answer: Any
    hidden: frozenset[str] = frozenset()

    def _run(self, **_: Any) -> tuple[Any, Any]:
        return _with_fresh_ids(self.answer["content"]), self.answer["artifact"]

    async def _arun(self, **_: Any) -> tuple[Any, Any]:
        return _with_fresh_ids(self.answer["content"]), self.answer["artifact"]

    def _filter_injected_args(self, tool_input: dict[str, Any]) -> dict[str, Any]:
        """What callbacks are shown: as for the tool itself, nothing that LangChain put in."""
        shown = super()._filter_injected_args(tool_input)
        return {name: value for name, value in shown.items() if name not in self.hidden}


def replay(tool: BaseTool, answer: Mapping[str, Any], hidden: frozenset[str]) -> ReplayTool:
    """The stand-in for ``tool``; callbacks and traces see its name, tags and metadata, and that it is a hit."""
    return ReplayTool(
        name=tool.name,
        description=tool.description,
        tags=tool.tags,
        metadata={**(tool.metadata or {}), **HIT},
        callbacks=tool.callbacks,
        verbose=tool.verbose,
        answer=answer,
        hidden=hidden,
    )


def with_provenance(result: Any, kind: str, served: Served[Any]) -> Any:
    """The message with a note of where it comes from beside what it says; anything else as it is."""
    if not isinstance(result, ToolMessage):
        return result
    said = {"kind": kind, "executed": served.executed, **served.origin}
    return result.model_copy(update={"response_metadata": {**result.response_metadata, "agent_cache": said}})


def _with_fresh_ids(content: Any) -> Any:
    """Content blocks that LangChain gave an id get one of their own each time."""
    if not isinstance(content, list):
        return content
    return [
        {**block, "id": f"lc_{uuid.uuid4()}"} if isinstance(block, dict) and _is_made(block.get("id")) else block
        for block in content
    ]


def _is_made(block_id: object) -> bool:
    return isinstance(block_id, str) and block_id.startswith("lc_")
