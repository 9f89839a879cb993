"""How long an answer may be served, and what may be served when that is over: what the user said, checked once.

Also what an exception says about when to ask again (``Retry-After``), and what a validator is. Pure: nothing here looks
anything up, loads, or waits; acting on it is the engine's business.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, timedelta
from email.utils import parsedate_to_datetime
from inspect import iscoroutinefunction
from typing import Any, cast

from agent_cache.clock import seconds
from agent_cache.errors import AgentCacheError, ConfigurationError, NoEffect

__all__ = ["ExpiredEntry", "Freshness", "Validator", "checked_freshness", "retry_after"]

_LONGEST_REST = 86_400.0  # seconds; a source that asks for more is asked again after a day
_DAY = 86_400.0
_MOST_BETA = 1e300  # what a float can hold, with room for a load time


@dataclass(frozen=True, slots=True)
class ExpiredEntry:
    """What a validator's ``check`` is asked about: an answer that is older than its ttl and that no write has dropped.

    Attributes:
        value: the answer, the validator's own copy.
        arguments: those of the call, by parameter name, defaults filled in.
        age: seconds since it was stored.
    """

    value: Any
    arguments: Mapping[str, Any]
    age: float


class Validator:
    """A cheap check that makes an expired answer fresh again without a load. Give exactly one of the two:

    Args:
        check: ``check(entry)`` with an :class:`ExpiredEntry` returns True where the answer still holds. For sources whose
            validator (an ETag, a row version) is part of the answer.
        version: ``version(arguments)`` returns the source's version: an ETag, ``(mtime, size, hash)``, a row version. It is
            taken before each load and compared when the answer has expired; None says that it cannot be told. For sources
            whose version is not part of the answer. Kept as a digest.
        keep: seconds for which an expired answer is kept to be validated.

    Each may be ``async def`` on an ``async def`` tool. What it raises is counted and told once, and the tool is run.

    Raises:
        ConfigurationError: naming the parameter, the value and the fix.
    """

    __slots__ = ("check", "keep", "version")

    def __init__(
        self,
        check: Callable[[ExpiredEntry], bool | Awaitable[bool]] | None = None,
        *,
        version: Callable[[Mapping[str, Any]], Any] | None = None,
        keep: float | timedelta = _DAY,
    ) -> None:
        if (check is None) == (version is None):
            raise ConfigurationError("check", check, "give either check= or version=, a function")
        for name, function in (("check", check), ("version", version)):
            if function is not None and not callable(function):
                raise ConfigurationError(name, function, "give a function")
        self.check = check
        self.version = version
        self.keep = _finite(keep, "keep", zero_ok=False)

    @property
    def is_async(self) -> bool:
        return iscoroutinefunction(self.check) or iscoroutinefunction(self.version)


@dataclass(frozen=True, slots=True)
class Freshness:
    """One read tool's rules, in seconds; 0 and None: not used."""

    stale_while_revalidate: float = 0.0
    stale_if_error: float = 0.0
    early_refresh: float = 0.0
    ttl_of: Callable[[Any], Any] | None = None
    errors: Mapping[type[Exception], float] = field(default_factory=dict)
    soft_timeout: float | None = None
    hard_timeout: float | None = None
    validator: Validator | None = None

    @property
    def grace(self) -> float:
        """Seconds for which an answer is kept beyond its ttl."""
        kept = self.validator.keep if self.validator is not None else 0.0
        return max(self.stale_while_revalidate, self.stale_if_error, kept)

    @property
    def is_timed(self) -> bool:
        return self.soft_timeout is not None or self.hard_timeout is not None

    def __bool__(self) -> bool:
        return self != _NONE


_NONE = Freshness()


def checked_freshness(
    ttl: object,
    *,
    stale_while_revalidate: object = 0,
    stale_if_error: object = 0,
    early_refresh: object = 0,
    cache_errors: object = None,
    soft_timeout: object = None,
    hard_timeout: object = None,
    revalidate: object = None,
) -> tuple[float | None, Freshness | None]:
    """The ttl where it is a number, and the rules; None where nothing beyond a plain ttl was asked for.

    Raises:
        ConfigurationError: naming the parameter, the value and the fix.
    """
    ttl_of = _checked_ttl_of(ttl)
    plain = None if ttl_of is not None else seconds(cast("float | timedelta | None", ttl), "ttl")
    soft = None if soft_timeout is None else _finite(soft_timeout, "soft_timeout", zero_ok=False)
    hard = None if hard_timeout is None else _finite(hard_timeout, "hard_timeout", zero_ok=False)
    made = Freshness(
        _finite(stale_while_revalidate, "stale_while_revalidate"),
        _finite(stale_if_error, "stale_if_error"),
        _checked_beta(early_refresh),
        ttl_of,
        _checked_errors(cache_errors),
        soft,
        hard,
        _checked_validator(revalidate),
    )
    if ttl is None:
        for name, given, used in (
            ("stale_while_revalidate", stale_while_revalidate, made.stale_while_revalidate),
            ("stale_if_error", stale_if_error, made.stale_if_error),
            ("early_refresh", early_refresh, made.early_refresh),
            ("revalidate", revalidate, made.validator),
        ):
            if used:
                raise ConfigurationError(name, given, "give a ttl= too: without one an answer never expires")
    if soft is not None and not made.stale_if_error:
        text = "give stale_if_error= too: it says how stale an answer may be that is given in place of a slow one"
        raise ConfigurationError("soft_timeout", soft_timeout, text)
    if soft is not None and hard is not None and soft >= hard:
        raise ConfigurationError("soft_timeout", soft_timeout, f"give less than hard_timeout={hard_timeout!r}")
    return plain, made or None


def _finite(value: object, parameter: str, *, zero_ok: bool = True) -> float:
    found = seconds(cast("float | timedelta | None", value), parameter, zero_ok=zero_ok)
    if found is None or math.isinf(found):
        fix = f"give a finite number of seconds {'from' if zero_ok else 'above'} 0, or a timedelta"
        raise ConfigurationError(parameter, value, fix)
    return found


def _checked_ttl_of(ttl: object) -> Callable[[Any], Any] | None:
    if not callable(ttl):
        return None
    if isinstance(ttl, type) or iscoroutinefunction(ttl):
        raise ConfigurationError("ttl", ttl, "give seconds, a timedelta, None, or a plain function of the result")
    return ttl


def _checked_beta(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _MOST_BETA:
        fix = "give a number from 0: 1.0 refreshes about one load's time before the end, 2.0 twice as early, 0 never"
        raise ConfigurationError("early_refresh", value, fix)
    return float(value)


def _checked_errors(given: object) -> Mapping[type[Exception], float]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigurationError(
            "cache_errors", given, "give a mapping from classes to seconds, such as {NotFound: 30}"
        )
    found: dict[type[Exception], float] = {}
    for kind, lasts in given.items():
        if not isinstance(kind, type) or not issubclass(kind, Exception) or kind is Exception:
            fix = "name classes of errors that are answers; cancellations, exits and Exception itself are none"
            raise ConfigurationError("cache_errors", kind, fix)
        if issubclass(kind, (AgentCacheError, NoEffect)):
            raise ConfigurationError("cache_errors", kind, "it is no answer of the tool's source; leave it out")
        found[kind] = _finite(lasts, f"cache_errors[{kind.__name__}]", zero_ok=False)
    return found


def _checked_validator(given: object) -> Validator | None:
    if given is None or isinstance(given, Validator):
        return given
    if isinstance(given, type) or not callable(given):
        raise ConfigurationError("revalidate", given, "give a function of the expired entry, or a Validator(...)")
    return Validator(cast("Callable[[ExpiredEntry], bool]", given))


# -- when to ask again ---------------------------------------------------------------------------------------------------


def retry_after(error: BaseException, now: Callable[[], float]) -> float | None:
    """Seconds for which the source wants to be left alone, where the exception carries that; a day at most.

    Looked for in ``error.retry_after`` (seconds or a timedelta), then in the header ``Retry-After`` (seconds, or a date)
    of ``error.response.headers`` and of ``error.headers``. ``now``: the wall clock, for a date where the answer carries
    none of its own.
    """
    try:
        said = _as_seconds(getattr(error, "retry_after", None))
        for holder in (getattr(error, "response", None), error):
            if said is None:
                said = _of_headers(getattr(holder, "headers", None), now)
    except Exception:  # noqa: BLE001 - somebody's property; then it says nothing
        return None
    return None if said is None else min(said, _LONGEST_REST)


def _as_seconds(value: object) -> float | None:
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        return None
    return float(value)


def _of_headers(headers: Any, now: Callable[[], float]) -> float | None:
    get = getattr(headers, "get", None)
    if get is None:
        return None
    text = get("Retry-After") or get("retry-after")
    if isinstance(text, bytes):
        text = text.decode("ascii", "replace")
    if not isinstance(text, str):
        return _as_seconds(text)
    text = text.strip()
    if text.isascii() and text.isdigit():
        return _as_seconds(int(text))
    until = _date(text)
    sent = _date(get("Date") or get("date"))
    return None if until is None else _as_seconds(until - (now() if sent is None else sent))


def _date(text: object) -> float | None:
    if not isinstance(text, str):
        return None
    try:
        when = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    return (when if when.tzinfo is not None else when.replace(tzinfo=UTC)).timestamp()
