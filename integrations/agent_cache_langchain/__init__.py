"""agent_cache for LangChain and LangGraph.

* :class:`AgentCacheMiddleware`: the cache between an agent of ``create_agent``, or a bare ToolNode, and its tools.
* :func:`cached_tool`, :func:`invalidating_tool`, :func:`with_policies`: copies of tools that look after themselves.
* :func:`session_for`: the session that belongs to a thread.
* :class:`AgentCacheLLMCache`, :class:`AgentCacheByteStore`, :class:`AgentCacheGraphCache`: LangChain's and LangGraph's own
  caches, kept in any of our backends.

For tools of your own the decorators do, right under ``@tool``, and nothing of this package is needed.
"""

from agent_cache_langchain.versions import require

require()

from agent_cache_langchain.graph_cache import AgentCacheGraphCache  # noqa: E402 - after the check
from agent_cache_langchain.middleware import AgentCacheMiddleware  # noqa: E402
from agent_cache_langchain.sessions import session_for  # noqa: E402
from agent_cache_langchain.stores import AgentCacheByteStore, AgentCacheLLMCache  # noqa: E402
from agent_cache_langchain.tools import cached_tool, invalidating_tool, with_policies  # noqa: E402

__all__ = [
    "AgentCacheByteStore",
    "AgentCacheGraphCache",
    "AgentCacheLLMCache",
    "AgentCacheMiddleware",
    "cached_tool",
    "invalidating_tool",
    "session_for",
    "with_policies",
]
