"""Tool results as they go over the wire: which may be kept, and what is written beside a kept one.

Everything here is a plain mapping with the protocol's own names, which are the same in every version of every SDK. Turning
such a mapping into somebody's class is the doors' business (:mod:`agent_cache_mcp.client` and its neighbours).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent_cache.adapters import origin_of

__all__ = [
    "PROVENANCE",
    "RequestMeta",
    "failed",
    "keepable",
    "loop_result",
    "request_meta",
    "text_of",
    "with_provenance",
]

Wire = dict[str, Any]
PROVENANCE = "agent_cache"
"""The key in a result's ``_meta``, and in a tool's, that is ours."""

RequestMeta = Mapping[str, Any]
_OF_THE_TRANSPORT = ("progressToken", "traceparent", "tracestate", "baggage")
_RESERVED = "io.modelcontextprotocol/"


def keepable(result: Mapping[str, Any]) -> bool:
    """Whether this is a complete answer: no error, no question back, no receipt for a task that runs on."""
    return (
        isinstance(result.get("content"), list)
        and result.get("resultType", "complete") == "complete"
        and not failed(result)
        and not result.keys() & {"task", "inputRequests", "requestState"}
    )


def failed(result: Mapping[str, Any]) -> bool:
    """Whether the tool said that it failed."""
    return bool(result.get("isError"))


def with_provenance(
    result: Mapping[str, Any], *, hit: bool, age: float | None, stale: str | None = None, tags: Sequence[str] = ()
) -> Wire:
    """The result with a note of where it comes from in ``_meta``: ``{"hit": True, "age": 1.5, "tags": ["crm:user:7"]}``, the
    age in seconds, the tags being the resources it depends on; ``stale`` names the rule by which an answer was served beyond
    its ttl.

    Where the server had answered from a cache of its own, its age is added; what was executed for this call keeps
    the server's note.
    """
    meta = dict(result.get("_meta") or {})
    inner = meta.get(PROVENANCE)
    if isinstance(inner, Mapping):
        if not hit:
            return dict(result)
        before = inner.get("age")
        if age is not None and isinstance(before, (int, float)):
            age += before
    return {**result, "_meta": {**meta, PROVENANCE: {"hit": hit, **origin_of(age, tags, stale)}}}


def request_meta(meta: RequestMeta | None) -> Wire | None:
    """What a request's ``_meta`` adds to the call: all but what serves the transport. None where that is nothing."""
    rest = {
        name: value
        for name, value in (meta or {}).items()
        if name not in _OF_THE_TRANSPORT and not name.startswith(_RESERVED) and value is not None
    }
    return rest or None


def text_of(result: Mapping[str, Any]) -> str:
    """The texts of a result, for people."""
    blocks = result.get("content")
    texts = [b.get("text", "") for b in blocks if isinstance(b, Mapping)] if isinstance(blocks, list) else []
    return "\n".join(filter(None, map(str, texts)))


def loop_result(hint: str) -> Wire:
    """What the model is told instead of an answer when its call is a loop."""
    return {"content": [{"type": "text", "text": hint}], "isError": True}
