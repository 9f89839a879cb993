"""Where workers talk to the referee: one socket, one loop, one message after another.

What belongs here: which message means which event, who is connected, how long calls take, lying in wait for an event.
What does not: verdicts, and starting or breaking anything.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from agent_cache.testing.processes.channel import Channel
from agent_cache.testing.processes.referee import Referee, Write

__all__ = ["Desk"]

HANG = 10.0
"""Seconds after which a call counts as hanging while nothing is broken,"""
HANG_BROKEN = 30.0
"""and if something was broken meanwhile."""


class Desk:
    """Receives every message of every worker."""

    def __init__(self, referee: Referee, grace: float) -> None:
        self.referee = referee
        self.channels: dict[int, Channel] = {}
        self.hangs = 0
        self.stuck = 0
        self.uncached = 0
        self.faults_running = 0
        self.last_fault = 0.0
        self.arrived: dict[int, asyncio.Future[None]] = {}
        """Workers that have been started and not yet been heard of."""
        self._grace = grace
        self._left: set[int] = set()
        self._gone: dict[int, asyncio.Future[None]] = {}
        self._buried: list[tuple[float, Write]] = []
        self._done: dict[tuple[int, str], asyncio.Future[None]] = {}
        self._ambush: tuple[str, asyncio.Future[int], Callable[[int], object]] | None = None
        self._server: asyncio.Server | None = None

    async def open(self, path: str) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: Channel(self._hear, self._hung_up), path)

    def close(self) -> None:
        """Hang up on everyone: workers that are still there end themselves."""
        if self._server is not None:
            self._server.close()
        for channel in self.channels.values():
            channel.close()

    # -- what the runner and the faults ask for -----------------------------------------------------------------

    def expect(self, worker: int) -> asyncio.Future[None]:
        """Ends when this worker has connected."""
        future = self.arrived[worker] = asyncio.get_running_loop().create_future()
        self._gone[worker] = asyncio.get_running_loop().create_future()
        return future

    def gone(self, worker: int) -> asyncio.Future[None]:
        """Ends when everything this worker ever said has been heard."""
        return self._gone[worker]

    def order(self, worker: int, word: str, *rest: Any) -> asyncio.Future[None]:
        """Tell a worker to do something; ends when it says that it has."""
        future = self._done[worker, word] = asyncio.get_running_loop().create_future()
        self.tell(worker, word, *rest)
        return future

    def tell(self, worker: int, word: str, *rest: Any) -> None:
        """Tell a worker something."""
        self.channels[worker].say([0, word, *rest])

    async def lie_in_wait(self, word: str, strike: Callable[[int], object], seconds: float) -> int | None:
        """The next time a worker says ``word``, call ``strike(worker)`` at once, before it is answered.

        ``wt``: a write tool has begun; ``wc``: it has committed; ``ls``: a load has looked at the source.
        """
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._ambush = (word, future, strike)
        try:
            return await asyncio.wait_for(future, seconds)
        except TimeoutError:
            return None
        finally:
            self._ambush = None

    # -- messages -----------------------------------------------------------------------------------------------

    def _hear(self, channel: Channel, message: list[Any]) -> None:
        number, word = message[0], message[1]
        worker, referee = channel.peer, self.referee
        answer: Any = 0
        if word == "rb":
            referee.read_begins(worker, time.monotonic(), *message[2:])
        elif word == "re":
            self._check_duration(referee.readings[message[2]].began, "a read")
            referee.read_ends(message[2], message[3])
        elif word == "lb":
            referee.load_begins(worker, *message[2:])
        elif word == "ls":
            answer = referee.sample(message[2])
        elif word == "le":
            referee.load_ends(message[2])
        elif word == "wb":
            referee.write_begins(worker, time.monotonic(), *message[2:])
        elif word == "wt":
            referee.tool_enters(message[2])
        elif word == "wc":
            referee.commit(message[2], message[3])
        elif word == "we":
            referee.tool_ends(message[2], heard=bool(number))
        elif word == "wr":
            self._check_duration(referee.open[message[2]].began, "a write")
            referee.write_ends(*message[2:])
        else:
            answer = self._hear_seldom(channel, word, message[2:])
        if self._ambush is not None and self._ambush[0] == (message[2] if word == "at" else word):
            _, future, strike = self._ambush
            self._ambush = None
            strike(worker)
            if not future.done():
                future.set_result(worker)
        if number:
            channel.say([number, answer])

    def _hear_seldom(self, channel: Channel, word: str, rest: list[Any]) -> Any:
        referee, worker = self.referee, channel.peer
        if word == "rx":
            self._check_duration(referee.readings[rest[0]].began, "a read")
            wrong = referee.read_fails(*rest)
            if wrong is not None:
                referee.fails(wrong)
        elif word == "ob":
            referee.own_begins(worker, time.monotonic(), *rest)
        elif word in ("oe", "ow"):
            self._check_duration(referee.own[rest[0]].began, "a call")
            (referee.own_read_ends if word == "oe" else referee.own_write_ends)(*rest)
        elif word == "ol":
            referee.own_load_begins(rest[0])
        elif word == "at":
            pass  # for whoever lies in wait
        elif word == "wl":
            referee.commit_late(worker, rest[0])
        elif word == "current":
            return [referee.current(rest[0]), referee.is_lost(rest[0])]
        elif word == "spurious":
            referee.fails(f"worker {worker}: {rest[0]}")
        elif word == "stuck":
            self.stuck += 1
            referee.example(f"stuck: worker {worker}: {rest[0]}")
        elif word == "uncached":
            self.uncached += 1
            referee.example(f"not cached again: worker {worker}: {rest[0]}")
        elif word == "done":
            self._done.pop((worker, rest[0])).set_result(None)
        elif word == "hello":
            channel.peer = rest[0]
            self.channels[rest[0]] = channel
            self.arrived.pop(rest[0]).set_result(None)
        elif word == "bye":
            self._left.add(worker)
        else:
            raise ValueError(f"unknown message {word!r} of worker {worker}")
        return 0

    def _check_duration(self, began: float, what: str) -> None:
        took = time.monotonic() - began
        if took > HANG and (took > HANG_BROKEN or not (self.faults_running or self.last_fault > began)):
            self.hangs += 1
            self.referee.example(f"hang: {what} took {took:.1f} s")

    def _hung_up(self, channel: Channel) -> None:
        worker = channel.peer
        if worker < 0:
            return
        self.channels.pop(worker, None)
        for key in [key for key in self._done if key[0] == worker]:
            self._done.pop(key).set_result(None)
        writes = self.referee.died(worker)
        if self._grace:
            asyncio.get_running_loop().call_later(self._grace, self._bury, writes)
        else:
            self._bury(writes)
        if not self._gone[worker].done():
            self._gone[worker].set_result(None)
        if worker not in self._left and not writes:
            self.referee.ended_by["(died idle)"] += 1

    def _bury(self, writes: list[Write]) -> None:
        for write in writes:
            self.referee.buried(write)

    def overdue(self, longest: float) -> list[str]:
        """Calls that are not over after so many seconds."""
        now = time.monotonic()
        old = [f"{r.key} in worker {r.worker}" for r in self.referee.readings.values() if now - r.began > longest]
        old += [f"{own.what} in worker {own.worker}" for own in self.referee.own.values() if now - own.began > longest]
        return old + [f"a write in worker {w.worker}" for w in self.referee.open.values() if now - w.began > longest]
