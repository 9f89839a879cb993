"""agent_cache for pydantic-ai: every tool of an agent, the ones of MCP servers included, by a policy per tool.

::

    agent = Agent(model, capabilities=[AgentCacheCapability({
        "get_order": {"kind": "read", "resource": "order:{order_id}"},
        "refund": {"kind": "write", "resource": "order:{order_id}"},
    })])

:class:`AgentCacheCapability` sees all tools of an agent; :class:`AgentCacheToolset` those of one toolset. A policy may
also stand at the tool: ``metadata={"agent_cache": {"kind": "read", ...}}``. For functions of your own the plain
decorators under ``@agent.tool_plain`` do as well, and nothing of this package is needed.
"""

try:
    from pydantic_ai.capabilities import AbstractCapability as _AbstractCapability
except ImportError as error:
    raise ImportError(
        "agent_cache_pydantic_ai needs pydantic-ai-slim>=2: pip install 'agent-cache[pydantic-ai]'"
    ) from error
if not hasattr(_AbstractCapability, "wrap_tool_execute"):
    raise ImportError(
        "agent_cache_pydantic_ai needs pydantic-ai-slim>=2, and an older one is installed: "
        "pip install 'agent-cache[pydantic-ai]'"
    )

from agent_cache.adapters import Policies, ToolPolicy
from agent_cache_pydantic_ai.capability import AgentCacheCapability
from agent_cache_pydantic_ai.toolset import AgentCacheToolset

__all__ = ["AgentCacheCapability", "AgentCacheToolset", "Policies", "ToolPolicy"]
