"""Process-wide configuration, and which backend a call uses.

In this order: the decorator's, the session's, ``configure(backend=...)``, ``AGENT_CACHE_URL``, memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from agent_cache.backends.base import Backend
from agent_cache.backends.memory import MemoryBackend
from agent_cache.clock import seconds
from agent_cache.context import cool_all
from agent_cache.errors import ConfigurationError
from agent_cache.locks import renewed_after_fork
from agent_cache.model import Observer
from agent_cache.notices import Notices

__all__ = ["Settings", "backend_from_url", "configure", "settings"]

_UNSET: Any = object()
MODES = ("on", "off")


class Settings:
    """The configuration in force."""

    def __init__(self) -> None:
        self.lock = renewed_after_fork(self, "lock")
        self.notices = Notices()
        self.backend: Backend | None = None
        self.namespace = ""
        self.mode = "on"
        self.default_ttl: float | None = None
        self.on_unavailable = "proceed"
        self.secret: bytes = b""
        self._fallback: Backend | None = None
        self.key_space = b""

    def default_backend(self) -> Backend:
        """What is used where nothing else is named; made on first use."""
        if self.backend is not None:
            return self.backend
        fallback = self._fallback
        if fallback is None:
            with self.lock:
                fallback = self._fallback
                if fallback is None:
                    url = os.environ.get("AGENT_CACHE_URL", "memory://")
                    fallback = self._fallback = backend_from_url(url, "AGENT_CACHE_URL")
        return fallback

    def forget_fallback(self) -> None:
        self._fallback = None


settings = Settings()


def backend_from_url(url: str, parameter: str = "url") -> Backend:
    """A backend from its URL: ``memory://`` (``?max_size=…&max_bytes=…``).

    Raises:
        ConfigurationError: an unknown scheme or option.
    """
    parts = urlsplit(url)
    if parts.scheme != "memory":
        raise ConfigurationError(parameter, url, "this version knows memory:// (with ?max_size= and ?max_bytes=)")
    options: dict[str, Any] = {}
    for name, text in parse_qsl(parts.query):
        if name not in ("max_size", "max_bytes") or not text.isdigit():
            raise ConfigurationError(parameter, url, "memory:// takes max_size and max_bytes, whole numbers")
        options[name] = int(text)
    return MemoryBackend(**options)


def configure(
    *,
    backend: Backend | str | None = _UNSET,
    namespace: str = _UNSET,
    mode: str = _UNSET,
    observers: Iterable[Observer] = _UNSET,
    default_ttl: float | timedelta | None = _UNSET,
    on_unavailable: str = _UNSET,
    secret: str | bytes | None = _UNSET,
) -> None:
    """Set what is given, for the whole process; leave the rest. Call it before the first tool runs.

    Args:
        backend: used where neither decorator nor session names one; a backend, a URL, or None for a fresh default.
        namespace: part of every key; applications sharing a backend use different ones.
        mode: ``"on"``, or ``"off"``: reads run live and keep nothing, writes still invalidate.
        observers: receive one event per call. While there are any, no hit is answered on the fast path.
        default_ttl: seconds, for reads without a ``ttl``; None = no limit.
        on_unavailable: ``"proceed"`` or ``"refuse_writes"``: what a write does while a shared backend is out of reach.
        secret: keys become keyed digests, so that nobody can guess arguments from a store.

    Raises:
        ConfigurationError: naming the parameter, the value and the fix.
    """
    if backend is not _UNSET:
        made = backend_from_url(backend, "backend") if isinstance(backend, str) else backend
        if made is not None and not hasattr(made, "lookup"):
            raise ConfigurationError("backend", backend, "give a backend such as MemoryBackend(), a URL, or None")
        settings.backend = made
        settings.forget_fallback()
    if namespace is not _UNSET:
        if not isinstance(namespace, str):
            raise ConfigurationError("namespace", namespace, "give a text")
        settings.namespace = namespace
    if mode is not _UNSET:
        if mode not in MODES:
            raise ConfigurationError("mode", mode, f"give one of {', '.join(map(repr, MODES))}")
        settings.mode = mode
    if observers is not _UNSET:
        given = tuple(observers)
        for observer in given:
            if not callable(getattr(observer, "on_event", None)):
                raise ConfigurationError("observers", observer, "each observer needs a method on_event(event)")
        settings.notices.observers = given
    if default_ttl is not _UNSET:
        settings.default_ttl = seconds(default_ttl, "default_ttl")
    if on_unavailable is not _UNSET:
        if on_unavailable not in ("proceed", "refuse_writes"):
            raise ConfigurationError("on_unavailable", on_unavailable, "give 'proceed' or 'refuse_writes'")
        settings.on_unavailable = on_unavailable
    if secret is not _UNSET:
        raw = secret.encode() if isinstance(secret, str) else (secret or b"")
        if len(raw) > 64:
            raise ConfigurationError("secret", "…", "give at most 64 bytes")
        settings.secret = raw
    name = settings.namespace.encode("utf-8", "surrogatepass")
    settings.key_space = len(name).to_bytes(4, "big") + name if name else b""
    cool_all()
