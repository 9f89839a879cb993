"""Which clock leases and deadlines go by, and how one boot of the machine is told from another."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

__all__ = ["boot_clock", "boot_id"]

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", None)


def boot_clock() -> float:
    """Seconds since the machine was started, time asleep included where the system tells; one clock for all processes."""
    return time.monotonic() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)


def boot_id() -> bytes:
    """Eight bytes, the same for all processes of one boot."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        # When the machine was started, to ten minutes: the wall clock may be set while it runs. A wrong "other boot"
        # drops markers and moves their tags, which is safe.
        text = f"started {round((time.time() - boot_clock()) / 600)}"
    return hashlib.blake2b(text.encode(), digest_size=8).digest()
