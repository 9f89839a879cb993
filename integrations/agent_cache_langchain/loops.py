"""A loop that ends the run, and a loop that the model is told about."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import ToolMessage
from langgraph.errors import GraphBubbleUp

from agent_cache import AgentLoopDetectedError
from agent_cache.adapters import taken_hints

__all__ = ["RunEndedByLoopError", "ended", "with_hints"]


class RunEndedByLoopError(AgentLoopDetectedError, GraphBubbleUp):
    """An :class:`~agent_cache.AgentLoopDetectedError` that LangGraph lets through.

    A ToolNode may turn what a tool raises into a message for the model, and retrying middleware calls again. A loop must
    not come to that; what LangGraph calls bubbling up passes all of them.
    """


def ended(error: AgentLoopDetectedError) -> RunEndedByLoopError:
    """The same error, as one that ends the run."""
    return error if isinstance(error, RunEndedByLoopError) else RunEndedByLoopError(error.event)


def with_hints(result: Any, *tools: str) -> Any:
    """The result with what the session has to say about these tools' calls below it, for the model to read.

    Results that are no message (commands) are left as they are, and the hints wait for the next message.
    """
    if not isinstance(result, ToolMessage):
        return result
    for event in taken_hints(*tools):
        content = result.content
        said: Any = f"{content}\n\n{event.hint}" if isinstance(content, str) else [*content, _block(event.hint)]
        result = result.model_copy(update={"content": said})
    return result


def _block(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}
