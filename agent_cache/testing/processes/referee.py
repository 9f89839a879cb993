"""The source of truth of several processes: every event takes the next number of one counter, in one thread.

What is noted about a read is noted before the read begins, and what is noted about a write after it has ended, so
that messages on their way can hide a broken promise for a moment but never make one up. What belongs here: the source,
what is going on in which process, and the verdict on one read. What does not: sockets, processes, faults.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

__all__ = ["ALL_CHECKS", "Load", "Reading", "Referee", "Write"]

ALL_CHECKS = frozenset({"C0", "C1", "C2", "C3", "C4", "P2", "P3"})
"""Every promise about one read; single loads (P5), hangs, failures and stuck keys are counted apart."""

_EXAMPLES = 10
_KEPT_COMMITS = 4


@dataclass(slots=True)
class Load:
    """One run of a read tool."""

    number: int
    worker: int
    key: str
    owner: str
    entities: list[str]
    start: int
    running: bool = True
    ended: int = 0
    sampled: list[int] | None = None


@dataclass(slots=True)
class Write:
    """One call of a write tool, from before its call to its end."""

    number: int
    worker: int
    entities: list[str]
    began: float
    adrift: bool
    """A fault took its marker away, or may have."""
    split: bool
    """It may have been recorded with a primary that was none any more."""
    noted: int
    """The event of its beginning. Nobody waits for that to be noted, so all of the write may be over by then."""
    ran: bool = False
    """Its tool was run."""
    heard: list[int] = field(default_factory=list)
    """What the tool has waited, or begun to wait, to be told that it was noted."""
    versions: dict[str, int] = field(default_factory=dict)
    """What it has committed."""


@dataclass(slots=True)
class Reading:
    """One call of a read tool: what it may not fall behind, noted before it began."""

    number: int
    worker: int
    session: str
    key: str
    owner: str
    entities: list[str]
    start: int
    began: float
    committed: list[int]
    returned: list[int]
    failed: list[int]
    seen: list[int]
    barriers: list[int]
    excused: bool
    lost: bool
    parts: list[str]
    """Of an answer that is put together from those of other reads, one for each entity: their keys."""


@dataclass(slots=True)
class Own:
    """A call in a world of its own, which only its worker can judge."""

    worker: int
    began: float
    what: str


class Referee:
    """Notes every event of every worker and judges every read: C0 to C4, P2, P3."""

    def __init__(self, checks: frozenset[str] = ALL_CHECKS, *, windows: bool = True) -> None:
        self.checks = checks
        self.windows = windows
        """Whether the store hears of a write before it is made; else nobody knows of one whose process died."""
        self.now = 0
        self.broken: Counter[str] = Counter()
        """Broken promises by name; one read can break several."""
        self.excused: Counter[str] = Counter()
        """The same, where the promise was not made: a fault had taken the marker away."""
        self.unpromised: Counter[str] = Counter()
        """The same, where this cache or this run does not promise it."""
        self.violations = 0
        self.reads = 0
        self.writes = 0
        self.refused = 0
        self.loads_begun = 0
        self.spurious = 0
        self.ended_by: Counter[str] = Counter()
        """How writes ended."""
        self.examples: list[str] = []
        self.readings: dict[int, Reading] = {}
        self.open: dict[int, Write] = {}
        self.loads: dict[int, Load] = {}
        self.own: dict[int, Own] = {}
        self.loads_of: Counter[str] = Counter()
        """Loads begun, by key."""
        self.losing_all = 0
        self.split = False
        """Two servers may both hold themselves to be primary: nothing is promised."""
        self.losing: Counter[int] = Counter()
        self._version: Counter[str] = Counter()
        self._returned: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._barrier: Counter[str] = Counter()
        self._adrift: Counter[str] = Counter()
        """Entities being written without a marker: C0 and C3 do not hold."""
        self._lost: dict[str, int] = {}
        """Entities whose writer died without a marker, or wrote to a split brain: nothing holds until the next write."""
        self._seen: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._history: defaultdict[str, list[tuple[int, int, int]]] = defaultdict(list)

    def tick(self) -> int:
        """The number of the next event."""
        self.now += 1
        return self.now

    def current(self, entities: list[str]) -> list[int]:
        """What the source has."""
        return [self._version[entity] for entity in entities]

    def is_lost(self, entities: list[str]) -> bool:
        """Whether nothing can be promised about one of them: its last writer died, its marker was gone before."""
        return not self._lost.keys().isdisjoint(entities)

    # -- loads --------------------------------------------------------------------------------------------------

    def load_begins(self, worker: int, number: int, key: str, owner: str, entities: list[str]) -> None:
        """A read tool begins to run."""
        self.loads_begun += 1
        self.loads_of[key] += 1
        self.loads[number] = Load(number, worker, key, owner, entities, self.tick())

    def sample(self, number: int) -> list[int]:
        """A read tool looks at the source."""
        load = self.loads[number]
        self.tick()
        load.sampled = self.current(load.entities)
        return load.sampled

    def load_ends(self, number: int) -> None:
        """A read tool has run to its end, failed, or been cancelled."""
        load = self.loads[number]
        load.running, load.ended = False, self.tick()

    # -- writes -------------------------------------------------------------------------------------------------

    def write_begins(self, worker: int, time: float, number: int, entities: list[str]) -> None:
        """A write tool is about to be called."""
        self.writes += 1
        adrift = bool(self.losing_all or self.losing[worker])
        split = self.split
        write = self.open[number] = Write(number, worker, entities, time, adrift, split, self.tick())
        if adrift:
            self._adrift.update(write.entities)

    def tool_enters(self, number: int) -> None:
        """The write tool itself runs: the window is open."""
        write = self.open[number]
        write.ran = True
        write.heard.append(self.tick())

    def commit(self, number: int, entities: list[str]) -> None:
        """The write takes effect."""
        event = self.tick()
        write = self.open[number]
        write.heard.append(event)
        for entity in entities:
            self._land(entity, event, write.worker)
            write.versions[entity] = self._version[entity]

    def commit_late(self, worker: int, entities: list[str]) -> None:
        """A write takes effect after its call has ended."""
        event = self.tick()
        for entity in entities:
            self._land(entity, event, worker)

    def _land(self, entity: str, event: int, worker: int) -> None:
        self._version[entity] += 1
        history = self._history[entity]
        history.append((event, self._version[entity], worker))
        if len(history) > _KEPT_COMMITS:
            del history[0]

    def tool_ends(self, number: int, *, heard: bool) -> None:
        """The write tool has ended; ``heard``: and waits to be told that this was noted."""
        write = self.open[number]
        event = self.tick()
        if heard:
            write.heard.append(event)

    def write_ends(self, number: int, how: str, heard: int, undelivered: bool = False) -> None:
        """Its caller knows: it ``returned``, ``raised``, was ``cancelled``, had ``no effect`` or was ``refused``.

        ``heard``: so many of its questions had been answered when it ended, surely before its window was closed.
        ``undelivered``: the store could not be told; nothing holds until the next write.
        """
        write = self.open.pop(number)
        self.tick()
        self.ended_by[how] += 1
        self.ended_by["undelivered"] += undelivered
        if how == "refused":
            self.refused += 1
        self._close(write, self._returned if how == "returned" else self._failed)
        if not write.ran or how == "no effect":  # one that was cancelled before its tool ran is not a write
            return
        if heard:
            self._bounds(write, write.heard[min(heard, len(write.heard)) - 1])
        if write.split or undelivered:
            self._loses(write.entities)
        elif heard:
            for entity in write.entities:  # one that had begun before that may have been told of earlier
                if self._lost.get(entity, self.now) < write.noted:
                    del self._lost[entity]

    def _bounds(self, write: Write, barrier: int) -> None:
        """Its window was surely still open at ``barrier``: what was loaded before that is not to be served any more."""
        for entity in write.entities:
            self._barrier[entity] = max(self._barrier[entity], barrier)

    def died(self, worker: int) -> list[Write]:
        """A worker is gone, and everything it had said has been heard; its writes stay open until :meth:`buried`."""
        for number in [r.number for r in self.readings.values() if r.worker == worker]:
            del self.readings[number]
        for number in [n for n, own in self.own.items() if own.worker == worker]:
            del self.own[number]
        for load in self.loads.values():
            if load.worker == worker and load.running:
                load.running, load.ended = False, self.tick()
        return [write for write in self.open.values() if write.worker == worker]

    def buried(self, write: Write) -> None:
        """From now on nobody may fall behind what a dead worker had committed."""
        del self.open[write.number]
        self.tick()
        self.ended_by["killed"] += 1
        if write.adrift or write.split or not self.windows:
            self._loses(write.versions)
        self._close(write, self._failed)

    def _loses(self, entities: Iterable[str]) -> None:
        self._lost.update(dict.fromkeys(entities, self.now))

    def _close(self, write: Write, floor: Counter[str]) -> None:
        for entity, version in write.versions.items():
            floor[entity] = max(floor[entity], version)
        if write.adrift:
            self._adrift.subtract(write.entities)

    # -- faults -------------------------------------------------------------------------------------------------

    def markers_going(self, worker: int | None) -> None:
        """Until :meth:`markers_gone`, windows (of this worker) may lose their markers."""
        if worker is None:
            self.losing_all += 1
        else:
            self.losing[worker] += 1
        for write in self.open.values():
            if not write.adrift and worker in (None, write.worker):
                write.adrift = True
                self._adrift.update(write.entities)

    def markers_gone(self, worker: int | None) -> None:
        """The fault is over; what it took stays lost."""
        if worker is None:
            self.losing_all -= 1
        else:
            self.losing[worker] -= 1

    def brain_splits(self) -> None:
        """Until :meth:`brain_heals`, two servers may both be primary: what is written now may be lost on both."""
        self.split = True
        for write in self.open.values():
            write.split = True

    def brain_heals(self) -> None:
        """One primary again."""
        self.split = False

    # -- reads --------------------------------------------------------------------------------------------------

    def read_begins(
        self,
        worker: int,
        time: float,
        number: int,
        session: str,
        key: str,
        owner: str,
        entities: list[str],
        parts: Sequence[str] = (),
    ) -> None:
        """A read tool is about to be called. ``parts``: the keys of the reads it is put together from, one per entity."""
        seen, adrift = self._seen[session], self._adrift
        self.readings[number] = Reading(
            number,
            worker,
            session,
            key,
            owner,
            entities,
            self.tick(),
            time,
            [self._version[e] for e in entities],
            [self._returned[e] for e in entities],
            [self._failed[e] for e in entities],
            [seen[e] for e in entities],
            [self._barrier[e] for e in entities],
            any(adrift[e] > 0 for e in entities),
            self.split or self.is_lost(entities),
            list(parts),
        )

    def read_ends(self, number: int, value: object) -> set[str]:
        """The call returned ``value``: was that right? What it broke."""
        reading = self.readings.pop(number)
        self.tick()
        self.reads += 1
        broken = self._judge(reading, value)
        if not broken:
            return broken
        if reading.lost or self.split or self.is_lost(reading.entities):
            pardoned = broken & {"C0", "C1", "C2", "C3", "C4"}
        elif reading.excused or any(self._adrift[e] > 0 for e in reading.entities):
            pardoned = broken & {"C0", "C3"}
        else:
            pardoned = set()
        self.excused.update(pardoned)
        broken -= pardoned
        self.unpromised.update(broken - self.checks)
        broken &= self.checks
        if broken:
            self.violations += 1
            self.broken.update(broken)
            self.example(self._tell(broken, reading, value))
        return broken

    def read_fails(self, number: int, load: int | None) -> str | None:
        """The call ended without a value; ``load``: with the failure of that load. What is wrong with that."""
        reading = self.readings.pop(number)
        self.tick()
        if load is None:
            return None
        failed = self.loads.get(load)
        if failed is None or failed.owner != reading.owner or failed.key not in (reading.key, *reading.parts):
            return f"{reading.key} got the failure of another call's load {load}"
        if not failed.running and failed.ended < reading.start:
            return f"{reading.key} got the failure of load {load}, long over"
        return None

    def _judge(self, reading: Reading, value: object) -> set[str]:
        if not isinstance(value, list) or len(value) != 3 or not isinstance(value[0], int):
            return {"P2"}
        if not reading.parts:
            versions, broken = self._judge_part(reading.key, reading.entities, reading, value)
            starts = self._starts(value, len(reading.entities))
        else:
            if not isinstance(value[2], list) or len(value[2]) != len(reading.parts):
                return {"P2"}
            if value[1] != reading.owner:
                return {"P3"}
            versions, broken, starts = [], set(), []
            for key, entity, part in zip(reading.parts, reading.entities, value[2], strict=True):
                found, wrong = self._judge_part(key, [entity], reading, part)
                broken |= wrong
                versions += found
                starts += self._starts(part, len(found))
        if broken:
            return broken
        for name, floors in (
            ("C0", reading.committed),
            ("C1", reading.returned),
            ("C4", reading.failed),
            ("C3", reading.seen),
        ):
            if any(got < floor for got, floor in zip(versions, floors, strict=True)):
                broken.add(name)
        if any(start < barrier for start, barrier in zip(starts, reading.barriers, strict=True)):
            broken.add("C2")
        seen = self._seen[reading.session]
        for entity, got in zip(reading.entities, versions, strict=True):
            if got > seen[entity]:
                seen[entity] = got
        return broken

    def _judge_part(self, key: str, entities: list[str], reading: Reading, value: object) -> tuple[list[int], set[str]]:
        """What one load said of ``entities``, and whether it is what that load said, and of the right call."""
        if not isinstance(value, list) or len(value) != 3 or not isinstance(value[0], int):
            return [], {"P2"}
        load = self.loads.get(value[0])
        if load is None:
            return [], {"P2"}
        if (load.key, load.owner, load.entities) != (key, reading.owner, entities):
            return [], {"P3"}
        if load.sampled is None or value != [load.number, load.owner, load.sampled]:
            return [], {"P2"}
        return load.sampled, set()

    def _starts(self, value: object, times: int) -> list[int]:
        load = self.loads.get(value[0]) if isinstance(value, list) and value else None
        return [load.start if load is not None else 0] * times

    def _tell(self, broken: set[str], reading: Reading, value: object) -> str:
        load = self.loads.get(value[0]) if isinstance(value, list) and value else None
        began = f"load {load.number} began at {load.start} in worker {load.worker}" if load is not None else "no load"
        return (
            f"{'+'.join(sorted(broken))}: {reading.key} by {reading.session} in worker {reading.worker} started at "
            f"{reading.start}, ended at {self.now} and got {value} ({began}) where {reading.committed} was committed, "
            f"{reading.returned} returned, {reading.failed} failed, {reading.seen} seen, the last write ended at "
            f"{reading.barriers}; last commits (event, version, worker): "
            f"{ {e: self._history[e] for e in reading.entities} }"
        )

    # -- calls in worlds of their own ------------------------------------------------------------------------------

    def own_begins(self, worker: int, time: float, number: int, what: str) -> None:
        """A tool is about to be called whose source is its session's own."""
        self.own[number] = Own(worker, time, what)

    def own_load_begins(self, key: str) -> None:
        """A read tool begins to run there."""
        self.loads_begun += 1
        self.loads_of[key] += 1

    def own_read_ends(self, number: int, answered: bool, broken: list[str], text: str) -> None:
        """A read there has ended; ``broken``: what its worker found."""
        own = self.own.pop(number)
        self.reads += answered
        if broken:
            self.violations += 1
            self.broken.update(broken)
            self.example(f"{'+'.join(broken)}: worker {own.worker}: {text}")

    def own_write_ends(self, number: int, how: str) -> None:
        """A write there has ended."""
        del self.own[number]
        self.writes += 1
        self.refused += how == "refused"
        self.ended_by[how] += 1

    def fails(self, text: str) -> None:
        """A call failed through no fault of its own."""
        self.spurious += 1
        self.example(f"spurious: {text}")

    def example(self, text: str) -> None:
        """Remember what happened, in words; the first few."""
        if len(self.examples) < _EXAMPLES:
            self.examples.append(text)
