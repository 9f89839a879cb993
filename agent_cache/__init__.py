"""agent_cache: each tool answer fetched once, and never a wrong one because of us.

A cache between an AI agent and its tools. Decorate reads with :class:`AgentCache`, writes with
:class:`AgentCacheInvalidator`, and wrap a run in :class:`AgentCacheSession`.
"""

from typing import TYPE_CHECKING, Any

from agent_cache.backends.memory import MemoryBackend
from agent_cache.backends.tiered import TieredBackend
from agent_cache.bounds import Quota
from agent_cache.cassette import find_narrow_writes
from agent_cache.config import configure
from agent_cache.decorators import AgentCache, AgentCacheInvalidator
from agent_cache.dependencies import depends_on
from agent_cache.erasing import erase
from agent_cache.errors import (
    AgentCacheError,
    AgentLoopDetectedError,
    BackendError,
    BatchLoadError,
    CassetteError,
    ConfigurationError,
    ExportFileError,
    LoadTimeoutError,
    NoEffect,
    ReplayedToolError,
    UnkeyableArgumentError,
    UnrecordedCallError,
    UnstorableResultError,
)
from agent_cache.freshness import ExpiredEntry, Validator
from agent_cache.functions import (
    KEY,
    NEVER,
    AsyncCache,
    AsyncLRU,
    AsyncLRUInvalidator,
    AsyncTTL,
    AsyncTTLInvalidator,
)
from agent_cache.loops import LoopPolicy
from agent_cache.model import (
    GLOBAL,
    CacheKey,
    CallEvent,
    Explanation,
    InvalidationEvent,
    LoopEvent,
    Observer,
    ToolCall,
)
from agent_cache.moving import EraseReport
from agent_cache.reports import get_metrics, reset_metrics, shadow_report
from agent_cache.session import AgentCacheSession, no_cache, refresh
from agent_cache.shadowing import ShadowReport
from agent_cache.watched import watched

if TYPE_CHECKING:
    from agent_cache.backends.disk import DiskBackend as DiskBackend
    from agent_cache.backends.redis import RedisBackend as RedisBackend

__version__ = "0.1.0"

__all__ = [
    "GLOBAL",
    "KEY",
    "NEVER",
    "AgentCache",
    "AgentCacheError",
    "AgentCacheInvalidator",
    "AgentCacheSession",
    "AgentLoopDetectedError",
    "AsyncCache",
    "AsyncLRU",
    "AsyncLRUInvalidator",
    "AsyncTTL",
    "AsyncTTLInvalidator",
    "BackendError",
    "BatchLoadError",
    "CacheKey",
    "CallEvent",
    "CassetteError",
    "ConfigurationError",
    "EraseReport",
    "ExpiredEntry",
    "Explanation",
    "ExportFileError",
    "InvalidationEvent",
    "LoadTimeoutError",
    "LoopEvent",
    "LoopPolicy",
    "MemoryBackend",
    "NoEffect",
    "Observer",
    "Quota",
    "ReplayedToolError",
    "ShadowReport",
    "TieredBackend",
    "ToolCall",
    "UnkeyableArgumentError",
    "UnrecordedCallError",
    "UnstorableResultError",
    "Validator",
    "__version__",
    "configure",
    "depends_on",
    "erase",
    "find_narrow_writes",
    "get_metrics",
    "no_cache",
    "refresh",
    "reset_metrics",
    "shadow_report",
    "watched",
]

# Importable from here like the rest, and loaded when first asked for: they need sqlite3 and redis-py. Not in __all__,
# so that a star import works where redis-py is not installed.
_ON_DEMAND = {"DiskBackend": "agent_cache.backends.disk", "RedisBackend": "agent_cache.backends.redis"}


def __getattr__(name: str) -> Any:
    if name in _ON_DEMAND:
        from importlib import import_module

        return getattr(import_module(_ON_DEMAND[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ON_DEMAND} - {"Any", "TYPE_CHECKING"})
