"""The source of truth of the litmus: what was committed when, who read what, and whether that was right.

Everything happens in one thread and every event takes the next number of one counter, so "before" is exact and no
clock is compared. What belongs here: the source, its history and the verdict on one read. What does not: which calls
are made in which order, and how a cache is put in front of them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from contextvars import ContextVar
from dataclasses import dataclass, field

__all__ = ["Entity", "Load", "LoadFailed", "Reading", "Session", "Value", "Window", "World"]

Entity = tuple[str, ...]
"""What can change by itself: family, perhaps whose, and id."""
Value = tuple[int, str, tuple[int, ...]]
"""What a read tool returns: the number of its load, whose copy it is, the versions of its entities."""

_EXAMPLES = 20
_asked: ContextVar[int] = ContextVar("litmus_asked", default=0)
"""When the read was called that is running here; a load runs in a copy of its caller's context."""


@dataclass(frozen=True, slots=True)
class Session:
    """One session of the litmus, and whose calls are made in it."""

    name: str
    identity: dict[str, str]

    def owner(self, scope: str) -> str:
        """Whose copy a read of this scope is."""
        if scope == "global":
            return ""
        return self.name if scope == "session" else f"{self.identity['tenant']}/{self.identity['user']}"


@dataclass(slots=True)
class Load:
    """One run of a read tool."""

    number: int
    key: tuple[str, ...]
    owner: str
    entities: tuple[Entity, ...]
    start: int
    asked: int
    """When the call was made for which it runs."""
    clean: bool
    """Asked for and begun while no write to its entities was running or settling."""
    running: bool = True
    ended: int = 0
    ok: bool = False
    sampled: tuple[int, ...] = ()
    rivals: int = 0
    """Loads of the same key that began while this one ran and was fit to be shared."""


class LoadFailed(Exception):  # noqa: N818 - the litmus's tools fail on purpose
    """A read tool failed on purpose. Plain enough to be kept where errors are answers."""

    def __init__(self, number: int) -> None:
        super().__init__(number)

    @property
    def number(self) -> int:
        """Of its load."""
        number: int = self.args[0]
        return number


@dataclass(slots=True)
class Window:
    """One call of a write tool, from the call to its end."""

    entities: tuple[Entity, ...]
    effect: bool = True
    """False once the tool declared that it changed nothing."""
    tool_ended: int = 0
    versions: dict[Entity, int] = field(default_factory=dict)
    """What it has committed."""
    beside: tuple[Entity, ...] = ()
    """What the window covers only because it is not known before the end which entity is written."""
    ident: object = None
    """What the result says was written; None: it does not say."""


@dataclass(slots=True)
class Reading:
    """One call of a read tool: what it may not fall behind, noted when it started."""

    session: str
    key: tuple[str, ...]
    owner: str
    entities: tuple[Entity, ...]
    start: int
    committed: tuple[int, ...]
    returned: tuple[int, ...]
    seen: tuple[int, ...]
    barrier: int


class World:
    """The source, the notes of every event, and the checks C0 to C3, P2, P3 and P5."""

    def __init__(self, checks: frozenset[str], *, keeps_errors: bool = False) -> None:
        self.checks = checks
        self.keeps_errors = keeps_errors
        self.now = 0
        self.history: dict[Entity, list[tuple[int, int]]] = defaultdict(list)
        """Per entity the commits in order: (event number, version)."""
        self.loads: list[Load] = []
        self.broken: Counter[str] = Counter()
        """Broken promises by name; one read can break several."""
        self.violations = 0
        """Reads that broke at least one of them, P5 apart."""
        self.refetched = 0
        """Loads of what was already there or on its way (P5)."""
        self.served = 0
        """Reads that got a value."""
        self.examples: list[str] = []
        self._version: Counter[Entity] = Counter()
        self._returned: Counter[Entity] = Counter()
        self._barrier: Counter[Entity] = Counter()
        self._open: Counter[Entity] = Counter()
        self._touched: Counter[Entity] = Counter()
        self._quiet_at: defaultdict[Entity, float] = defaultdict(float)
        self._seen: defaultdict[str, Counter[Entity]] = defaultdict(Counter)
        self._shareable: dict[tuple[str, ...], Load] = {}

    def tick(self) -> int:
        """The number of the next event."""
        self.now += 1
        return self.now

    def current(self, entities: tuple[Entity, ...]) -> tuple[int, ...]:
        return tuple(self._version[entity] for entity in entities)

    # -- writes -------------------------------------------------------------------------------------------------

    def open(self, entities: tuple[Entity, ...], beside: tuple[Entity, ...] = ()) -> Window:
        """A write tool is being called. ``beside``: what its window covers though it is not written."""
        event = self.tick()
        beside = tuple(entity for entity in beside if entity not in entities)
        for entity in entities + beside:
            self._open[entity] += 1
            self._touched[entity] = event
        return Window(entities, beside=beside)

    def commit(self, window: Window, entities: tuple[Entity, ...], *, late: bool = False) -> None:
        """The write takes effect. ``late``: after its tool has ended."""
        event = self.tick()
        for entity in entities:
            self._version[entity] += 1
            window.versions[entity] = self._version[entity]
            self.history[entity].append((event, self._version[entity]))
        if late:
            for entity in window.entities:
                self._barrier[entity] = event

    def close(self, window: Window, *, quiet_at: float) -> None:
        """The write tool has returned, raised or been cancelled, and its caller knows."""
        event = self.tick()
        for entity in window.entities + window.beside:
            self._open[entity] -= 1
            self._touched[entity] = event
            self._quiet_at[entity] = max(self._quiet_at[entity], quiet_at)
        for entity in window.entities:
            if window.effect:
                self._barrier[entity] = max(self._barrier[entity], window.tool_ended)
        for entity, version in window.versions.items():
            self._returned[entity] = max(self._returned[entity], version)

    # -- loads --------------------------------------------------------------------------------------------------

    def load_begins(self, key: tuple[str, ...], owner: str, entities: tuple[Entity, ...], time: float) -> Load:
        """A read tool begins to run."""
        asked = _asked.get()
        touched = max(self._touched[e] for e in entities)
        clean = asked > touched and not any(self._open[e] or time < self._quiet_at[e] for e in entities)
        load = Load(len(self.loads), key, owner, entities, self.tick(), asked, clean)
        self.loads.append(load)
        before = self._shareable.get(key)
        if before is not None and min(asked, before.asked) > touched:
            if before.ok:
                self._refetch(load, before)
                return load
            if before.running:
                before.rivals += 1
                return load
        if clean:
            self._shareable[key] = load
        return load

    def load_ends(self, load: Load, *, ok: bool) -> None:
        """A read tool has run to its end, failed, or been cancelled."""
        load.ended = self.tick()
        load.running = False
        load.ok = ok
        if ok and load.rivals:
            self._refetch(load, load)

    def _refetch(self, load: Load, before: Load) -> None:
        if "P5" not in self.checks:
            return
        self.refetched += 1
        self.broken["P5"] += 1
        self._example(f"P5: {load.key}: load {load.number} although load {before.number} was there for it")

    # -- reads --------------------------------------------------------------------------------------------------

    def read_begins(self, session: str, key: tuple[str, ...], owner: str, entities: tuple[Entity, ...]) -> Reading:
        """A read tool is being called."""
        seen = self._seen[session]
        event = self.tick()
        _asked.set(event)
        return Reading(
            session,
            key,
            owner,
            entities,
            event,
            self.current(entities),
            tuple(self._returned[e] for e in entities),
            tuple(seen[e] for e in entities),
            max(self._barrier[e] for e in entities),
        )

    def read_ends(self, reading: Reading, value: object) -> None:
        """The call returned ``value``: was that right?"""
        self.served += 1
        broken = self._judge(reading, value) & self.checks
        if broken:
            self.violations += 1
            self.broken.update(broken)
            history = {e: self.history[e][-4:] for e in reading.entities}
            self._example(
                f"{'+'.join(sorted(broken))}: {reading.key} by {reading.session}, started at {reading.start}, got {value}"
                f" where {reading.committed} was committed, {reading.returned} returned, {reading.seen} seen;"
                f" last commits (event, version): {history}"
            )

    def _judge(self, reading: Reading, value: object) -> set[str]:
        if not (isinstance(value, tuple) and len(value) == 3 and type(value[0]) is int and value[0] < len(self.loads)):
            return {"P2"}
        load = self.loads[value[0]]
        broken: set[str] = set()
        if (load.key, load.owner, load.entities) != (reading.key, reading.owner, reading.entities):
            return {"P3"}
        versions: tuple[int, ...] = value[2]
        if value != (load.number, load.owner, load.sampled):
            return {"P2"}
        if any(got < floor for got, floor in zip(versions, reading.committed, strict=True)):
            broken.add("C0")
        if any(got < floor for got, floor in zip(versions, reading.returned, strict=True)):
            broken.add("C1")
        if load.start < reading.barrier:
            broken.add("C2")
        if any(got < floor for got, floor in zip(versions, reading.seen, strict=True)):
            broken.add("C3")
        seen = self._seen[reading.session]
        for entity, got in zip(reading.entities, versions, strict=True):
            seen[entity] = max(seen[entity], got)
        return broken

    def legitimate(self, reading: Reading, failure: LoadFailed) -> bool:
        """May this call end with this failure? Only if it is one of its own load, not of one long over; where errors are
        kept, of one that began after the last write had ended."""
        load = self.loads[failure.number]
        if (load.key, load.owner) != (reading.key, reading.owner):
            return False
        return load.ended > reading.start or (self.keeps_errors and load.start >= reading.barrier)

    def _example(self, text: str) -> None:
        if len(self.examples) < _EXAMPLES:
            self.examples.append(text)
