"""What is wrong with a Redis, and what mends it. Asked by people, never on the way of a call."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

from agent_cache.backends.base import Finding
from agent_cache.backends.redis.bus import Bus
from agent_cache.backends.redis.wire import field_of
from agent_cache.clock import uptime
from agent_cache.errors import BackendError

if TYPE_CHECKING:
    from agent_cache.backends.debts import Ledger
    from agent_cache.backends.redis.links import Links
    from agent_cache.backends.redis.records import Names

__all__ = ["diagnose", "owed"]

_LISTENING = 3.0  # seconds in which an ear has to have its first proof
_APART = 5.0  # seconds by which two clocks may differ before ages look odd


async def diagnose(links: Links, names: Names, bus: Bus | None, *, coherence: str, lease: float) -> list[Finding]:
    """Everything worth knowing, worst things included; never raises for what it finds.

    ``bus``: the one that is listening in this process; ``lease``: for one that is tried where there is none.
    """
    found: list[Finding] = []
    try:
        servers = await links.primaries()
        for server in servers:
            await links.ask_patiently(server, lambda: [("PING",)], 0.0)
    except BackendError as error:
        fix = "check address, user and password, TLS (rediss://), and that a Redis 6.2 or later runs there"
        return [Finding("error", "reachable", str(error), fix)]
    found.append(
        Finding("ok", "reachable", f"{links.where}, {len(servers)} primar{'y' if len(servers) == 1 else 'ies'}")
    )
    for server in servers:
        found += await _server(links, names, server)
    if links.down is not None:
        found.append(
            Finding("warning", "breaker", f"open: {links.down}", "it closes by itself once a probe is answered")
        )
    if coherence == "lease":
        found.append(_ear(bus) if bus is not None else await _tried(Bus(links.blueprint, names, lease)))
    return found


def owed(ledger: Ledger) -> Finding:
    """What waits in the file of what could not be delivered. Blocks."""
    try:
        many = len(ledger.entries())
    except BackendError as error:
        return Finding("error", "outbox", str(error), "make it readable and writable, or give another path")
    if not many:
        return Finding("ok", "outbox", f"{ledger!r}: nothing waits")
    fix = "they are delivered by the next process that uses this backend; or by this one, once Redis answers"
    return Finding(
        "warning", "outbox", f"{ledger!r}: {many} invalidation{'s' if many > 1 else ''} to be delivered", fix
    )


async def _tried(bus: Bus) -> Finding:
    """Nobody listens in this process: whether one could, for as long as it takes to know."""
    bus.add(lambda _: None, lambda: None)
    try:
        ends = uptime() + _LISTENING
        while not bus.alive and uptime() < ends:  # noqa: ASYNC110 - proofs come several times a second: none of them sets an event
            await asyncio.sleep(0.02)
        return _ear(bus)
    finally:
        await bus.close()


async def _server(links: Links, names: Names, server: bytes) -> list[Finding]:
    found: list[Finding] = []
    probe = names.prefix + b"{" + server + b"}doctor"
    questions: list[tuple[str, tuple[Any, ...]]] = [
        ("server", ("INFO", "server")),
        ("replication", ("INFO", "replication")),
        ("memory", ("INFO", "memory")),
        ("cluster", ("INFO", "cluster")),
        ("lua", ("EVAL", "return redis.call('SET', KEYS[1], '1', 'PX', 1000)", 1, probe)),
        ("publish", ("EVAL", "return redis.call('PUBLISH', KEYS[1], '')", 1, names.bus if not server else probe)),
        ("again", ("INFO", "server")),
        ("time", ("TIME",)),
    ]
    answers: dict[str, Any] = {}
    for name, command in questions:
        try:
            answers[name] = (await links.ask_patiently(server, lambda c=command: [c], 0.5)).values[0]  # type: ignore[misc]
        except BackendError as error:
            answers[name] = error
    found.append(_version(answers["server"]))
    found.append(_epoch(answers["replication"]))
    found.append(_scripts(answers["lua"]))
    found.append(_same_server(answers["server"], answers["again"]))
    found += _memory(answers["memory"])
    found += _clock(answers["time"], time.time())
    if isinstance(answers["publish"], Exception):
        fix = "allow this user PUBLISH (and &* or the bus's channel)"
        found.append(Finding("error", "backplane", f"PUBLISH is refused: {answers['publish']}", fix))
    if not links.sharded and isinstance(answers["cluster"], bytes) and b"cluster_enabled:1" in answers["cluster"]:
        found.append(Finding("error", "cluster", "this server is part of a Cluster", "use redis+cluster:// in the url"))
    return found


def _version(info: Any) -> Finding:
    if not isinstance(info, bytes):
        return Finding("warning", "version", f"INFO server is refused: {info}", "6.2 or later is needed")
    shown = (field_of(info, b"valkey_version") or field_of(info, b"redis_version")).decode("ascii", "replace")
    return Finding("ok", "version", shown)


def _epoch(info: Any) -> Finding:
    if not isinstance(info, bytes) or isinstance(info, ResponseError):
        fix = "allow this user INFO, or give epoch= and change it whenever data may have been lost"
        return Finding("error", "epoch", f"INFO replication is refused ({info}): nothing is cached", fix)
    role = field_of(info, b"role")
    if role != b"master":
        return Finding(
            "error", "epoch", f"role {role.decode('ascii', 'replace')}", "connect to the primary (redis+sentinel://)"
        )
    return Finding("ok", "epoch", "primary, replication id known")


def _scripts(answer: Any) -> Finding:
    if isinstance(answer, Exception):
        fix = "use a Redis with Lua, and allow this user EVAL, EVALSHA and the prefix's keys"
        return Finding("error", "scripts", f"a script that writes is refused: {answer}", fix)
    return Finding("ok", "scripts", "Lua runs and may write")


def _same_server(first: Any, second: Any) -> Finding:
    """A proxy that spreads one connection's commands over servers breaks the order that a hit rests on."""
    if isinstance(first, bytes) and isinstance(second, bytes):
        if field_of(first, b"run_id") != field_of(second, b"run_id"):
            fix = "connect to one server, or a Cluster by redis+cluster://, without a proxy that spreads commands"
            return Finding("error", "proxy", "two commands of one connection were answered by two servers", fix)
        return Finding("ok", "proxy", "one connection, one server")
    return Finding(
        "warning", "proxy", "not known without INFO server", "make sure no proxy spreads one connection's commands"
    )


def _clock(answer: Any, here: float) -> list[Finding]:
    """Nothing is decided by the hosts' clocks: ttls and leases go by the server's. What people are shown does."""
    if not isinstance(answer, (list, tuple)):
        return []  # not allowed, and nothing depends on it
    apart = here - int(answer[0]) - int(answer[1]) / 1e6
    if abs(apart) <= _APART:
        return [Finding("ok", "clock", f"within {_APART:.0f} s of this host's")]
    text = f"this host's is {abs(apart):.0f} s {'ahead' if apart > 0 else 'behind'}: ages and figures over time are off by that"
    return [Finding("warning", "clock", text, "let both hosts take their time from the same source (NTP)")]


def _memory(info: Any) -> list[Finding]:
    if not isinstance(info, bytes):
        return []
    policy = field_of(info, b"maxmemory_policy")
    limited = field_of(info, b"maxmemory") not in (b"", b"0")
    if limited and policy == b"noeviction":
        fix = "set maxmemory-policy to allkeys-lru (losing any of our keys is safe)"
        return [Finding("warning", "memory", "when it is full, it refuses fills and invalidations", fix)]
    return [Finding("ok", "memory", f"policy {policy.decode('ascii', 'replace')}, {'' if limited else 'not '}limited")]


def _ear(bus: Bus) -> Finding:
    state = bus.state()
    if not state["alive"]:
        fix = "allow this user SUBSCRIBE, SET and INFO; look for what holds back that one connection"
        return Finding("error", "backplane", f"deaf: {state['last_error'] or 'no proof of life'}", fix)
    return Finding("ok", "backplane", f"proof {state['proof_age']:.3f} s old, {state['heard']} messages heard")
