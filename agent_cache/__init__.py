"""agent_cache: each tool answer fetched once, and never a wrong one because of us.

A cache between an AI agent and its tools. Decorate reads with :class:`AgentCache`, writes with
:class:`AgentCacheInvalidator`, and wrap a run in :class:`AgentCacheSession`.
"""

from agent_cache.backends.memory import MemoryBackend
from agent_cache.config import configure
from agent_cache.decorators import AgentCache, AgentCacheInvalidator
from agent_cache.errors import (
    AgentCacheError,
    AgentLoopDetectedError,
    BackendError,
    ConfigurationError,
    NoEffect,
    UnkeyableArgumentError,
    UnstorableResultError,
)
from agent_cache.model import (
    GLOBAL,
    CacheKey,
    CallEvent,
    Explanation,
    InvalidationEvent,
    LoopEvent,
    Observer,
)
from agent_cache.reports import get_metrics, reset_metrics
from agent_cache.session import AgentCacheSession, no_cache, refresh

__version__ = "0.1.0"

__all__ = [
    "GLOBAL",
    "AgentCache",
    "AgentCacheError",
    "AgentCacheInvalidator",
    "AgentCacheSession",
    "AgentLoopDetectedError",
    "BackendError",
    "CacheKey",
    "CallEvent",
    "ConfigurationError",
    "Explanation",
    "InvalidationEvent",
    "LoopEvent",
    "MemoryBackend",
    "NoEffect",
    "Observer",
    "UnkeyableArgumentError",
    "UnstorableResultError",
    "__version__",
    "configure",
    "get_metrics",
    "no_cache",
    "refresh",
    "reset_metrics",
]
