"""Locks that a fork leaves usable.

A child is born with every lock in the state some other thread of its parent had it in, and without
that thread. Owners register their lock here, and get a fresh one in the child.
"""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import AbstractContextManager
from typing import Any

__all__ = ["renewed_after_fork"]

_owners: weakref.WeakKeyDictionary[object, str] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def renewed_after_fork(owner: object, attribute: str) -> AbstractContextManager[Any]:
    """A reentrant lock for ``owner.attribute``: a collected coroutine may come back into code that holds it."""
    with _lock:
        _owners[owner] = attribute
    return threading.RLock()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    for owner, attribute in list(_owners.items()):
        setattr(owner, attribute, threading.RLock())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
