"""What is wrong with a Redis, and what mends it. Asked by people, never on the way of a call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

from agent_cache.backends.base import Finding
from agent_cache.backends.redis.wire import field_of
from agent_cache.errors import BackendError

if TYPE_CHECKING:
    from agent_cache.backends.redis.bus import Bus
    from agent_cache.backends.redis.links import Links
    from agent_cache.backends.redis.records import Names

__all__ = ["diagnose"]


async def diagnose(links: Links, names: Names, bus: Bus | None, *, coherence: str) -> list[Finding]:
    """Everything worth knowing, worst things included; never raises for what it finds."""
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
        found.append(_ear(bus))
    return found


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


def _memory(info: Any) -> list[Finding]:
    if not isinstance(info, bytes):
        return []
    policy = field_of(info, b"maxmemory_policy")
    limited = field_of(info, b"maxmemory") not in (b"", b"0")
    if limited and policy == b"noeviction":
        fix = "set maxmemory-policy to allkeys-lru (losing any of our keys is safe)"
        return [Finding("warning", "memory", "when it is full, it refuses fills and invalidations", fix)]
    return [Finding("ok", "memory", f"policy {policy.decode('ascii', 'replace')}, {'' if limited else 'not '}limited")]


def _ear(bus: Bus | None) -> Finding:
    if bus is None:
        return Finding("warning", "backplane", "no near tier listens yet", "it is opened with the first read")
    state = bus.state()
    if not state["alive"]:
        fix = "allow this user SUBSCRIBE, SET and INFO; look for what holds back that one connection"
        return Finding("error", "backplane", f"deaf: {state['last_error'] or 'no proof of life'}", fix)
    return Finding("ok", "backplane", f"proof {state['proof_age']:.3f} s old, {state['heard']} messages heard")
