"""One process of the litmus: sessions whose tools are cached, and calls in a hurry.

``python -m agent_cache.testing.processes.worker``, started by the runner, which writes one line of JSON to its standard
input. What belongs here: making calls and telling the referee. What does not: judging, breaking.
"""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import itertools
import json
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

from agent_cache.testing.processes.caches import Tool
from agent_cache.testing.processes.orders import Config, LoadFailed, Obedient, WriteFailed
from agent_cache.testing.world import Session

__all__ = ["Worker", "kept", "main"]

_ALL = "all"
_SLOW = 0.1  # seconds a load takes while its sharing is measured


@dataclass(slots=True)
class _Read:
    name: str
    family: str
    scope: str
    whole: bool
    call: Tool
    threaded: bool
    part: _Read | None = None
    """What it puts its answer together from, by calling it for each entity; None: it loads them itself."""


@dataclass(slots=True)
class _Write:
    name: str
    family: str
    every: bool
    """It changes the entity of everyone, not only the caller's."""
    whole: bool
    call: Tool
    threaded: bool
    by_result: bool = False
    """Which entity it writes is known by its result."""


@dataclass(slots=True)
class _Plan:
    kind: str
    entities: list[str]
    before: float
    after: float
    heard: int = 0
    outcome: str = "never ran"
    ident: Any = None
    """Which entity the result says was written; None: it does not say."""

    @property
    def commits(self) -> bool:
        """Whether it takes effect before it ends."""
        return self.kind not in ("late", "no_effect_told")

    @property
    def says_no_effect(self) -> bool:
        """Whether its tool has ended with the word that nothing was changed."""
        return self.outcome == ("returned" if self.kind == "no_effect_told" else "declared no effect")


class _Cancelled:
    """Whether a call was cancelled by us."""

    __slots__ = ("yes",)

    def __init__(self) -> None:
        self.yes = False


_caller: ContextVar[Session] = ContextVar("litmus_caller")
_OWNED = {"mine": "user", "note": "session"}
_PEOPLE = (("acme", "u1"), ("acme", "u2"), ("other", "u1"))


class Worker(Obedient):
    """Sessions that call the same tools, of one source; the referee judges."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._numbers = itertools.count(config.worker << 32)
        self._plans: dict[int, _Plan] = {}
        self._late: set[asyncio.Task[None]] = set()
        self._undelivered: Callable[[], bool] = getattr(self._cache, "undelivered", bool)
        self._slow = False
        self._sessions = [
            Session(f"{config.prefix}{config.worker}-{index}", {"tenant": tenant, "user": user})
            for index in range(config.sessions)
            for tenant, user in [_PEOPLE[index % len(_PEOPLE)]]
        ]
        self._contexts: list[tuple[Session, contextvars.Context]] = []
        self._make_tools()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        opened = [asyncio.Event() for _ in self._sessions]
        keepers = [
            asyncio.create_task(self._keep(session, event))
            for session, event in zip(self._sessions, opened, strict=True)
        ]
        for event in opened:
            await event.wait()
        for session, context in self._contexts:
            for _ in range(self._config.lanes):
                self._lanes.append(loop.create_task(self._lane(session), context=context.copy()))
        await self._quit.wait()
        await asyncio.gather(*keepers)

    async def _keep(self, session: Session, opened: asyncio.Event) -> None:
        _caller.set(session)
        async with self._cache.session(session.name, session.identity):
            self._contexts.append((session, contextvars.copy_context()))
            opened.set()
            await self._quit.wait()

    # -- what the parent says -----------------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Start nothing more; done when all calls have ended, and all commits landed."""
        self._running = False
        if self._lanes:
            await asyncio.wait(self._lanes)
        for lane in self._lanes:
            if not lane.cancelled() and lane.exception() is not None:
                self._client.tell("spurious", f"a lane ended with {lane.exception()!r}")
        if self._late:
            await asyncio.wait(self._late)

    async def _storm(self, number: int, callers: int) -> None:
        self._slow = True
        read = self._reads[0]
        calls = [
            asyncio.get_running_loop().create_task(
                self._call_read(session, read, number, _Cancelled()), context=context.copy()
            )
            for session, context in itertools.islice(itertools.cycle(self._contexts), callers)
        ]
        await asyncio.wait(calls)
        self._slow = False

    async def _look(self) -> None:
        """Every key, in every session: right, and the second time from the cache."""
        loop = asyncio.get_running_loop()
        for session, context in self._contexts:
            await loop.create_task(self._look_in(session), context=context.copy())

    async def _look_in(self, session: Session) -> None:
        for read in self._reads:
            for ident in [_ALL] if read.whole else range(self._config.idents):
                key, entities = self._key(read, ident, session), self._entities(read.family, ident, session, read.whole)
                first = await self._surely(session, read, ident)
                current, lost = await self._client.ask("current", entities)
                if not isinstance(first, list) or _versions(read, first) != current:
                    if not lost:
                        self._client.tell("stuck", f"{key} is {first}, the source has {current}")
                    continue
                second = await self._surely(session, read, ident)
                single, worker = self._cache.single_loads, self._config.worker
                if not self._cache.expires and not kept(first, second, worker, single=single):
                    self._client.tell("uncached", f"{key}: {first}, then {second}")

    async def _surely(self, session: Session, read: _Read, ident: Any) -> Any:
        return await self._call_read(session, read, ident, _Cancelled())

    # -- calls --------------------------------------------------------------------------------------------------

    async def _lane(self, session: Session) -> None:
        rng = self._rng
        background: set[asyncio.Task[None]] = set()
        while self._running:
            mix = self._mix
            family = rng.choices(("item", "mine", "note"), (60, 30, 10))[0]
            ident = min(rng.randrange(self._config.idents), rng.randrange(self._config.idents))
            writes = rng.random() < mix.writes
            tasks = {self._start(session, family, ident, writes=writes)}
            if writes and rng.random() < mix.twins:  # models emit calls in parallel, and of the same thing
                tasks.add(self._start(session, family, ident, writes=rng.random() < 0.5))
            if rng.random() < 0.7:
                await asyncio.wait(tasks)
            background |= {task for task in tasks if not task.done()}
            if len(background) > 3:
                await asyncio.wait(background, return_when=asyncio.FIRST_COMPLETED)
                background = {task for task in background if not task.done()}
            if rng.random() < 0.2:
                await self._pause(self._length())
        if background:
            await asyncio.wait(background)

    def _start(self, session: Session, family: str, ident: int, *, writes: bool) -> asyncio.Task[None]:
        rng, cancelled = self._rng, _Cancelled()
        call: Coroutine[Any, Any, Any]
        threaded = False
        if writes:
            write = rng.choice(self._writes_of[family])
            threaded = write.threaded
            call = self._call_write(session, write, ident, cancelled)
        else:
            read = rng.choice(self._reads_of[family])
            threaded = read.threaded
            call = self._call_read(session, read, _ALL if read.whole else ident, cancelled)
        task: asyncio.Task[None] = asyncio.create_task(call)
        if not threaded and rng.random() < self._mix.cancels:
            asyncio.get_running_loop().call_later(rng.uniform(0, 0.008), _cancel, task, cancelled)
        return task

    def _length(self) -> float:
        """0, or minus a few rounds of the loop, or some milliseconds, in seconds."""
        drawn = self._rng.random()
        if drawn < self._mix.long:
            return self._rng.uniform(0.03, 0.1)
        if drawn < 0.4:
            return 0.0
        return -float(self._rng.randint(1, 3)) if drawn < 0.6 else self._rng.uniform(0, self._mix.longest / 1000)

    @staticmethod
    async def _pause(length: float) -> None:
        if length > 0:
            await asyncio.sleep(length)
        else:
            for _ in range(int(-length)):
                await asyncio.sleep(0)

    def _key(self, read: _Read, ident: Any, session: Session) -> str:
        return f"{read.name}({ident})@{session.owner(read.scope)}"

    def _entities(self, family: str, ident: Any, session: Session, whole: bool) -> list[str]:
        owner = session.owner(_OWNED.get(family, "global"))
        return [f"{family}/{owner}:{each}" for each in (range(self._config.idents) if whole else [ident])]

    def _parts(self, read: _Read, session: Session) -> list[str]:
        part = read.part
        return [self._key(part, each, session) for each in range(self._config.idents)] if part is not None else []

    async def _call_read(self, session: Session, read: _Read, ident: Any, cancelled: _Cancelled) -> Any:
        client, number = self._client, next(self._numbers)
        key, owner = self._key(read, ident, session), session.owner(read.scope)
        entities = self._entities(read.family, ident, session, read.whole)
        try:
            await client.ask("rb", number, session.name, key, owner, entities, self._parts(read, session))
            value = await (asyncio.to_thread(read.call, ident) if read.threaded else read.call(ident))
        except LoadFailed as failure:
            client.tell("rx", number, failure.args[0])
        except asyncio.CancelledError:
            client.tell("rx", number, None)
            if not cancelled.yes:
                client.tell("spurious", f"{key} was cancelled by nobody")
            raise
        except Exception as error:  # noqa: BLE001 - whatever else a cache raises is the finding
            client.tell("rx", number, None)
            client.tell("spurious", f"{key} raised {error!r}")
        else:
            client.tell("re", number, value)
            return value
        return None

    async def _call_write(self, session: Session, write: _Write, ident: Any, cancelled: _Cancelled) -> None:
        rng, mix, client, number = self._rng, self._mix, self._client, next(self._numbers)
        people = (
            {s.owner(_OWNED.get(write.family, "global")): s for s in self._sessions} if write.every else {"": session}
        )
        declared = [e for s in people.values() for e in self._entities(write.family, ident, s, write.whole)]
        kind = (
            rng.choice(self._kinds) if rng.random() < (0.6 if self._told_only and mix.faults else mix.faults) else "ok"
        )
        changed = declared if rng.random() < 0.5 else [rng.choice(declared)]
        plan = self._plans[number] = _Plan(kind, changed, self._length(), self._length())
        plan.ident = ident if write.by_result and rng.random() < 0.9 else None  # else the result does not say which
        client.tell("wb", number, declared)
        how = "raised"
        try:
            call = asyncio.to_thread(write.call, ident, number) if write.threaded else write.call(ident, number)
            returned = await call
            how = "no effect" if plan.kind == "no_effect_told" else "returned"
            if returned != self._returned(number, plan) or plan.outcome != "returned":
                client.tell("spurious", f"{write.name}({ident}) returned {returned!r} though its tool {plan.outcome}")
        except (WriteFailed, TimeoutError) as error:
            if plan.outcome != "raised" or error.args != (number,):
                client.tell("spurious", f"{write.name}({ident}) raised {error!r} though its tool {plan.outcome}")
        except asyncio.CancelledError:
            # A tool that said "nothing was changed" had ended before: its window is closed so, cancelled caller or not.
            how = "no effect" if plan.says_no_effect else "cancelled"
            if not cancelled.yes:
                client.tell("spurious", f"{write.name}({ident}) was cancelled by nobody")
            raise
        except Exception as error:  # noqa: BLE001 - whatever else a cache raises is the finding
            if plan.outcome == "declared no effect" and isinstance(error, self._cache.no_effect or ()):
                how = "no effect"
            elif plan.outcome == "never ran" and self._cache.refused(error):
                how = "refused"
            else:
                client.tell("spurious", f"{write.name}({ident}) raised {error!r} though its tool {plan.outcome}")
        finally:
            del self._plans[number]
            client.tell("wr", number, how, plan.heard, self._undelivered())

    # -- the tools ----------------------------------------------------------------------------------------------

    def _make_tools(self) -> None:
        threads = self._cache.threads
        self._reads = [
            self._make_read(name, family, scope, whole=whole, threaded=threaded and threads)
            for name, family, scope, whole, threaded in (
                ("item_for_all", "item", "global", False, False),
                ("item_for_user", "item", "user", False, False),
                ("item_in_thread", "item", "global", False, True),
                ("items_for_all", "item", "global", True, False),
                ("mine", "mine", "user", False, False),
                ("all_of_mine", "mine", "user", True, False),
                ("note", "note", "session", False, False),
            )
        ]
        self._writes = [
            self._make_write(name, family, scope, every=every, whole=whole, threaded=threaded and threads)
            for name, family, scope, every, whole, threaded in (
                ("change_item", "item", "global", False, False, False),
                ("change_item_too", "item", "global", False, False, False),
                ("change_item_in_thread", "item", "global", False, False, True),
                ("change_items", "item", "global", False, True, False),
                ("change_mine", "mine", "user", False, False, False),
                ("change_mine_too", "mine", "user", False, False, False),
                ("change_mine_for_all", "mine", "global", True, False, False),
                ("change_note", "note", "session", False, False, False),
            )
        ]
        if self._cache.by_result:
            self._writes += [
                self._make_write(
                    name, family, scope, every=False, whole=False, threaded=threaded and threads, told=True
                )
                for name, family, scope, threaded in (
                    ("change_item_told", "item", "global", False),
                    ("change_item_told_in_thread", "item", "global", True),
                    ("change_mine_told", "mine", "user", False),
                )
            ]
        self._reads_of = {family: [r for r in self._reads if r.family == family] for family in ("item", "mine", "note")}
        self._writes_of = {
            family: [w for w in self._writes if w.family == family] for family in ("item", "mine", "note")
        }
        self._told_only = self._config.writes == "told"
        if self._told_only:
            for family, writes in self._writes_of.items():
                self._writes_of[family] = [write for write in writes if write.by_result] or writes
        self._kinds = ["raise", "refuse"]
        if self._cache.no_effect is not None:
            self._kinds += ["no_effect", "no_effect_told"] * (3 if self._told_only else 1)
        if self._cache.settle and self._config.late:
            self._kinds.append("late")

    def _make_read(self, name: str, family: str, scope: str, *, whole: bool, threaded: bool) -> _Read:
        async def load(ident: Any) -> Any:
            return await self._load(read, ident)

        def load_blocking(ident: Any) -> Any:
            return self._load_blocking(read, ident)

        tool: Tool = load_blocking if threaded else load
        tool.__name__ = tool.__qualname__ = name
        read = _Read(name, family, scope, whole, tool, threaded)
        compose: Callable[[Tool, str], Tool] | None = getattr(self._cache, "compose", None)
        if whole and compose is not None:
            read.part = self._make_read(f"{name}_part", family, scope, whole=False, threaded=False)
            tool = partial(self._put_together, read.part, scope)
            load_parts = _named(tool, name)
            read.call = compose(load_parts, scope)
            return read
        resource = family if whole else family + ":{ident}"
        read.call = self._cache.read(tool, resource, scope, lambda: _caller.get().owner(scope))
        return read

    async def _put_together(self, part: _Read, scope: str, ident: Any) -> Any:
        """What a tool does that asks other cached tools: one after another, or all at once."""
        number, owner = next(self._numbers), _caller.get().owner(scope)
        asked = range(self._config.idents)
        if self._rng.random() < 0.5:
            return [number, owner, await asyncio.gather(*(part.call(each) for each in asked))]
        answers = []
        for each in asked:
            answers.append(await part.call(each))
            await self._pause(min(self._length(), 0.002))
        return [number, owner, answers]

    def _make_write(
        self, name: str, family: str, scope: str, *, every: bool, whole: bool, threaded: bool, told: bool = False
    ) -> _Write:
        async def write(ident: Any, number: Any) -> Any:
            return await self._run_write(number)

        def write_blocking(ident: Any, number: Any) -> Any:
            return self._run_write_blocking(number)

        tool: Tool = write_blocking if threaded else write
        tool.__name__ = tool.__qualname__ = name
        resource = family if whole else family + (":{result[ident]}" if told else ":{ident}")
        return _Write(name, family, every, whole, self._cache.write(tool, resource, scope), threaded, told)

    def _begin_load(self, read: _Read, ident: Any, say: Callable[..., None]) -> tuple[int, str]:
        session, number = _caller.get(), next(self._numbers)
        owner = session.owner(read.scope)
        entities = self._entities(read.family, ident, session, read.whole)
        say("lb", number, self._key(read, ident, session), owner, entities)
        return number, owner

    async def _load(self, read: _Read, ident: Any) -> Any:
        number, owner = self._begin_load(read, ident, self._client.tell)
        try:
            await self._pause(_SLOW if self._slow else self._length())
            if self._rng.random() < self._mix.load_faults and self._running:
                raise LoadFailed(number)
            sampled = await self._client.ask("ls", number)
            await self._pause(self._length())
        finally:
            self._client.tell("le", number)
        return [number, owner, sampled]

    def _load_blocking(self, read: _Read, ident: Any) -> Any:
        number, owner = self._begin_load(read, ident, self._client.tell_from_thread)
        try:
            _pause_thread(self._length())
            sampled = self._client.ask_from_thread("ls", number)
            _pause_thread(self._length())
        finally:
            self._client.tell_from_thread("le", number)
        return [number, owner, sampled]

    async def _run_write(self, number: int) -> Any:
        client, plan = self._client, self._plans[number]
        cancelled = False
        try:
            await self._heard(plan, "wt", number)
            await self._pause(plan.before)
            self._before_commit(plan, number)
            if plan.commits:
                await self._heard(plan, "wc", number, plan.entities)
            await self._pause(plan.after)
            return self._after_commit(plan, number)
        except asyncio.CancelledError:
            plan.outcome = "was cancelled"
            cancelled = True
            raise
        finally:
            if cancelled:
                client.tell("we", number)
            else:
                await self._heard(plan, "we", number)

    async def _heard(self, plan: _Plan, word: str, *rest: Any) -> None:
        await self._client.ask(word, *rest)
        plan.heard += 1

    def _run_write_blocking(self, number: int) -> Any:
        ask, plan = self._client.ask_from_thread, self._plans[number]
        try:
            ask("wt", number)
            _pause_thread(plan.before)
            self._before_commit(plan, number)
            if plan.commits:
                ask("wc", number, plan.entities)
            _pause_thread(plan.after)
            return self._after_commit(plan, number)
        finally:
            ask("we", number)
            plan.heard = 99  # all of them

    def _before_commit(self, plan: _Plan, number: int) -> None:
        if plan.kind == "refuse":
            plan.outcome = "raised"
            raise WriteFailed(number)
        if plan.kind == "no_effect":
            assert self._cache.no_effect is not None
            plan.outcome = "declared no effect"
            raise self._cache.no_effect("nothing to do")

    @staticmethod
    def _returned(number: int, plan: _Plan) -> dict[str, Any]:
        """What a write tool returns."""
        return {"number": number, "ident": plan.ident, "refused": plan.kind == "no_effect_told"}

    def _after_commit(self, plan: _Plan, number: int) -> dict[str, Any]:
        if plan.kind == "raise":
            plan.outcome = "raised"
            raise WriteFailed(number)
        if plan.kind == "late":
            plan.outcome = "raised"
            self._client._loop.call_soon_threadsafe(self._land_later, plan.entities)
            raise TimeoutError(number)
        plan.outcome = "returned"
        return self._returned(number, plan)

    def _land_later(self, entities: list[str]) -> None:
        async def land() -> None:
            await asyncio.sleep(self._rng.uniform(0, 0.4 * self._cache.settle))
            await self._client.ask("wl", entities)

        task = asyncio.create_task(land())
        self._late.add(task)
        task.add_done_callback(self._late.discard)


def kept(first: list[Any], second: object, worker: int, *, single: bool) -> bool:
    """Whether the second answer of two came from the cache.

    Where loads are not ``single``, a process that has still to learn what a call depends on loads once itself, and what it
    stores takes the place of what others were served before: then only a load of this very ``worker`` is one too many.
    """
    if not isinstance(second, list):
        return False
    return second[0] == first[0] or (not single and second[0] >> 32 != worker)


def _versions(read: _Read, value: list[Any]) -> list[int]:
    """What an answer says of each entity."""
    return value[2] if read.part is None else [each[2][0] for each in value[2]]


def _named(tool: Tool, name: str) -> Tool:
    async def load(ident: Any) -> Any:
        return await tool(ident)

    load.__name__ = load.__qualname__ = name
    return load


def _pause_thread(length: float) -> None:
    if length > 0:
        threading.Event().wait(length)


def _cancel(task: asyncio.Task[None], cancelled: _Cancelled) -> None:
    if not task.done():
        cancelled.yes = True
        task.cancel()


def _die_with_parent() -> None:
    """Even a stopped worker goes when its parent has gone; where that cannot be had, it sees its connection close."""
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    except (OSError, AttributeError):
        pass


def main() -> int:
    """Read the configuration from standard input and run."""
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which then stops us
    config = Config(**json.loads(sys.stdin.readline()))
    logging.getLogger("agent_cache").setLevel(logging.CRITICAL)  # faults are what we are here for
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    worker_error: BaseException | None = None

    async def run() -> None:
        if config.rollouts:
            from agent_cache.testing.processes.rollouts import Rollouts

            await Rollouts(config).run()
        else:
            await Worker(config).run()

    try:
        asyncio.run(run())
    except Exception as error:  # noqa: BLE001 - told and made into an exit status
        worker_error = error
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(1 if worker_error else 0)  # threads that hang must not keep it


if __name__ == "__main__":
    main()
