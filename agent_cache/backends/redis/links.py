"""All wires of one backend: one per event loop and server, the Cluster's map of slots, and the breaker.

Also what is done when one fails: a lost connection is tried once more at once; after that, or when nothing answers in
time, the breaker opens, and while it is open whoever asks is told so without waiting, until a probe on the portal finds
Redis well again. What is asked, and what an answer means, is not known here.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import threading
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from concurrent.futures import Future

from redis.crc import key_slot
from redis.exceptions import ResponseError

from agent_cache.backends.portal import PORTAL
from agent_cache.backends.redis.blueprint import Address, Blueprint
from agent_cache.backends.redis.looks import Look
from agent_cache.backends.redis.plans import Group
from agent_cache.backends.redis.resp import Command
from agent_cache.backends.redis.wire import Replies, Wire, WireDownError
from agent_cache.errors import BackendError

__all__ = ["Links", "RefusedError"]

log = logging.getLogger("agent_cache")
_FIRST_PROBE, _LONGEST_PROBE = 0.05, 1.0  # seconds between probes of a Redis that is away
_PATIENCE_PAUSE = 0.05  # seconds between attempts of what must get through
_AWAY = ("READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "BUSY", "UNBLOCKED")
_AWAY_TYPES = ("ReadOnlyError", "ClusterDownError", "MasterDownError")
_MOVING_TYPES = ("AskError", "TryAgainError")
_MAX_MOVES = 4
_chance = random.Random()  # noqa: S311 - of our own: a program that seeds the common one is not to be disturbed
_inherited: list[object] = []


class RefusedError(BackendError):
    """Redis is there and will not do it; ``kind`` is redis-py's name for why."""

    def __init__(self, text: str, kind: str) -> None:
        super().__init__(text)
        self.kind = kind


def _named(refused: ResponseError) -> tuple[str, str]:
    """redis-py's name for an error, and the server's word; Redis 6.2 wraps those of a script's commands in its own text."""
    kind, text = type(refused).__name__, str(refused)
    inside = re.search(r"(?:^|[ :])-([A-Z]{3,}) ", text)
    word = inside[1] if inside else text.partition(" ")[0]
    if word == "OOM":
        kind = "OutOfMemoryError"
    return kind, word


class _LoopWires:
    """The wires of one event loop, closed with it."""

    def __init__(self) -> None:
        self.by_address: dict[Address | None, Wire] = {}
        self.guard = self._watch()

    async def _watch(self) -> AsyncGenerator[None, None]:
        """A generator that is left standing: a loop that shuts down finishes it, and with it the connections."""
        try:
            yield
        finally:
            await self.close()

    async def close(self) -> None:
        for wire in list(self.by_address.values()):
            await wire.close()


class Links:
    """How the backend asks Redis."""

    def __init__(self, blueprint: Blueprint, *, connect_timeout: float, op_timeout: float, epoch: bytes | None) -> None:
        self.blueprint = blueprint
        self.where = blueprint.describe()
        self.sharded = blueprint.kind == "cluster"
        self.is_idle: Callable[[], bool] = lambda: False
        """Whether whose links these are was closed: what was still on its way then must not keep a probe going for ever."""
        self.round_trips = 0
        """Batches sent so far, on all loops."""
        self._connect_timeout = connect_timeout
        self._op_timeout = op_timeout
        self._epoch = epoch
        self.start_anew()

    def start_anew(self) -> None:
        """Forget every connection: they are another process's after a fork."""
        if hasattr(self, "_loops"):  # a child must not close what it shares with its parent, not even by collecting it
            _inherited.append(dict(self._loops))
        self._lock = threading.Lock()
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopWires] = weakref.WeakKeyDictionary()
        self._here: tuple[asyncio.AbstractEventLoop | None, _LoopWires | None] = (None, None)  # who asked last
        self._slots: list[tuple[int, int, Address]] = []
        self._stale_slots = True
        self._down: dict[Address | None, str] = {}
        self._probers: dict[Address | None, Future[None]] = {}

    @property
    def down(self) -> str | None:
        """Why a breaker is open; None while all of Redis answers."""
        return next(iter(self._down.values()), None)

    # -- asking

    async def ask(self, slot: bytes, commands: Sequence[Command], *, wants_epoch: bool = False) -> Replies:
        """Ask once, or not at all while the breaker is open. What may be carried out twice without harm only.

        Raises:
            BackendError: Redis is away, or refused one of the commands.
        """
        return await self._asked(slot, lambda: commands, wants_epoch)

    async def ask_anew(self, slot: bytes, commands: Callable[[], Sequence[Command]]) -> Replies:
        """As :meth:`ask`, with the epoch, and with new commands where a connection was lost.

        The first ones may have been carried out unheard. A nonce in them must not come back: what was loaded under it
        would be current again, whatever was written since.
        """
        return await self._asked(slot, commands, wants_epoch=True)

    async def _asked(self, slot: bytes, commands: Callable[[], Sequence[Command]], wants_epoch: bool) -> Replies:
        if self._down and (why := self._down.get(self._known_address(slot))) is not None:
            raise WireDownError(why)
        try:
            return await self._ask_twice(slot, commands, wants_epoch)
        except WireDownError as error:
            self._trip(slot, error)
            raise

    async def _ask_twice(self, slot: bytes, commands: Callable[[], Sequence[Command]], wants_epoch: bool) -> Replies:
        """At once a second time, where a connection that had worked was lost."""
        try:
            return await self._ask(slot, commands(), wants_epoch)
        except WireDownError as error:
            if not error.was_up:
                raise
            return await self._ask(slot, commands(), wants_epoch)

    async def look(self, group: Group, entry: bytes | None, *, wants_left: bool = False) -> Look:
        """Read tags of one slot, and an entry beside them, with the epoch; as :meth:`ask` does, and raising what it raises."""
        if self._down and (why := self._down.get(self._known_address(group.slot))) is not None:
            raise WireDownError(why)
        try:
            try:
                return await self._look(group, entry, wants_left)
            except WireDownError as error:
                if not error.was_up:
                    raise
                return await self._look(group, entry, wants_left)
        except WireDownError as error:
            self._trip(group.slot, error)
            raise

    async def _look(self, group: Group, entry: bytes | None, wants_left: bool) -> Look:
        for _ in range(_MAX_MOVES):
            wire = self._wire(await self._address(group.slot) if self.sharded else None)
            try:
                return await wire.look(group, entry, wants_left=wants_left)
            except WireDownError:
                self._stale_slots = True
                raise
            except ResponseError as refused:
                self._judge(refused, wire)
        raise WireDownError(f"Redis at {self.where}: the slot keeps moving")

    async def ask_patiently(
        self, slot: bytes, commands: Callable[[], Sequence[Command]], patience: float, *, wants_epoch: bool = False
    ) -> Replies:
        """Ask until it gets through, for ``patience`` seconds (0: once); new commands for each attempt.

        The breaker is not asked.

        Raises:
            BackendError: it did not.
        """
        if not patience:
            return await self._ask_twice(slot, commands, wants_epoch)
        loop = asyncio.get_running_loop()
        until = loop.time() + patience
        while True:
            try:
                async with asyncio.timeout(max(0.05, until - loop.time())):
                    return await self._ask(slot, commands(), wants_epoch)
            except TimeoutError:
                raise WireDownError(f"Redis at {self.where}: no answer within {patience} s") from None
            except WireDownError as error:
                if loop.time() + _PATIENCE_PAUSE > until:
                    self._trip(slot, error)
                    raise
                await asyncio.sleep(_PATIENCE_PAUSE * _chance.uniform(0.5, 1.5))

    async def _ask(self, slot: bytes, commands: Sequence[Command], wants_epoch: bool) -> Replies:
        for _ in range(_MAX_MOVES):
            address = await self._address(slot) if self.sharded else None
            wire = self._wire(address)
            try:
                replies = await wire.ask(commands, wants_epoch=wants_epoch)
            except WireDownError:
                self._stale_slots = True  # a failover may have given the slot another server
                raise
            for refused in replies.values:
                if isinstance(refused, ResponseError):
                    self._judge(refused, wire)
                    break
            else:
                return replies
        raise WireDownError(f"Redis at {self.where}: the slot keeps moving")

    def _judge(self, refused: ResponseError, wire: Wire) -> None:
        """What a refusal means: ask again elsewhere (it returns), this server is not the one, or nothing is to be done.

        Raises:
            BackendError: all but the first.
        """
        kind, word = _named(refused)
        if self.sharded and kind == "MovedError":
            self._stale_slots = True
            return
        text = str(refused)
        if kind in _MOVING_TYPES:  # a slot on its way to another server: soon over, and no fault of this one
            self._stale_slots = True
            raise WireDownError(f"Redis at {self.where}: {kind}: {text[:200]}", is_outage=False)
        if kind in _AWAY_TYPES or word in _AWAY:
            wire.distrust()  # a demoted primary: look again who is in charge
            self._stale_slots = True
            raise WireDownError(f"Redis at {self.where}: {kind}: {text[:200]}", was_up=True)
        raise RefusedError(f"Redis at {self.where} refused a command: {kind}: {text[:300]}", kind)

    def _wire(self, address: Address | None) -> Wire:
        loop = asyncio.get_running_loop()
        here, mine = self._here
        if here is not loop:
            mine = self._loops.get(loop)
        if mine is None:
            with self._lock:
                for gone in [each for each in self._loops if each.is_closed()]:
                    del self._loops[gone]
                mine = self._loops[loop] = _LoopWires()
            start: Awaitable[None] = anext(mine.guard)
            try:
                start.__await__().send(None)  # up to its yield, which needs no loop
            except StopIteration:
                pass
        if here is not loop:
            self._here = loop, mine
        wire = mine.by_address.get(address)
        if wire is None:
            wire = mine.by_address[address] = Wire(
                lambda: self.blueprint.connection(address, self._connect_timeout),
                self.where if address is None else f"{address[0]}:{address[1]}",
                self._op_timeout,
                self._epoch,
                self._count,
            )
        return wire

    def _count(self) -> None:
        self.round_trips += 1

    # -- the Cluster's map

    async def _address(self, slot: bytes) -> Address:
        """The primary that owns a hash tag's slot."""
        number: int = key_slot(slot)
        for _ in range(2):
            if not self._stale_slots and (address := self._owner(number)) is not None:
                return address
            await self._learn_slots()
        raise WireDownError(f"Redis at {self.where}: no server owns slot {number}", was_up=True)

    def _owner(self, number: int) -> Address | None:
        return next((address for first, last, address in self._slots if first <= number <= last), None)

    def _known_address(self, slot: bytes) -> Address | None:
        """Which server's breaker is asked: the slot's owner as far as is known."""
        return self._owner(key_slot(slot)) if self.sharded else None

    async def _learn_slots(self) -> None:
        error: BackendError | None = None
        known = list(dict.fromkeys([*self.blueprint.nodes, *(address for _, _, address in self._slots)]))
        known.sort(key=lambda node: node in self._down)
        for node in known:
            try:
                replies = await self._wire(node).ask([("CLUSTER", "SLOTS")])
            except WireDownError as failed:
                error = failed
                continue
            rows = replies.values[0]
            if isinstance(rows, Exception):
                raise BackendError(f"Redis at {self.where} is no Cluster ({rows}); use redis:// for a single server")
            self._stale_slots = False
            self._slots = [
                (int(row[0]), int(row[1]), ((row[2][0] or node[0].encode()).decode(), int(row[2][1]))) for row in rows
            ]
            for _, _, address in self._slots:
                if address not in self.blueprint.nodes:
                    self.blueprint.nodes.append(address)
            return
        raise error or WireDownError(f"Redis at {self.where}: no node answers")

    async def primaries(self) -> list[bytes]:
        """A slot's name for each server that has to be asked to reach all keys."""
        if not self.sharded:
            return [b""]
        await self._address(b"0")
        chosen: dict[Address, bytes] = {}
        number = 0
        owners = {address for _, _, address in self._slots}
        while len(chosen) < len(owners) and number < 1_000_000:
            name = b"%d" % number
            chosen.setdefault(await self._address(name), name)
            number += 1
        return list(chosen.values())

    # -- the breaker

    def _trip(self, slot: bytes, error: WireDownError) -> None:
        """Nobody waits for this server any more, until a probe has been answered."""
        if not error.is_outage:
            return
        address = self._known_address(slot)
        with self._lock:
            if address in self._down:
                return
            self._down[address] = str(error)
        log.debug("the breaker is open: %s", error)
        self._probers[address] = PORTAL.submit(self._probe(address))

    async def _probe(self, address: Address | None) -> None:
        pause = _FIRST_PROBE
        while True:
            await asyncio.sleep(pause * _chance.uniform(0.5, 1.5))
            pause = min(pause * 2, _LONGEST_PROBE)
            try:
                if self.sharded:  # it may have been replaced: then nobody asks it any more
                    await self._learn_slots()
                if not self.sharded or address is None or any(address == owner for _, _, owner in self._slots):
                    await self._wire(address if self.sharded else None).ask([("PING",)], wants_epoch=True)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is not well yet; it is asked again
                if not self.is_idle():
                    self._down[address] = str(error)
                    continue
            self._down.pop(address, None)
            self._probers.pop(address, None)
            return

    # -- closing

    async def close(self) -> None:
        """Close this loop's connections, and the portal's; stop looking whether Redis is back."""
        self.stop()
        here = self._loops.get(asyncio.get_running_loop())
        if here is not None:
            await here.close()
        portal = next((loop for loop in list(self._loops) if loop is PORTAL._loop), None)
        if portal is not None and portal is not asyncio.get_running_loop():
            await asyncio.wrap_future(PORTAL.submit(self.close_here()))

    def stop(self) -> None:
        """Stop probing; from any thread."""
        probers, self._probers = self._probers, {}
        for prober in probers.values():
            prober.cancel()
        self._down = {}

    async def close_here(self) -> None:
        here = self._loops.get(asyncio.get_running_loop())
        if here is not None:
            await here.close()
