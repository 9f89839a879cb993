"""Moving what is stored, and checking it: files, their format, and the doors that every backend has.

One implementation for all backends, over what :class:`~agent_cache.backends.base.Scanning` and the protocol of fills give.
``format`` is bytes and records, ``files`` is threads and disks, ``leaving`` and ``arriving`` decide what is moved,
``checking`` looks whether it is sound, ``looking`` is for people at a terminal, ``doors`` are the methods. How a backend
stores anything is not known here.
"""

from agent_cache.moving.arriving import import_
from agent_cache.moving.checking import integrity_check
from agent_cache.moving.doors import Movable, MovableBlocking, MovableFace
from agent_cache.moving.erasing import Targets
from agent_cache.moving.leaving import export
from agent_cache.moving.reports import EraseReport, IntegrityReport, MoveReport

__all__ = [
    "EraseReport",
    "IntegrityReport",
    "Movable",
    "MovableBlocking",
    "MovableFace",
    "MoveReport",
    "Targets",
    "export",
    "import_",
    "integrity_check",
]
