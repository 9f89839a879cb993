"""The session that belongs to a LangChain or LangGraph thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from langchain_core.runnables import RunnableConfig

from agent_cache import AgentCacheSession

__all__ = ["session_for"]

Identity = Mapping[str, object] | Callable[[RunnableConfig], Mapping[str, object] | None]


def session_for(config: RunnableConfig, identity: Identity | None = None, **options: Any) -> AgentCacheSession:
    """The session of the thread a run belongs to; enter it around ``agent.invoke`` or ``ainvoke``.

    Args:
        config: what the agent is invoked with; its ``configurable["thread_id"]`` becomes the ``session_id``.
            Without one the session gets an id of its own and shares nothing with another block.
        identity: whose answers these are, from the widest to the narrowest field, for example
            ``{"tenant": "acme", "user": "u1"}``; or a function that takes it from the config.
        options: passed on to :class:`~agent_cache.AgentCacheSession`.

    Raises:
        ConfigurationError: an option the session does not accept.
    """
    thread = config.get("configurable", {}).get("thread_id")
    who = identity(config) if callable(identity) else identity
    return AgentCacheSession(None if thread is None else str(thread), identity=who, **options)
