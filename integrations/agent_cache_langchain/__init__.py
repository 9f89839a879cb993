"""agent_cache for LangChain and LangGraph tools.

For tools of your own put the decorators right under ``@tool``; nothing of this package is needed::

    @tool
    @AgentCache("order:{order_id}")
    async def get_order(order_id: int) -> dict[str, str]: ...

For tools somebody else made, :func:`cached_tool` and :func:`invalidating_tool` give a copy that reads
through the cache, or invalidates it. :func:`session_for` opens the session that belongs to a thread.
"""

from agent_cache_langchain.sessions import session_for
from agent_cache_langchain.tools import cached_tool, invalidating_tool

__all__ = ["cached_tool", "invalidating_tool", "session_for"]
