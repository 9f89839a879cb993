"""How one boot of the machine is told from another: leases and deadlines go by a clock that starts with it."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from agent_cache.clock import uptime

__all__ = ["boot_id"]


def boot_id() -> bytes:
    """Eight bytes, the same for all processes of one boot."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        # When the machine was started, to ten minutes: the wall clock may be set while it runs. A wrong "other boot"
        # drops markers and moves their tags, which is safe.
        text = f"started {round((time.time() - uptime()) / 600)}"
    return hashlib.blake2b(text.encode(), digest_size=8).digest()
