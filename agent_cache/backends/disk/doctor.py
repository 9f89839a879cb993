"""What is wrong with a cache file, and what mends it. Asked by people, never on the way of a call."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from agent_cache.backends.base import Finding
from agent_cache.errors import AgentCacheError

if TYPE_CHECKING:
    from agent_cache.backends.disk.backend import DiskBackend

__all__ = ["diagnose"]

_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "afs", "ceph", "glusterfs"}


async def diagnose(backend: DiskBackend) -> list[Finding]:
    """Never raises for what it finds."""
    path = backend.sync.path
    try:
        await backend.connect()
        await backend.move([("any", (), ("agent_cache doctor",))], "doctor")
        figures = await backend.stats()
    except AgentCacheError as error:
        return [Finding("error", "file", str(error), "see the text; until then tools run uncached")]
    found = [Finding("ok", "file", f"{path} opens, and an invalidation is on the disk when it says so")]
    kind = _file_system(path)
    if kind in _NETWORK:
        fix = "put the file on a local disk, or use RedisBackend"
        found.append(Finding("error", "file system", f"{kind}: SQLite's locks do not hold there", fix))
    elif kind:
        found.append(Finding("ok", "file system", kind))
    mode = _mode(path)
    if mode & 0o077 and os.name == "posix":
        found.append(Finding("warning", "permissions", f"{mode:04o}: others may read it", f"chmod 600 {path}"))
    else:
        found.append(Finding("ok", "permissions", f"{mode:04o}"))
    size, limit = figures["bytes"], backend.sync.max_bytes
    found.append(Finding("ok", "room", f"{size} of {limit} bytes, {figures['evictions']} evictions by this process"))
    dropped = figures.get("dropped_fills", 0)
    if dropped:
        fix = "a full disk, or more results at once than can be written; see the log"
        found.append(Finding("warning", "fills", f"{dropped} results were not kept", fix))
    return found


def _mode(path: str) -> int:
    return stat.S_IMODE(Path(path).stat().st_mode)


def _file_system(path: str) -> str:
    """Its kind, where the system says so (Linux); else empty."""
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    real = os.path.realpath(path)
    for line in mounts:
        fields = line.split()
        if len(fields) > 2:
            place = fields[1].encode().decode("unicode_escape")
            inside = real == place or real.startswith(place.rstrip("/") + "/")
            if inside and len(place) >= len(best):
                best, kind = place, fields[2]
    return kind
