"""What the user said on a decorator, checked once: read and write policies.

Also the register of which scopes the reads of a resource have, which decides
whether a scoped write may stay narrow. No running code belongs here: a policy
is asked, it never acts.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from inspect import isawaitable, iscoroutine, iscoroutinefunction
from typing import TYPE_CHECKING, Any

from agent_cache.clock import seconds
from agent_cache.errors import ConfigurationError
from agent_cache.freshness import Freshness
from agent_cache.locks import renewed_after_fork
from agent_cache.loops import ToolRule
from agent_cache.model import KeyFn
from agent_cache.tags import Path, Template

if TYPE_CHECKING:
    from agent_cache.backends.base import Backend

__all__ = ["ReadPolicy", "WritePolicy", "checked_scope", "checked_templates", "scopes_of_reads"]

Ttl = float | timedelta | None


@dataclass(frozen=True, slots=True)
class ReadPolicy:
    """One read tool's policy. Times in seconds, ``None`` = no limit."""

    resources: tuple[Template, ...]
    scope: str
    scope_declared: bool
    ttl: float | None
    jitter: float
    maxsize: int | None
    cache_if: Callable[[Any], bool] | None
    cost: float
    backend: Backend | None
    loop: ToolRule
    freshness: Freshness | None = None
    """What is asked for beyond a plain ttl."""
    by_hand: bool = False
    """Its answers are dropped by hand too, and then on their own backend only."""
    verify: float | None = None
    """The part of its hits to verify; None: what is configured."""
    fixed_paths: tuple[Path, ...] | None = field(init=False, repr=False, compare=False)
    """What every call reads, where no resource has a placeholder."""

    def __post_init__(self) -> None:
        filled = [template.fill({}) for template in self.resources]
        fixed = tuple(path for path, _ in filled) if all(whole for _, whole in filled) else None
        object.__setattr__(self, "fixed_paths", fixed)

    @property
    def resource(self) -> str:
        """The name metrics go under: the first resource's first segment."""
        return self.resources[0].name

    @property
    def text(self) -> str:
        """The resources as they were written."""
        return ", ".join(template.text for template in self.resources)


@dataclass(frozen=True, slots=True)
class WritePolicy:
    """One write tool's policy."""

    resources: tuple[Template, ...]
    scope: str
    clear_all: bool
    key_fn: KeyFn | None
    no_effect: tuple[type[Exception], ...]
    no_effect_if: Callable[[Any], bool] | None
    backend: Backend | None
    loop: ToolRule
    names_result: bool = field(init=False, repr=False, compare=False)
    """Whether some resource is whole only once the tool has returned."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "names_result", any(template.names_result for template in self.resources))

    @property
    def resource(self) -> str:
        return self.resources[0].name


def checked_scope(scope: object) -> str:
    """``"global"``, ``"session"``, ``"lineage"`` or the name of an identity field.

    Raises:
        ConfigurationError: anything that cannot be one.
    """
    if not isinstance(scope, str) or not scope.isidentifier():
        raise ConfigurationError(
            "scope", scope, "give 'global', 'session', 'lineage' or the name of a field of the identity"
        )
    return scope


def checked_templates(resource: object, parameters: Iterable[str], *, of_write: bool = False) -> tuple[Template, ...]:
    """One resource or a list of them, parsed against the tool's parameters; a write's may name its result too."""
    known = list(parameters)
    texts = [resource] if isinstance(resource, str) else resource
    if not isinstance(texts, (list, tuple)) or not texts:
        raise ConfigurationError(
            "resource", resource, "give a name such as 'cart' or 'cart:{user_id}', or a list of them"
        )
    return tuple(Template.parse(text, known, of_write=of_write) for text in texts)


def checked_labels(value: object, *, sealed: bool) -> bool:
    """Whether entries are labelled: as said, else unless they are sealed.

    Raises:
        ConfigurationError: neither a bool nor None.
    """
    if value is not None and not isinstance(value, bool):
        raise ConfigurationError("labels", value, "give True or False, or None for: unless there is a secret")
    return not sealed if value is None else value


def checked_maxsize(maxsize: object, parameter: str = "maxsize") -> int | None:
    if maxsize is None:
        return None
    if isinstance(maxsize, bool) or not isinstance(maxsize, int) or maxsize < 1:
        raise ConfigurationError(parameter, maxsize, "give a whole number of entries from 1, or None for no limit")
    return maxsize


def checked_key(key: object) -> str:
    """A key of the key-value surface, which is text on every backend."""
    if not isinstance(key, str):
        raise ConfigurationError("key", key, "a key of the key-value surface is a str")
    return key


def checked_secret(secret: object, most: int | None = 64) -> bytes:
    """A secret as bytes; empty for None. It is never shown."""
    try:
        raw = b"" if secret is None else secret.encode() if isinstance(secret, str) else secret
    except UnicodeEncodeError:  # lone surrogates
        raw = None
    if not isinstance(raw, bytes) or (secret is not None and not raw) or (most is not None and len(raw) > most):
        fix = "give a text or bytes, or None" if most is None else f"give a text or 1 to {most} bytes, or None"
        raise ConfigurationError("secret", "…", fix)
    return raw


def checked_keys(keys: object) -> list[str]:
    """Keys of the key-value surface: several, and not the letters of one."""
    if isinstance(keys, (str, bytes)) or not isinstance(keys, Iterable):
        raise ConfigurationError("keys", keys, "give several keys, such as a list of str")
    return [checked_key(key) for key in keys]


def checked_items(items: object) -> Mapping[str, Any]:
    """Keys and values of the key-value surface."""
    if not isinstance(items, Mapping):
        raise ConfigurationError("items", items, "give a mapping from keys to values")
    for key in items:
        checked_key(key)
    return items


def checked_pattern(pattern: object) -> str:
    """A glob over keys of the key-value surface."""
    if not isinstance(pattern, str):
        raise ConfigurationError("pattern", pattern, "give a glob as a str, such as 'user:*'")
    return pattern


def checked_ttl(ttl: Ttl) -> float | None:
    return seconds(ttl, "ttl")


def checked_fraction(value: object, parameter: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ConfigurationError(parameter, value, "give a fraction from 0 up to, but not including, 1")
    return float(value)


def checked_callable(value: object, parameter: str, example: str) -> None:
    if value is not None and not callable(value):
        raise ConfigurationError(parameter, value, f"give a function, such as {example}")
    if iscoroutinefunction(value) or iscoroutinefunction(getattr(value, "__call__", None)):  # noqa: B004 - of an object
        raise ConfigurationError(parameter, value, f"give a plain function, not a coroutine one, such as {example}")


def decided(said: object) -> bool:
    """What a predicate of the user's said.

    Raises:
        TypeError: an awaitable, which is always true and says nothing.
    """
    if isawaitable(said):
        if iscoroutine(said):
            said.close()
        raise TypeError("it returned an awaitable; give a plain function")
    return bool(said)


class _ReadRegister:
    """Which scopes the reads of each resource have, as far as this process knows. Only grows; bounded by the code."""

    def __init__(self) -> None:
        self._lock = renewed_after_fork(self, "_lock")
        self._scopes: dict[str | None, set[str]] = {}
        # by id, in the order they were named: runs are reproducible
        self._backends: dict[str | None, weakref.WeakValueDictionary[int, Any]] = {}
        self._without: set[str | None] = set()
        """The resources some read of which names no backend."""

    def add(self, policy: ReadPolicy) -> None:
        with self._lock:
            for template in policy.resources:
                self._scopes.setdefault(template.head, set()).add(policy.scope)
                if policy.backend is not None:
                    named = self._backends.setdefault(template.head, weakref.WeakValueDictionary())
                    named[id(policy.backend)] = policy.backend
                else:
                    self._without.add(template.head)

    def read_too(self, head: str, scope: str, backend: Backend | None) -> bool:
        """A tool of this scope turned out to read this resource, on a backend of its own or (None) on whatever it is asked
        on. Tells whether that was known."""
        with self._lock:
            scopes = self._scopes.setdefault(head, set())
            known = scope in scopes
            scopes.add(scope)
            if backend is not None:
                named = self._backends.setdefault(head, weakref.WeakValueDictionary())
                known = known and named.get(id(backend)) is backend
                named[id(backend)] = backend
            elif head not in self._without:
                known = False
                self._without.add(head)
            return known

    def backends_of(self, templates: Iterable[Template]) -> list[Backend]:
        """The backends that reads of these resources were declared with: a write has to reach them too."""
        with self._lock:
            if not self._backends:
                return []
            found: dict[int, Backend] = {}
            for template in templates:
                heads = list(self._backends) if template.head is None else [template.head, None]
                for head in heads:
                    named = self._backends.get(head)
                    found |= dict(named.items()) if named is not None else {}  # one that goes meanwhile is passed over
            return list(found.values())

    def all_backends(self) -> list[Backend]:
        """Every backend that a read was declared with."""
        with self._lock:
            return list({key: each for named in self._backends.values() for key, each in list(named.items())}.values())

    def some_name_none(self, templates: Iterable[Template]) -> bool:
        """Whether some read of these resources names no backend: it is on its session's, else on the configured one."""
        with self._lock:
            return any(
                bool(self._without) if template.head is None else bool(self._without & {template.head, None})
                for template in templates
            )

    def all_have(self, templates: Iterable[Template], scope: str) -> bool:
        """Whether every known read of these resources has exactly this scope; those by lineage hang on no tag of theirs.

        A template that begins with a placeholder may be any resource.
        """
        with self._lock:
            for template in templates:
                heads = list(self._scopes) if template.head is None else [template.head, None]
                scopes = set().union(*(self._scopes.get(head, set()) for head in heads))
                if scopes - {scope, "lineage"}:
                    return False
        return True


scopes_of_reads = _ReadRegister()

__all__ += ["checked_callable", "checked_fraction", "checked_key", "checked_maxsize", "checked_ttl"]
