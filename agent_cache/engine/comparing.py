"""Whether what is stored is what the tool answers now: the same value, of the same types at every depth (promise P2)."""

from __future__ import annotations

from agent_cache.bounds import MAX_ENTRY_BYTES
from agent_cache.codecs import Failure, Stored, same
from agent_cache.engine.tools import ReadTool
from agent_cache.errors import UnstorableResultError
from agent_cache.flight import Landed

__all__ = ["differs"]


def differs(tool: ReadTool, stored: Stored, live: Landed) -> bool | None:
    """None where it cannot be told: the tool failed now, or returned what cannot be kept (a stream is not to be read).

    ``live.stored`` is made if it is not there: what cannot be kept is never compared.
    """
    if isinstance(stored, Failure):
        return _other_error(stored, live.error)
    if live.error is not None:
        fresh = tool.policy.freshness
        return True if fresh is not None and type(live.error) in fresh.errors else None
    try:
        if live.stored is None:
            live.stored = tool.codec.freeze(live.value, MAX_ENTRY_BYTES)
        return not same(stored.fresh(), live.stored.fresh())
    except UnstorableResultError:
        return None
    except Exception:  # noqa: BLE001 - somebody's __eq__; then nothing can be said
        return None


def _other_error(stored: Failure, error: BaseException | None) -> bool | None:
    if error is None:
        return True
    try:
        known = stored.error()
        return type(known) is not type(error) or not same(known.args, error.args)
    except Exception:  # noqa: BLE001 - as above
        return None
