"""The backplane: word of every invalidation, and proof that none is missing.

One connection of its own, on the portal, made with RESP3 so that what is published and what is answered come in one
order. A beat asks to be subscribed (again) and for ``INFO replication`` on that connection: once both have been answered,
every invalidation this server had carried out by the time the beat was begun has been heard, the subscription stands,
and the server is still the primary it was. :attr:`Bus.proven` is the time, by uptime, up to which that is known.

Whatever breaks the order (a connection lost, another server, a silence) is told as "lost", and the near tier starts
empty. redis-py's own PubSub is not used: it reconnects silently.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from redis.exceptions import RedisError

from agent_cache.backends.portal import PORTAL
from agent_cache.backends.redis.blueprint import Blueprint
from agent_cache.backends.redis.records import Names
from agent_cache.backends.redis.wire import field_of
from agent_cache.clock import uptime

__all__ = ["Bus"]

log = logging.getLogger("agent_cache")
_FOREVER_AGO = -math.inf
_ID = 16
_DEAF_AFTER = 5.0  # seconds without proof after which people are told
_ANNOUNCED_FOR = 60  # seconds for which writers go on waiting after the last beat of any listener
_CONNECT = 2.0
_LONGEST_PAUSE = 1.0


class Bus:
    """One backend's ear. ``lease``: seconds for which proof is good."""

    def __init__(self, blueprint: Blueprint, names: Names, lease: float) -> None:
        # RESP2 would not take INFO on a connection that is subscribed
        self._blueprint = replace(blueprint, options={**blueprint.options, "protocol": 3})
        self._names = names
        self.lease = lease
        self.proven = _FOREVER_AGO
        self.incarnations = 0
        self.heard = 0
        self.deaf_alarms = 0
        self._listeners: list[tuple[Callable[[Sequence[bytes]], None], Callable[[], None]]] = []
        self._life: Future[None] | None = None
        self.closed = False
        self._last_error = ""

    def add(self, heard: Callable[[Sequence[bytes]], None], lost: Callable[[], None]) -> None:
        """Call these, on the portal: with the ids of tags that moved, and when some may have been missed."""
        self._listeners.append((heard, lost))
        if self._life is None:
            self._life = PORTAL.submit(self._live())

    @property
    def alive(self) -> bool:
        """Whether there is proof now."""
        return uptime() < self.proven + self.lease

    def state(self) -> dict[str, Any]:
        """For ``stats()`` and ``doctor``."""
        return {
            "alive": self.alive,
            "proof_age": None if self.proven == _FOREVER_AGO else uptime() - self.proven,
            "connections": self.incarnations,
            "heard": self.heard,
            "deaf_alarms": self.deaf_alarms,
            "last_error": self._last_error,
        }

    async def close(self) -> None:
        """Stop listening; near tiers have no proof from now on."""
        life = self._life
        self.stop()
        if life is not None:
            loop = PORTAL.loop
            if asyncio.get_running_loop() is not loop:
                await asyncio.wrap_future(PORTAL.submit(asyncio.sleep(0)))

    def stop(self) -> None:
        """:meth:`close` without waiting, from any thread."""
        life, self._life = self._life, None
        self.proven = _FOREVER_AGO
        self.closed = True
        if life is not None:
            life.cancel()

    async def _live(self) -> None:
        pause = self.lease / 4
        deaf_since = uptime()
        alarmed = False
        while True:
            try:
                await self._listen()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is listened on; said by the alarm and by stats()
                self._last_error = f"{type(error).__name__}: {error}"
            finally:
                proven, self.proven = self.proven, _FOREVER_AGO
                self._tell_lost()
            if proven != _FOREVER_AGO:
                deaf_since, alarmed, pause = proven, False, self.lease / 4
            if not alarmed and uptime() - deaf_since > _DEAF_AFTER:
                alarmed = True
                self.deaf_alarms += 1
                text = (
                    "the backplane at %s has been deaf for %.0f s (%s): near tiers ask Redis for every read meanwhile"
                )
                log.warning(text, self._blueprint.describe(), uptime() - deaf_since, self._last_error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _listen(self) -> None:
        """One incarnation: from a connection until it is lost, or nothing more can be proven."""
        connection = await self._blueprint.connection(None, _CONNECT)
        self.incarnations += 1
        self._tell_lost()  # what was said before we listened
        waiting: deque[float] = deque()
        beats = asyncio.get_running_loop().create_task(self._beat(connection, waiting))
        try:
            await self._hear(connection, waiting, beats)
        finally:
            beats.cancel()
            await connection.disconnect(nowait=True)

    async def _beat(self, connection: Any, waiting: deque[float]) -> None:
        """Every quarter of a lease: be subscribed, announce that somebody relies on it, and ask who is answering."""
        announce = ("SET", self._names.leases, repr(self.lease), "EX", _ANNOUNCED_FOR)
        while True:
            waiting.append(uptime())  # read before anything is sent
            commands = [("SUBSCRIBE", self._names.bus), announce, ("INFO", "replication")]
            await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            await asyncio.sleep(self.lease / 4)

    async def _hear(self, connection: Any, waiting: deque[float], beats: asyncio.Task[None]) -> None:
        server: tuple[bytes, ...] | None = None
        subscribed = announced = False
        while True:
            async with asyncio.timeout(max(1.0, 5 * self.lease)):  # silent though open: it is deaf
                reply = await connection.read_response(disable_decoding=True, push_request=True)
            if beats.done() and not beats.cancelled() and beats.exception() is not None:
                raise ConnectionError("the beat could not be sent")
            if isinstance(reply, list):
                kind = reply[0] if reply else b""
                if kind == b"subscribe":
                    if server is None and not subscribed:
                        self._tell_lost()  # what was fetched before we were heard of may have changed unheard
                    subscribed = True
                elif kind == b"message" and reply[1] == self._names.bus:
                    self._heard(reply[2])
                continue
            if reply == b"OK":
                announced = True
                continue
            if not isinstance(reply, bytes):
                raise RedisError(f"unexpected on the bus: {type(reply).__name__}")
            now = (field_of(reply, b"role"), field_of(reply, b"master_replid"))
            if now[0] != b"master" or (server is not None and now != server):
                raise ConnectionError(f"the server changed: role {now[0].decode('ascii', 'replace')}")
            server = now
            begun = waiting.popleft()
            if subscribed and announced:
                self.proven = begun
            subscribed = announced = False

    def _heard(self, message: bytes) -> None:
        self.heard += 1
        ids = [message[at : at + _ID] for at in range(0, len(message), _ID)]
        for heard, _ in list(self._listeners):
            heard(ids)

    def _tell_lost(self) -> None:
        for _, lost in list(self._listeners):
            lost()
