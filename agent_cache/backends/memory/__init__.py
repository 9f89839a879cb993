"""Entries, tags and write windows in this process's memory.

The reference implementation of the consistency rules of :mod:`agent_cache.backends.base`. Where to look:

records     what is kept: tags, snapshots, entries, tokens, windows
store       the protocol (``lookup``, ``fill``, ``begin``, ``end``, ``move``) and who makes room
keyvalue    a plain key-value cache beside the tools' entries
looking     going through what is stored: listing, checking, moving
backend     the asynchronous surface

Serving calls, running tools and counting do not belong here.
"""

from agent_cache.backends.memory.backend import MemoryBackend
from agent_cache.backends.memory.looking import MemoryStore
from agent_cache.backends.memory.records import Entry
from agent_cache.backends.memory.store import evictions_ever, live_stores

__all__ = ["Entry", "MemoryBackend", "MemoryStore", "evictions_ever", "live_stores"]
