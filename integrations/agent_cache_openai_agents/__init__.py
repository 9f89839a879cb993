"""agent_cache for the OpenAI Agents SDK: function tools, whole agents, and MCP servers.

For functions of your own, put :func:`cached_function` (or the plain decorators) right under ``@function_tool``::

    @function_tool
    @AgentCache("order:{order_id}")
    async def get_order(order_id: int) -> str: ...

For tools somebody else made: :func:`cached_function_tool`, :func:`invalidating_function_tool`, or :func:`cached_agent` with
a policy per tool; for MCP servers :class:`CachedMCPServer`. The SDK turns what a tool raises into a text for the model;
such texts are never kept, and a loop that a session is to raise ends the run all the same.
"""

from importlib.metadata import version as _version

try:
    from agents.tool import FunctionTool as _FunctionTool
except ImportError as error:
    raise ImportError(
        "agent_cache_openai_agents needs openai-agents>=0.22: pip install 'agent-cache[openai-agents]'"
    ) from error
try:
    from agents.tool import _FailureHandlingFunctionToolInvoker as _Invoker
except ImportError:
    _Invoker = None  # type: ignore[misc, assignment]
if _Invoker is None or "__wrapped__" not in vars(_FunctionTool):
    raise ImportError(
        f"agent_cache_openai_agents needs openai-agents>=0.22, and {_version('openai-agents')} is not one it knows: "
        "pip install -U 'agent-cache[openai-agents]'"
    )

from agent_cache.adapters import Policies, ToolPolicy
from agent_cache_openai_agents.functions import cached_function
from agent_cache_openai_agents.loops import LoopEndsRunError, ending_on_loops
from agent_cache_openai_agents.mcp_server import CachedMCPServer
from agent_cache_openai_agents.tools import (
    cached_agent,
    cached_function_tool,
    invalidating_function_tool,
    watched_function_tool,
)

__all__ = [
    "CachedMCPServer",
    "LoopEndsRunError",
    "Policies",
    "ToolPolicy",
    "cached_agent",
    "cached_function",
    "cached_function_tool",
    "ending_on_loops",
    "invalidating_function_tool",
    "watched_function_tool",
]
