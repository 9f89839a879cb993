"""One random schedule of the litmus: sessions, the tools they call, and everything that goes wrong on the way.

A seed decides everything: what is called when, how long each step takes, what fails, what is cancelled. What belongs
here: making trouble. What does not: judging the outcome (the world's business) and counting over many seeds.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from agent_cache.testing.adapters import Adapter, MakeAdapter, ReadTool, WriteTool
from agent_cache.testing.clock import FakeClock
from agent_cache.testing.world import Entity, LoadFailed, Session, Value, Window, World

__all__ = ["Mix", "Outcome", "Plan", "Schedule", "WriteFailed"]

_LANES = 3
_BACKGROUND = 4
_ALL = "all"
_FROZEN = 100.0


class WriteFailed(Exception):  # noqa: N818 - the litmus's tools fail on purpose
    """A write tool failed on purpose."""


@dataclass(frozen=True, slots=True)
class Mix:
    """How much of what one schedule contains. Different seeds look for trouble in different places."""

    writes: float
    faults: float
    cancels: float
    load_faults: float
    kinds: tuple[str, ...]
    """How writes fail, where they do."""
    suspend: bool
    nested: float
    twins: float
    texts: float
    idents: int
    longest: int
    read_mostly: bool = False

    @classmethod
    def of(cls, seed: int, adapter: Adapter) -> Mix:
        """The mix of this seed: every fifth is read-mostly, the others are drawn."""
        rng = random.Random(seed * 7919 + 1)
        if seed % 5 == 0:
            return cls(0.02, 0.1, 0.01, 0.005, ("raise", "refuse"), False, 0.1, 0.1, 0.0, 2, 4, read_mostly=True)
        suspend = rng.random() < 0.2
        kinds = ["raise", "refuse"]
        if adapter.settle > 0 and not suspend:  # a commit must land before the window has settled
            kinds += ["late_timeout", "late_cancel"]
        if adapter.no_effect:
            kinds += ["no_effect"]
        return cls(
            writes=rng.choice((0.05, 0.1, 0.2, 0.4)),
            faults=rng.choice((0.0, 0.2, 0.5)),
            cancels=rng.choice((0.0, 0.05, 0.2)),
            load_faults=rng.choice((0.0, 0.05)),
            kinds=tuple(kinds) if rng.random() < 0.5 else tuple(rng.sample(kinds, 1)),
            suspend=suspend,
            nested=rng.choice((0.0, 0.2)),
            twins=rng.choice((0.0, 0.3, 0.6)),
            texts=rng.choice((0.0, 0.2)),
            idents=rng.choice((1, 2, 3)),
            longest=rng.choice((2, 4, 8)),
        )


@dataclass(slots=True)
class Plan:
    """What one run of a write tool will do."""

    kind: str
    before: int
    after: int
    nested: bool
    entities: tuple[Entity, ...]
    window: Window
    late_after: float
    session: Session
    read: _Read | None
    ident: Any
    outcome: str = "never ran"


@dataclass(slots=True)
class Outcome:
    """What one schedule came to."""

    operations: int = 0
    spurious: int = 0
    stuck: int = 0
    reads: int = 0
    """Calls that got a value, and"""
    loads: int = 0
    """the runs of the tools under them, both before the look at every key."""


@dataclass(slots=True)
class _Read:
    name: str
    scope: str
    family: str
    whole: bool
    call: ReadTool


@dataclass(slots=True)
class _Write:
    name: str
    family: str
    reach: str
    """``"own"``: the caller's entity; ``"every"``: that of everyone."""
    whole: bool
    call: WriteTool | None
    by_hand: ReadTool | None = None
    by_result: bool = False
    """Which entity it writes is known by its result."""


@dataclass(slots=True)
class _Operation:
    task: asyncio.Task[None] | None = None
    cancelled: bool = False

    def cancel(self) -> None:
        if self.task is not None and not self.task.done():
            self.cancelled = True
            self.task.cancel()


_caller: ContextVar[Session] = ContextVar("litmus_caller")

_OWNED = {"mine": "user", "note": "session"}
"""Families of which everyone has their own, and by which scope."""
_CALLS = {"single", "solo"}
"""Families of which a write drops one call, not a resource."""


class Schedule:
    """One seed, run inside a virtual-time loop by :meth:`run`."""

    def __init__(self, seed: int, operations: int, make_adapter: MakeAdapter) -> None:
        self.seed = seed
        self.outcome = Outcome()
        self._rng = random.Random(seed)
        self._planned = operations
        self._make_adapter = make_adapter
        self._sessions = [
            Session(f"litmus-{seed}-{number}", {"tenant": tenant, "user": user})
            for number, (tenant, user) in enumerate([("acme", "u1"), ("acme", "u1"), ("acme", "u2"), ("other", "u1")])
        ]
        self._left = operations
        self._cancelling: set[asyncio.Task[None]] = set()
        self._lanes_left = len(self._sessions) * _LANES
        self.world: World
        self.mix: Mix

    # -- the course of one schedule -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Make all calls, wait until everything has settled, then look whether every key is right and cached."""
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._clock = FakeClock(base=loop.time)
        self._adapter = self._make_adapter(self._clock)
        self.mix = mix = Mix.of(self.seed, self._adapter)
        gives_up = mix.suspend and self._adapter.lease is not None
        lost = {"C0", "C3"} if gives_up else set()  # these hold only while the window is not given up
        self.world = World(self._adapter.checks - lost, keeps_errors=self._adapter.keeps_errors)
        self._make_tools()
        self._quiet = loop.create_future()
        self._looking = asyncio.Lock()
        self._checked = 0
        self._all_checked = loop.create_future()
        suspending = loop.create_task(self._suspend()) if mix.suspend else None
        await asyncio.gather(*(self._in_session(session) for session in self._sessions))
        if suspending is not None:
            suspending.cancel()
        await self._adapter.close()

    async def _in_session(self, session: Session) -> None:
        _caller.set(session)
        async with self._adapter.session(session.name, session.identity):
            await asyncio.gather(*(self._lane(session) for _ in range(_LANES)))
            if self._lanes_left == 0 and not self._quiet.done():
                self.outcome.reads, self.outcome.loads = self.world.served, len(self.world.loads)
                self._quiet.set_result(None)
            await self._quiet
            await asyncio.sleep(2 * self._adapter.settle)  # all commits have landed, all windows are closed
            async with (
                self._looking
            ):  # one session after the other, so that each sees what is kept, not what is loading
                await self._look_for_stuck_keys(session)
            self._checked += 1
            if self._checked == len(self._sessions):
                self._all_checked.set_result(None)
            await self._all_checked

    async def _lane(self, session: Session) -> None:
        """Calls one after another, some of them left running while the next are made."""
        rng, mix = self._rng, self.mix
        background: set[asyncio.Task[None]] = set()
        while self._left > 0:
            aim = (self._draw_family(), self._draw_ident())
            writes = rng.random() < mix.writes
            tasks = [self._start(session, aim, writes=writes)]
            if writes and self._left > 0 and rng.random() < mix.twins:
                # models emit calls in parallel, and of the same thing
                tasks.append(self._start(session, aim, writes=rng.random() < 0.7))
            background.update(tasks)
            if rng.random() < 0.5:
                await asyncio.wait(tasks)
            if len(background) > _BACKGROUND:
                await asyncio.wait(background, return_when=asyncio.FIRST_COMPLETED)
            background = {task for task in background if not task.done()}
            if rng.random() < 0.4:
                await self._pause()
        if background:
            await asyncio.wait(background)
        self._lanes_left -= 1

    def _start(self, session: Session, aim: tuple[str, Any], *, writes: bool) -> asyncio.Task[None]:
        """Make one call in a task of its own."""
        self._left -= 1
        self.outcome.operations += 1
        operation = _Operation()
        call = self._write if writes else self._read
        operation.task = task = self._loop.create_task(call(operation, session, *aim))
        if self._rng.random() < self.mix.cancels:
            self._soon_cancel(operation)
        return task

    def _soon_cancel(self, operation: _Operation) -> None:
        task = self._loop.create_task(self._cancel_some_time(operation))
        self._cancelling.add(task)
        task.add_done_callback(self._cancelling.discard)

    async def _cancel_some_time(self, operation: _Operation) -> None:
        await self._pause()
        operation.cancel()

    async def _pause(self, length: int | None = None) -> None:
        """A few rounds of the loop, or a few milliseconds."""
        length = self._length() if length is None else length
        if length < 0:
            for _ in range(-length):
                await asyncio.sleep(0)
        elif length:
            await asyncio.sleep(length / 1000)

    def _length(self) -> int:
        return self._rng.randint(-4, self.mix.longest)

    async def _suspend(self) -> None:
        """Now and then the process is frozen for so long that open windows are given up, if they ever are."""
        while not self._quiet.done():
            await asyncio.sleep(self._rng.uniform(0.002, 0.04))
            self._clock.advance(1.1 * (self._adapter.lease or _FROZEN))

    # -- the tools ----------------------------------------------------------------------------------------------

    def _make_tools(self) -> None:
        self._reads = [
            self._make_read(name, family, scope, whole=whole)
            for name, family, scope, whole in (
                ("item_for_all", "item", "global", False),
                ("item_for_session", "item", "session", False),
                ("item_for_user", "item", "user", False),
                ("items_for_all", "item", "global", True),
                ("items_for_user", "item", "user", True),
                ("mine", "mine", "user", False),
                ("all_of_mine", "mine", "user", True),
                ("note", "note", "session", False),
                ("single_for_all", "single", "global", False),
                ("solo_for_user", "solo", "user", False),
            )
        ]
        by_name = {read.name: read for read in self._reads}
        self._writes = [
            self._make_write(name, family, scope, reach, whole=whole, only=by_name.get(only))
            for name, family, scope, reach, whole, only in (
                ("change_item", "item", "global", "own", False, ""),
                ("change_item_too", "item", "global", "own", False, ""),
                ("change_items", "item", "global", "every", True, ""),
                ("change_item_misdeclared", "item", "user", "own", False, ""),
                ("change_mine", "mine", "user", "own", False, ""),
                ("change_all_of_mine", "mine", "user", "own", True, ""),
                ("change_mine_for_all", "mine", "global", "every", False, ""),
                ("change_note", "note", "session", "own", False, ""),
                ("change_note_for_all", "note", "global", "every", False, ""),
                ("change_single", "single", "global", "own", False, "single_for_all"),
                ("change_solo", "solo", "global", "own", False, "solo_for_user"),
            )
        ]
        if self._adapter.by_result:
            for name, family, scope in (("change_item_told", "item", "global"), ("change_mine_told", "mine", "user")):
                self._writes.append(
                    self._make_write(name, family, scope, "own", whole=False, only=None, by_result=True)
                )
        for name in ("single_for_all", "solo_for_user"):
            if self._adapter.by_hand:
                self._writes.append(
                    _Write(f"drop_{name}", by_name[name].family, "own", False, None, by_name[name].call)
                )
        self._reads_of: dict[str, list[_Read]] = {}
        for read in self._reads:
            self._reads_of.setdefault(read.family, []).append(read)
        self._writes_of: dict[str, list[_Write]] = {}
        for write in self._writes:
            self._writes_of.setdefault(write.family, []).append(write)
        self._only = {"single": by_name["single_for_all"], "solo": by_name["solo_for_user"]}

    def _make_read(self, name: str, family: str, scope: str, *, whole: bool) -> _Read:
        async def load(ident: Any) -> tuple[int, str, tuple[int, ...]]:
            return await self._load(read, ident)

        _rename(load, name)
        read = _Read(name, scope, family, whole, load)
        read.call = self._adapter.make_read(load, family if whole else family + ":{ident}", scope)
        return read

    def _make_write(
        self,
        name: str,
        family: str,
        scope: str,
        reach: str,
        *,
        whole: bool,
        only: _Read | None,
        by_result: bool = False,
    ) -> _Write:
        async def write(ident: Any, plan: Any) -> Any:
            return await self._run_write(plan)

        _rename(write, name)
        resource = family if whole else family + (":{result.ident}" if by_result else ":{ident}")
        call = self._adapter.make_write(write, resource, scope, only=only.call if only else None)
        return _Write(name, family, reach, whole, call, by_result=by_result)

    def _entities(self, family: str, ident: Any, session: Session, *, whole: bool) -> tuple[Entity, ...]:
        owned = _OWNED.get(family)
        whose = (session.owner(owned),) if owned else ()
        idents = range(self.mix.idents) if whole else [ident]
        texts = [str(each) for each in idents]  # resources compare by text,
        if family in _CALLS:  # calls by their arguments
            texts = [repr(same) for each in idents for same in ((each, str(each)) if whole else (each,))]
        return tuple((family, *whose, text) for text in texts)

    def _draw_ident(self) -> Any:
        ident = min(self._rng.randrange(self.mix.idents), self._rng.randrange(self.mix.idents))
        return str(ident) if self._rng.random() < self.mix.texts else ident

    def _draw_family(self) -> str:
        return self._rng.choices(("item", "mine", "note", "single", "solo"), (50, 20, 8, 11, 11))[0]

    # -- reads --------------------------------------------------------------------------------------------------

    async def _read(self, operation: _Operation, session: Session, family: str, ident: Any) -> None:
        read = self._rng.choice(self._reads_of[family])
        await self._call_read(operation, session, read, _ALL if read.whole else ident)

    async def _call_read(self, operation: _Operation, session: Session, read: _Read, ident: Any) -> None:
        entities = self._entities(read.family, ident, session, whole=read.whole)
        key, owner = self._key(read, ident, session)
        reading = self.world.read_begins(session.name, key, owner, entities)
        try:
            value = await read.call(ident)
        except LoadFailed as failure:
            if not self.world.legitimate(reading, failure):
                self._spurious(f"{read.name}({ident!r}) got the failure of load {failure.number}")
        except asyncio.CancelledError:
            if not operation.cancelled:
                self._spurious(f"{read.name}({ident!r}) was cancelled by nobody")
            raise
        except Exception as error:  # noqa: BLE001 - whatever else a cache raises is the finding
            self._spurious(f"{read.name}({ident!r}) raised {error!r}")
        else:
            self.world.read_ends(reading, value)

    def _key(self, read: _Read, ident: Any, session: Session) -> tuple[tuple[str, ...], str]:
        owner = session.owner(read.scope)
        return (read.name, repr(ident), owner), owner

    async def _load(self, read: _Read, ident: Any) -> Value:
        rng = self._rng
        session = _caller.get()
        key, owner = self._key(read, ident, session)
        entities = self._entities(read.family, ident, session, whole=read.whole)
        load = self.world.load_begins(key, owner, entities, self._loop.time())
        ok = False
        try:
            await self._pause()
            if rng.random() < self.mix.load_faults:
                raise LoadFailed(load.number)
            load.sampled = self.world.current(entities)
            await self._pause()
            ok = True
        finally:
            self.world.load_ends(load, ok=ok)
        return (load.number, owner, load.sampled)

    # -- writes -------------------------------------------------------------------------------------------------

    async def _write(self, operation: _Operation, session: Session, family: str, ident: Any) -> None:
        rng, mix = self._rng, self.mix
        write = rng.choice(self._writes_of[family])
        if write.by_hand is not None:
            return await self._drop_by_hand(operation, write, ident, session)
        if write.reach == "every":
            owners = {s.owner(_OWNED.get(write.family, "global")): s for s in self._sessions}.values()
            declared = tuple(e for s in owners for e in self._entities(write.family, ident, s, whole=write.whole))
        else:
            declared = self._entities(write.family, ident, session, whole=write.whole)
        beside = self._entities(write.family, _ALL, session, whole=True) if write.by_result else ()
        kind = rng.choice(mix.kinds) if rng.random() < mix.faults else "ok"
        changed = declared if rng.random() < 0.5 else (rng.choice(declared),)
        reads = self._reads_of[write.family] if write.family not in self._only else [self._only[write.family]]
        plan = Plan(
            kind,
            self._length(),
            self._length(),
            rng.random() < mix.nested,
            changed,
            self.world.open(declared, beside),
            rng.uniform(0, 0.9 * self._adapter.settle),
            session,
            rng.choice(reads),
            ident,
        )
        if write.by_result and rng.random() < 0.9:  # else the result does not say which
            plan.window.ident = ident
        if kind == "late_cancel":
            self._soon_cancel(operation)
        assert write.call is not None
        told: BaseException | None = None
        try:
            returned = await write.call(ident, plan)
            if returned is not plan.window or plan.outcome != "returned":
                self._spurious(f"{write.name}({ident!r}) returned {returned!r} though its tool {plan.outcome}")
        except (WriteFailed, TimeoutError) as error:
            told = error
            if plan.outcome != "raised" or error.args != (id(plan.window),):
                self._spurious(f"{write.name}({ident!r}) raised {error!r} though its tool {plan.outcome}")
        except asyncio.CancelledError as error:
            told = error
            if not operation.cancelled:
                self._spurious(f"{write.name}({ident!r}) was cancelled by nobody")
            raise
        except Exception as error:  # noqa: BLE001 - whatever else a cache raises is the finding
            told = error
            if plan.outcome != "declared no effect" or not isinstance(error, self._adapter.no_effect or ()):
                self._spurious(f"{write.name}({ident!r}) raised {error!r} though its tool {plan.outcome}")
        finally:
            known = told is None or plan.outcome == "declared no effect"
            quiet_at = 0.0 if known else self._quiet_at()
            self.world.close(plan.window, quiet_at=quiet_at)

    async def _run_write(self, plan: Plan) -> Window:
        """The write tool itself."""
        world, window = self.world, plan.window
        try:
            await self._pause(plan.before)
            if plan.nested:
                await self._read_own(plan)
            if plan.kind == "refuse":
                raise WriteFailed(id(window))
            if plan.kind == "no_effect":
                assert self._adapter.no_effect is not None
                await self._pause(plan.after)
                window.effect = False
                plan.outcome = "declared no effect"
                raise self._adapter.no_effect("nothing to do")
            if not plan.kind.startswith("late"):
                world.commit(window, plan.entities)
            if plan.nested:
                await self._read_own(plan)
            await self._pause(plan.after)
            if plan.kind == "raise":
                raise WriteFailed(id(window))
            if plan.kind.startswith("late"):
                raise TimeoutError(id(window))
            plan.outcome = "returned"
            return window
        except (WriteFailed, TimeoutError):
            plan.outcome = "raised"
            raise
        except asyncio.CancelledError:
            plan.outcome = "was cancelled"
            raise
        finally:
            window.tool_ended = world.tick()
            if plan.kind.startswith("late"):
                self._loop.call_later(plan.late_after, self._land, plan)

    def _land(self, plan: Plan) -> None:
        self.world.commit(plan.window, plan.entities, late=True)

    async def _read_own(self, plan: Plan) -> None:
        """A write tool that looks at what it is about to change, or has changed."""
        assert plan.read is not None
        read = plan.read
        nested = _Operation(cancelled=True)  # a cancellation here is that of the write
        await self._call_read(nested, plan.session, read, _ALL if read.whole else plan.ident)

    async def _drop_by_hand(self, operation: _Operation, write: _Write, ident: Any, session: Session) -> None:
        """A change made past all decorators, told to the cache afterwards."""
        assert write.by_hand is not None
        whole = self._rng.random() < 0.2
        entities = self._entities(write.family, ident, session, whole=whole)
        window = self.world.open(entities)
        self.world.commit(window, entities)
        try:
            await self._adapter.invalidate(write.by_hand, None if whole else ident)
        except asyncio.CancelledError:
            if not operation.cancelled:
                self._spurious("an invalidation by hand was cancelled by nobody")
            raise
        finally:
            window.tool_ended = self.world.tick()
            self.world.close(window, quiet_at=self._quiet_at())

    def _quiet_at(self) -> float:
        """When a write that ended now with unknown outcome has surely settled."""
        return self._loop.time() + 1.01 * self._adapter.settle

    # -- the end ------------------------------------------------------------------------------------------------

    async def _look_for_stuck_keys(self, session: Session) -> None:
        """Every key, in every session: right once more, and the second time from the cache."""
        world = self.world
        faultless = _Operation()
        for read in self._reads:
            for ident in [_ALL] if read.whole else range(self.mix.idents):
                entities = self._entities(read.family, ident, session, whole=read.whole)
                key, _ = self._key(read, ident, session)
                first = await self._value(faultless, session, read, ident)
                if first is None or first[2] != world.current(entities):
                    self.outcome.stuck += 1
                    world._example(f"stuck: {key} is {first}, the source has {world.current(entities)}")
                    continue
                second = await self._value(faultless, session, read, ident)
                if self._adapter.expires:
                    continue
                if second is None or second[0] != first[0]:
                    self.outcome.stuck += 1
                    world._example(f"stuck: {key} is not cached again")

    async def _value(self, operation: _Operation, session: Session, read: _Read, ident: Any) -> Value | None:
        for _ in range(100):  # loads may still fail on purpose
            try:
                value: Value = await read.call(ident)
            except LoadFailed:
                continue
            return value
        return None

    def _spurious(self, text: str) -> None:
        self.outcome.spurious += 1
        self.world._example(f"spurious: {text}")


def _rename(tool: Callable[..., object], name: str) -> None:
    tool.__name__ = tool.__qualname__ = name
