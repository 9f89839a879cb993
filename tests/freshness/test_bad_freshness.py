"""What cannot be meant is said at decoration: the parameter, the value and the fix."""

from __future__ import annotations

import asyncio
import math
from datetime import timedelta
from typing import Any

import pytest

from agent_cache import AgentCache, ConfigurationError, LoadTimeoutError, NoEffect, Validator


async def _ttl(found: object) -> float:
    return 1.0


async def _check(entry: object) -> bool:
    return True


@pytest.mark.parametrize(
    ("how", "parameter", "fix"),
    [
        ({"stale_while_revalidate": -1, "ttl": 1}, "stale_while_revalidate", "number of seconds"),
        ({"stale_while_revalidate": "5", "ttl": 1}, "stale_while_revalidate", "seconds"),
        ({"stale_while_revalidate": None, "ttl": 1}, "stale_while_revalidate", "finite"),
        ({"stale_if_error": True, "ttl": 1}, "stale_if_error", "seconds"),
        ({"stale_if_error": math.inf, "ttl": 1}, "stale_if_error", "finite"),
        ({"stale_if_error": math.nan, "ttl": 1}, "stale_if_error", "positive"),
        ({"stale_if_error": 5}, "stale_if_error", "give a ttl"),
        ({"stale_while_revalidate": 5}, "stale_while_revalidate", "give a ttl"),
        ({"early_refresh": 1}, "early_refresh", "give a ttl"),
        ({"revalidate": lambda entry: True}, "revalidate", "give a ttl"),
        ({"early_refresh": -1, "ttl": 1}, "early_refresh", "from 0"),
        ({"early_refresh": True, "ttl": 1}, "early_refresh", "from 0"),
        ({"early_refresh": math.inf, "ttl": 1}, "early_refresh", "from 0"),
        ({"early_refresh": "1", "ttl": 1}, "early_refresh", "from 0"),
        ({"ttl": _ttl}, "ttl", "plain function"),
        ({"ttl": timedelta}, "ttl", "plain function"),
        ({"ttl": "5"}, "ttl", "seconds"),
        ({"soft_timeout": 1}, "soft_timeout", "stale_if_error"),
        ({"soft_timeout": 1, "ttl": 1}, "soft_timeout", "stale_if_error"),
        ({"soft_timeout": 2, "hard_timeout": 2, "ttl": 1, "stale_if_error": 1}, "soft_timeout", "less than hard"),
        ({"soft_timeout": 3, "hard_timeout": 2, "ttl": 1, "stale_if_error": 1}, "soft_timeout", "less than hard"),
        ({"hard_timeout": 0}, "hard_timeout", "positive"),
        ({"hard_timeout": math.inf}, "hard_timeout", "finite"),
        ({"hard_timeout": "1"}, "hard_timeout", "seconds"),
        ({"cache_errors": [KeyError]}, "cache_errors", "mapping"),
        ({"cache_errors": {Exception: 1}}, "cache_errors", "name classes"),
        ({"cache_errors": {BaseException: 1}}, "cache_errors", "name classes"),
        ({"cache_errors": {asyncio.CancelledError: 1}}, "cache_errors", "name classes"),
        ({"cache_errors": {KeyboardInterrupt: 1}}, "cache_errors", "name classes"),
        ({"cache_errors": {"KeyError": 1}}, "cache_errors", "name classes"),
        ({"cache_errors": {LoadTimeoutError: 1}}, "cache_errors", "no answer"),
        ({"cache_errors": {NoEffect: 1}}, "cache_errors", "no answer"),
        ({"cache_errors": {KeyError: 0}}, "cache_errors[KeyError]", "positive"),
        ({"cache_errors": {KeyError: None}}, "cache_errors[KeyError]", "finite"),
        ({"cache_errors": {KeyError: -3}}, "cache_errors[KeyError]", "positive"),
        ({"revalidate": 5, "ttl": 1}, "revalidate", "function"),
        ({"revalidate": Validator, "ttl": 1}, "revalidate", "function"),
    ],
)
def test_it_is_said_at_decoration(how: dict[str, Any], parameter: str, fix: str) -> None:
    with pytest.raises(ConfigurationError) as said:
        AgentCache("cart", **how)
    assert said.value.parameter == parameter
    assert fix in said.value.fix


@pytest.mark.parametrize(
    ("args", "how", "parameter"),
    [
        ((), {}, "check"),
        ((_check,), {"version": _check}, "check"),
        ((5,), {}, "check"),
        ((), {"version": "v1"}, "version"),
        ((_check,), {"keep": 0}, "keep"),
        ((_check,), {"keep": None}, "keep"),
        ((_check,), {"keep": -1}, "keep"),
    ],
)
def test_a_validator_is_checked_too(args: tuple[Any, ...], how: dict[str, Any], parameter: str) -> None:
    with pytest.raises(ConfigurationError) as said:
        Validator(*args, **how)
    assert said.value.parameter == parameter


@pytest.mark.parametrize("revalidate", [_check, Validator(version=_check)])
def test_a_def_tool_cannot_wait_for_an_async_validator(revalidate: Any) -> None:
    with pytest.raises(ConfigurationError, match="def tool"):

        @AgentCache("cart", ttl=1, revalidate=revalidate)
        def get_cart() -> int:
            return 1


def test_durations_may_be_timedeltas() -> None:
    @AgentCache(
        "cart",
        ttl=timedelta(seconds=1),
        stale_while_revalidate=timedelta(seconds=2),
        stale_if_error=timedelta(seconds=3),
        soft_timeout=timedelta(seconds=1),
        hard_timeout=timedelta(seconds=2),
        cache_errors={KeyError: timedelta(seconds=4)},
    )
    async def get_cart() -> int:
        return 1

    fresh = get_cart.__agent_cache__.policy.freshness  # type: ignore[attr-defined]
    assert (fresh.grace, fresh.soft_timeout, fresh.hard_timeout, fresh.errors) == (3.0, 1.0, 2.0, {KeyError: 4.0})


def test_nothing_asked_for_is_nothing_kept() -> None:
    @AgentCache("cart", ttl=5, jitter=0.1)
    async def get_cart() -> int:
        return 1

    assert get_cart.__agent_cache__.policy.freshness is None  # type: ignore[attr-defined]
