"""Process-wide configuration, and which backend a call uses.

In this order: the decorator's, the session's, ``configure(backend=...)``, ``AGENT_CACHE_URL``, memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta
from inspect import iscoroutinefunction
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from agent_cache.backends.base import Backend, KeyValue, Leading, Revalidating
from agent_cache.backends.memory import MemoryBackend
from agent_cache.backends.packing import compress_option
from agent_cache.backends.tiered import TieredBackend
from agent_cache.backends.urls import without_password
from agent_cache.clock import seconds
from agent_cache.context import cool_all, sample_hot
from agent_cache.errors import ConfigurationError
from agent_cache.locks import renewed_after_fork
from agent_cache.model import Observer
from agent_cache.notices import Notices
from agent_cache.policy import checked_secret
from agent_cache.recording import Recording
from agent_cache.sampling import checked_rate
from agent_cache.shadowing import ShadowLog

__all__ = ["Settings", "backend_from_url", "configure", "recording", "settings", "tiered"]

_UNSET: Any = object()
MODES = ("on", "off", "shadow")


class Settings:
    """The configuration in force."""

    def __init__(self) -> None:
        self.lock = renewed_after_fork(self, "lock")
        self.notices = Notices()
        self.backend: Backend | None = None
        self.namespace = ""
        self.mode = "on"
        self.shadow: ShadowLog | None = None
        """The calls made in shadow mode; None while it is not on."""
        self.last_shadow = ShadowLog()
        self.verify = 0.0
        self.verifying_tools = False
        """Whether some tool asks for a sample of its own."""
        self.default_ttl: float | None = None
        self.on_unavailable = "proceed"
        self.store_args = False
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
                    url = (
                        os.environ.get("AGENT_CACHE_URL") or "memory://"
                    )  # set and empty is how a compose file says none
                    fallback = self._fallback = backend_from_url(url, "AGENT_CACHE_URL", secret=self.secret)
        return fallback

    def attend(self) -> None:
        """Let the reads know whether anybody wants to hear of them."""
        self.notices.attentive = bool(self.notices.observers) or self.verify > 0 or self.verifying_tools

    def forget_fallback(self) -> None:
        self._fallback = None


settings = Settings()
recording = Recording(settings.default_backend, settings.notices)


_KNOWN = (
    "this version knows memory:// (max_size, max_bytes, max_entry_bytes), disk:///path (max_bytes, max_size, "
    "max_entry_bytes, compress), redis://, rediss://, unix://, redis+cluster:// and redis+sentinel:// (prefix, coherence, "
    "outbox, max_entry_bytes, compress; and as for disk, near: entries of the near tier, 0 for none)"
)


def backend_from_url(url: str, parameter: str = "url", *, secret: bytes = b"") -> Backend:
    """A backend from its URL; what is not memory gets a near tier in memory before it, unless ``?near=0``.

    ``memory://?max_size=…&max_bytes=…``, ``disk:///path/to/file?max_bytes=…``, ``redis://…?prefix=…&coherence=lease``,
    with ``rediss``, ``unix``, ``redis+cluster`` and ``redis+sentinel`` in its place; ``near=`` is the number of entries
    of the near tier.

    Raises:
        ConfigurationError: an unknown scheme or option.
        ImportError: Redis without the ``redis`` extra.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ConfigurationError(parameter, without_password(url), _KNOWN) from None
    scheme = parts.scheme
    if scheme == "memory":
        limits: dict[str, Any] = {**_numbers(url, parameter, parts.query, ("max_size", "max_bytes", "max_entry_bytes"))}
        return MemoryBackend(**limits)
    near: int | None = 10_000
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if "near" in options:
        near = _number(url, parameter, options.pop("near"), "near")
    far: Backend
    if scheme == "disk":
        from agent_cache.backends.disk import DiskBackend

        packed = _compress(url, parameter, options)
        query = urlencode(options)
        path = unquote(parts.netloc + parts.path)
        if not path:
            raise ConfigurationError(parameter, without_password(url), "name the file: disk:///path/to/cache.db")
        limit: dict[str, Any] = {**_numbers(url, parameter, query, ("max_bytes", "max_size", "max_entry_bytes"))}
        far = DiskBackend(path, **limit, compress=packed, secret=secret or None)
    elif scheme in ("redis", "rediss", "unix") or scheme.partition("+")[0] in ("redis", "rediss"):
        from agent_cache.backends.redis import RedisBackend

        ours: dict[str, Any] = {
            name: options.pop(name) for name in ("prefix", "coherence", "outbox") if name in options
        }
        if "max_entry_bytes" in options:
            ours["max_entry_bytes"] = _number(url, parameter, options.pop("max_entry_bytes"), "max_entry_bytes")
        ours["compress"] = _compress(url, parameter, options)
        plain = urlunsplit(parts._replace(query=urlencode(options)))
        far = RedisBackend(plain, **ours, secret=secret or None)
    else:
        raise ConfigurationError(parameter, without_password(url), _KNOWN)
    return TieredBackend(MemoryBackend(near), far) if near else far


def _numbers(url: str, parameter: str, query: str, names: tuple[str, ...]) -> dict[str, int]:
    options: dict[str, int] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in names:
            raise ConfigurationError(parameter, without_password(url), f"there is no {name!r} behind its ?; {_KNOWN}")
        options[name] = _number(url, parameter, text, name)
    return options


def _compress(url: str, parameter: str, options: dict[str, str]) -> bool | int:
    """``compress=``, out of the options."""
    chosen = compress_option(options.pop("compress", "false"))
    if chosen is None:
        fix = "compress is true, false, or from how many bytes on"
        raise ConfigurationError(parameter, without_password(url), fix)
    return chosen


def _number(url: str, parameter: str, text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ConfigurationError(parameter, without_password(url), f"{name} is a whole number")
    return int(text)


_tiers: dict[tuple[int, int], TieredBackend] = {}


def tiered(remote: Backend | None, backup: Backend | None) -> Backend:
    """Memory before ``remote`` or ``backup``; with both, the copies near ``remote`` are kept in ``backup`` over restarts.

    The same ones again give the same tier: tools that share a far tier share the near one.

    Raises:
        ConfigurationError: one that cannot stand behind a near tier.
    """
    far = remote if remote is not None else backup
    name = "remote_cache" if remote is not None else "backup"
    if isinstance(far, TieredBackend):
        if remote is not None and backup is not None:
            raise ConfigurationError(
                name, far, "it has its memory already: give its far tier here, or leave backup= out"
            )
        return far
    if not isinstance(far, Revalidating) or not isinstance(far, Leading):
        raise ConfigurationError(name, far, "give a RedisBackend or a DiskBackend")
    if remote is not None and backup is not None and not isinstance(backup, KeyValue):
        raise ConfigurationError("backup", backup, "give a DiskBackend")
    keep = backup if remote is not None else None
    with settings.lock:
        tier = _tiers.get((id(far), id(keep)))  # a tier holds both, so an id is theirs as long as it stands here
        if tier is None:
            tier = _tiers[id(far), id(keep)] = TieredBackend(MemoryBackend(), far, keep=keep)
        return tier


def configure(
    *,
    backend: Backend | str | None = _UNSET,
    namespace: str = _UNSET,
    mode: str = _UNSET,
    observers: Iterable[Observer] = _UNSET,
    default_ttl: float | timedelta | None = _UNSET,
    on_unavailable: str = _UNSET,
    secret: str | bytes | None = _UNSET,
    record_stats: bool = _UNSET,
    store_args: bool = _UNSET,
    verify: float = _UNSET,
) -> None:
    """Set what is given, for the whole process; leave the rest. Call it before the first tool runs.

    Args:
        backend: used where neither decorator nor session names one; a backend, a URL, or None for a fresh default.
        namespace: part of every key; applications sharing a backend use different ones.
        mode: ``"on"``; ``"off"``: reads run live and keep nothing, writes still invalidate; or ``"shadow"``: reads run live,
            and what the cache would have answered is measured (see ``docs/shadow.md``).
        observers: receive one event per call. While there are any, no hit is answered on the fast path.
        default_ttl: seconds, for reads without a ``ttl``; None = no limit.
        on_unavailable: ``"proceed"`` or ``"refuse_writes"``: what a write does while a shared backend is out of reach.
        secret: keys become keyed digests, so that nobody can guess arguments from a store; and a backend made from a
            URL (here or by ``AGENT_CACHE_URL``) authenticates its entries with it. At most 64 bytes.
        record_stats: write sums per tool and minute (hits, misses, what was saved, what dropped what) to the backend, in
            the background; read them with ``await backend.recorded_stats()`` or ``agent-cache stats``. Minutes are kept
            for a day, hours for a week.
        store_args: keep each call's arguments as readable text (2,000 characters at most) in its entry, for
            ``agent-cache ls`` and ``show``. They are as sensitive as the tool's arguments are; they go with the entry.
            Not kept by a backend without labels, as one with a secret is unless it says ``labels=True``.
        verify: the part of all hits, from 0 to 1, whose tool is run again in the background to see whether what was served
            is what it answers now; ``get_metrics()["verify"]`` says how often it was not.

    Raises:
        ConfigurationError: naming the parameter, the value and the fix.
    """
    key = settings.secret if secret is _UNSET else checked_secret(None if secret in ("", b"") else secret)
    made = settings.backend if backend is _UNSET else _checked_backend(backend, key)
    if namespace is not _UNSET and not isinstance(namespace, str):
        raise ConfigurationError("namespace", namespace, "give a text")
    if mode is not _UNSET and (not isinstance(mode, str) or mode not in MODES):
        raise ConfigurationError("mode", mode, f"give one of {', '.join(map(repr, MODES))}")
    rate = settings.verify if verify is _UNSET else checked_rate(verify)
    listening = settings.notices.observers if observers is _UNSET else _checked_observers(observers)
    limit = settings.default_ttl if default_ttl is _UNSET else seconds(default_ttl, "default_ttl")
    if on_unavailable is not _UNSET and on_unavailable not in ("proceed", "refuse_writes"):
        raise ConfigurationError("on_unavailable", on_unavailable, "give 'proceed' or 'refuse_writes'")
    for parameter, flag in (("record_stats", record_stats), ("store_args", store_args)):
        if flag is not _UNSET and not isinstance(flag, bool):
            raise ConfigurationError(parameter, flag, "give True or False")
    # all of it is right: what is wrong changes nothing
    settings.secret, settings.verify, settings.default_ttl = key, rate, limit
    settings.notices.observers = listening
    if backend is not _UNSET:
        settings.backend = made
        settings.forget_fallback()
    if namespace is not _UNSET:
        settings.namespace = namespace
    if mode is not _UNSET:
        _set_mode(mode)
    if verify is not _UNSET:
        sample_hot(rate)
    if on_unavailable is not _UNSET:
        settings.on_unavailable = on_unavailable
    _remember(record_stats, store_args)
    settings.attend()
    name = settings.namespace.encode("utf-8", "surrogatepass")
    settings.key_space = len(name).to_bytes(4, "big") + name if name else b""
    cool_all()


def _checked_backend(backend: Any, key: bytes) -> Backend | None:
    made: Backend | None = backend_from_url(backend, "backend", secret=key) if isinstance(backend, str) else backend
    if made is not None and not hasattr(made, "lookup"):
        raise ConfigurationError("backend", backend, "give a backend such as MemoryBackend(), a URL, or None")
    return made


def _remember(record_stats: bool, store_args: bool) -> None:
    """What is written down for people."""
    if store_args is not _UNSET:
        settings.store_args = store_args
    if record_stats is True:
        recording.start()
    elif record_stats is False:
        recording.stop()


def _set_mode(mode: str) -> None:
    if mode != "shadow":
        settings.shadow = None
    elif settings.shadow is None:
        settings.shadow = settings.last_shadow = ShadowLog()
    settings.mode = mode


def _checked_observers(observers: Iterable[Observer]) -> tuple[Observer, ...]:
    if not isinstance(observers, Iterable):
        raise ConfigurationError("observers", observers, "give a list of observers, such as [log]")
    given = tuple(observers)
    for observer in given:
        if not callable(getattr(observer, "on_event", None)):
            raise ConfigurationError("observers", observer, "each observer needs a method on_event(event)")
        if iscoroutinefunction(observer.on_event):
            fix = "its on_event is not awaited: make it a plain method that hands the event on"
            raise ConfigurationError("observers", observer, fix)
    return given
