"""What the doctor says of a Redis that is well, and of one that is not."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from agent_cache.backends.base import Finding
from agent_cache.backends.redis import RedisBackend, doctor
from agent_cache.backends.redis.doctor import _clock
from agent_cache.testing.servers import RedisServer


@pytest.fixture
async def backend(redis_server: RedisServer) -> AsyncIterator[RedisBackend]:
    made = RedisBackend(redis_server.url, prefix=f"d{os.urandom(4).hex()}:", coherence="lease")
    yield made
    await made.close()


def _of(found: list[Finding], check: str) -> list[Finding]:
    return [one for one in found if one.check == check]


async def test_all_is_well_says_the_doctor_of_a_redis_that_is(backend: RedisBackend) -> None:
    found = await backend.doctor()
    assert {one.level for one in found} == {"ok"}, found
    assert {"reachable", "version", "epoch", "scripts", "memory", "clock", "backplane"} <= {one.check for one in found}


async def test_what_the_doctor_wrote_is_not_said_to_be_somebody_elses(backend: RedisBackend) -> None:
    await backend.doctor()
    [names] = _of((await backend.integrity_check()).findings, "names")
    assert names.level == "ok"


async def test_where_nobody_listens_yet_it_is_tried_whether_one_could(
    redis_server: RedisServer, backend: RedisBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    [ear] = _of(await backend.doctor(), "backplane")
    assert (ear.level, ear.text[:5]) == ("ok", "proof")
    monkeypatch.setattr(doctor, "_LISTENING", 0.3)  # one that may not subscribe never has a proof
    user = f"u{os.urandom(4).hex()}"
    async with Redis.from_url(redis_server.url) as admin:
        await admin.acl_setuser(user, enabled=True, passwords=["+x"], keys=["*"], commands=["+@all", "-subscribe"])
        address = redis_server.url.partition("://")[2]
        deaf = RedisBackend(f"redis://{user}:x@{address}", prefix="d:", coherence="lease")
        try:
            found = _of(await deaf.doctor(), "backplane")
        finally:
            await deaf.close()
            await admin.acl_deluser(user)
    assert any(one.level == "error" and one.text.startswith("deaf") for one in found)


def test_clocks_that_are_apart_are_told() -> None:
    assert [one.level for one in _clock([100, 0], 104.0)] == ["ok"]
    [ahead], [behind] = _clock([100, 0], 110.0), _clock([100, 500_000], 90.0)
    assert (ahead.level, behind.level) == ("warning", "warning")
    assert ("10 s ahead" in ahead.text, "10 s behind" in behind.text) == (True, True)
    assert _clock(PermissionError(), 1.0) == []
