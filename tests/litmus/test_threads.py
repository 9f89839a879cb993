"""A write wins between threads too: ``def`` tools whose threads are led through every interleaving by hand.

A *stage* lets one thread at a time go on to its next mark; a thread that waits for another's load is known to wait, not
guessed to. Nothing here waits for time or luck: the timeouts only end a test that hangs.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import pytest

from agent_cache import AgentCache, AgentCacheInvalidator, MemoryBackend, get_metrics
from agent_cache.flight import Flight, FlightTable, Landed, TaskFlight, ThreadFlight
from agent_cache.testing import FakeClock
from agent_cache.testing.world import World

FAILSAFE = 30.0
CHECKS = frozenset({"C0", "C1", "C2", "C3", "P2", "P3"})


class StuckError(AssertionError):
    """Somebody waits and nobody can go on."""


@dataclass
class Actor:
    """One thread on the stage."""

    name: str
    thread: threading.Thread | None = None
    state: str = "at a mark"
    go: bool = False
    rides: Flight | None = None
    error: BaseException | None = None


class Stage:
    """Leads threads from mark to mark, one at a time."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._here = threading.local()
        self.actors: dict[str, Actor] = {}

    def start(self, name: str, play: Callable[[], object]) -> None:
        """A thread that waits at its first mark until it is led on."""
        actor = self.actors[name] = Actor(name)

        def run() -> None:
            self._here.actor = actor
            try:
                self._wait_to_go(actor)
                play()
            except BaseException as error:  # noqa: BLE001 - raised again by whoever leads
                actor.error = error
            finally:
                self._set(actor, "done")

        actor.thread = threading.Thread(target=run, name=name, daemon=True)
        actor.thread.start()

    def mark(self) -> None:
        """Called by a tool: stop here until led on. Off the stage it does nothing."""
        actor: Actor | None = getattr(self._here, "actor", None)
        if actor is not None:
            self._set(actor, "at a mark")
            self._wait_to_go(actor)

    def ride(self, flight: Flight, wait: Callable[[], Landed]) -> Landed:
        """Called where a thread waits for another's load."""
        actor: Actor | None = getattr(self._here, "actor", None)
        if actor is None:
            return wait()
        actor.rides = flight
        self._set(actor, "rides")
        try:
            return wait()
        finally:
            self._set(actor, "runs")
            actor.rides = None

    def lead(self, name: str) -> bool:
        """Let this thread go on to its next mark, or its end; False if it cannot."""
        actor = self.actors[name]
        with self._changed:
            if actor.state != "at a mark":
                return False
            actor.state, actor.go = "runs", True
            self._changed.notify_all()
            if not self._changed.wait_for(self._is_quiet, FAILSAFE):
                raise StuckError({a.name: a.state for a in self.actors.values()})
        return True

    def finish(self) -> None:
        """Lead everyone to the end."""
        while any(self.lead(name) for name in self.actors):
            pass
        states = {actor.name: actor.state for actor in self.actors.values()}
        if set(states.values()) != {"done"}:
            raise StuckError(states)
        for actor in self.actors.values():
            assert actor.thread is not None
            actor.thread.join(FAILSAFE)
            if actor.error is not None:
                raise actor.error

    def _is_quiet(self) -> bool:
        return all(
            actor.state in ("at a mark", "done")
            or (actor.state == "rides" and actor.rides is not None and actor.rides.landed is None)
            for actor in self.actors.values()
        )

    def _set(self, actor: Actor, state: str) -> None:
        with self._changed:
            actor.state = state
            self._changed.notify_all()

    def _wait_to_go(self, actor: Actor) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: actor.go, FAILSAFE):
                raise StuckError(f"{actor.name} was never led on")
            actor.go = False


@dataclass
class Theatre:
    """A source, a sync read and two sync writes over it, and a stage."""

    stage: Stage
    clock: FakeClock = field(default_factory=FakeClock)
    world: World = field(default_factory=lambda: World(CHECKS))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        backend = MemoryBackend(clock=self.clock)
        self.entities = (("thing", "1"),)

        @AgentCache("thing:{ident}", backend=backend)
        def thing(ident: int) -> tuple[int, str, tuple[int, ...]]:
            with self.lock:
                load = self.world.load_begins(("thing",), "", self.entities, 0.0)
            self.stage.mark()
            with self.lock:
                load.sampled = self.world.current(self.entities)
            self.stage.mark()
            with self.lock:
                self.world.load_ends(load, ok=True)
            return (load.number, "", load.sampled)

        @AgentCacheInvalidator("thing:{ident}", backend=backend)
        def change(ident: int, window: Any) -> None:
            self.stage.mark()
            with self.lock:
                self.world.commit(window, self.entities)
            self.stage.mark()
            with self.lock:
                window.tool_ended = self.world.tick()

        self.thing = thing
        self.change = change

    def read(self) -> None:
        with self.lock:
            reading = self.world.read_begins("all", ("thing",), "", self.entities)
        value = self.thing(1)
        with self.lock:
            self.world.read_ends(reading, value)

    def write(self) -> None:
        with self.lock:
            window = self.world.open(self.entities)
        self.change(1, window)
        with self.lock:
            self.world.close(window, quiet_at=0.0)

    def check(self) -> None:
        """All that was read was right, and a quiet key is right and cached."""
        loads = len(self.world.loads)
        for _ in range(3):
            self.read()
        assert len(self.world.loads) <= loads + 1
        assert self.world.violations == 0, self.world.examples


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage()
    ride = ThreadFlight.ride

    def on_stage(self: ThreadFlight, *, share: bool = True) -> Landed:
        return stage.ride(self, lambda: ride(self, share=share))

    monkeypatch.setattr(ThreadFlight, "ride", on_stage)
    return stage


def _orders(casts: dict[str, int]) -> Iterator[tuple[str, ...]]:
    """Every order in which these can be led, each so many times."""
    letters = "".join(name[0] * times for name, times in casts.items())
    names = {name[0]: name for name in casts}
    for order in sorted(set(permutations(letters))):
        yield tuple(names[letter] for letter in order)


def _play(stage: Stage, order: tuple[str, ...], *, warm: bool) -> World:
    stage.actors.clear()
    theatre = Theatre(stage)
    if warm:
        theatre.read()
    for name in sorted(set(order)):
        stage.start(name, theatre.write if name.startswith("w") else theatre.read)
    for name in order:
        stage.lead(name)
    stage.finish()
    theatre.check()
    return theatre.world


@pytest.mark.parametrize("warm", [False, True])
def test_a_read_and_a_write_in_every_order(stage: Stage, warm: bool) -> None:
    orders = list(_orders({"reader": 3, "writer": 3}))
    assert len(orders) == 20
    for order in orders:
        _play(stage, order, warm=warm)


def test_two_reads_and_a_write_in_every_order(stage: Stage) -> None:
    orders = list(_orders({"reader": 3, "other reader": 2, "writer": 3}))
    assert len(orders) == 560
    for order in orders:
        _play(stage, order, warm=False)


def test_the_stage_has_teeth(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Joining any load under way is stale in some of these orders, and they tell."""
    monkeypatch.setattr(FlightTable, "joinable", lambda self, flight, token, arrived: True)
    caught = 0
    for order in _orders({"reader": 3, "other reader": 2, "writer": 3}):
        try:
            _play(stage, order, warm=False)
        except AssertionError:
            caught += 1
    assert caught > 0


def test_threads_share_one_load(stage: Stage) -> None:
    theatre = Theatre(stage)
    names = [f"reader {number}" for number in range(8)]
    for name in names:
        stage.start(name, theatre.read)
    stage.lead(names[0])  # it loads, and stops in the middle
    for name in names[1:]:
        stage.lead(name)
    assert [stage.actors[name].state for name in names] == ["at a mark", *["rides"] * 7]
    stage.finish()
    assert len(theatre.world.loads) == 1
    assert get_metrics()["coalesced"] == 7
    theatre.check()


def test_a_thread_after_the_write_does_not_share_a_load_from_before(stage: Stage) -> None:
    theatre = Theatre(stage)
    stage.start("early", theatre.read)
    stage.start("writer", theatre.write)
    stage.start("late", theatre.read)
    stage.lead("early")
    stage.lead("early")  # it has sampled the source
    while stage.lead("writer"):
        pass
    while stage.lead("late"):
        pass
    assert stage.actors["late"].state == "done", "it must not wait for the load from before the write"
    assert stage.actors["early"].state == "at a mark"
    stage.finish()
    assert len(theatre.world.loads) == 2
    theatre.check()


def test_two_event_loops_share_one_load(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = MemoryBackend()
    loading, both, loads = threading.Event(), threading.Barrier(2), 0
    ride = TaskFlight.ride

    async def riding(self: TaskFlight, *, share: bool = True) -> Landed:
        if asyncio.get_running_loop() is not self.loop:
            both.wait(FAILSAFE)  # the second is here: the load may end
        return await ride(self, share=share)

    monkeypatch.setattr(TaskFlight, "ride", riding)

    @AgentCache("thing", backend=backend)
    async def thing() -> int:
        nonlocal loads
        loads += 1
        loading.set()
        await asyncio.to_thread(both.wait, FAILSAFE)
        return loads

    values: list[int] = []
    threads = [threading.Thread(target=lambda: values.append(asyncio.run(thing()))) for _ in range(2)]
    threads[0].start()
    assert loading.wait(FAILSAFE)
    threads[1].start()
    for thread in threads:
        thread.join(FAILSAFE)
    assert values == [1, 1]
    assert loads == 1


def test_a_load_on_the_loop_raced_by_a_write_in_a_thread(stage: Stage) -> None:
    backend = MemoryBackend()
    value, loads = 1, 0
    release: asyncio.Event

    @AgentCache("thing", backend=backend)
    async def thing() -> int:
        nonlocal loads
        loads += 1
        sampled = value
        await release.wait()
        return sampled

    def change() -> None:
        nonlocal value
        value = 2

    write = AgentCacheInvalidator("thing", backend=backend)(change)

    async def race() -> None:
        nonlocal release
        release = asyncio.Event()
        early = asyncio.create_task(thing())
        while loads == 0:
            await asyncio.sleep(0)
        await asyncio.to_thread(write)
        late = asyncio.create_task(thing())
        while loads == 1:
            await asyncio.sleep(0)
        release.set()
        assert await early == 1
        assert await late == 2
        assert await thing() == 2
        assert loads == 2

    asyncio.run(asyncio.wait_for(race(), FAILSAFE))
