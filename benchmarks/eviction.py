"""Which eviction policy finds most: hit ratios on made and recorded traces, beside what could be had.

    python benchmarks/eviction.py [--quick] [--cost] [--json FILE]
    python benchmarks/eviction.py --weighed [--quick] [--json FILE]

Ours (`agent_cache.backends.eviction`) run as a backend runs them: a hit sets a flag and nothing more. The others are
plain models of the published policies, which see every hit. `optimum` is Belady's, which knows the future and may
decline to store. `ours / best` is the adaptive policy over the best of all others on that very trace.

`--weighed` is about loads that differ in time: which share of the seconds of loading is saved, by the policies that
weigh it and by those that do not, where entries are bounded and where bytes are.

Made traces are seeded, and as long as their capacity asks for; each row is the mean over the seeds. Exit code: 0.
"""

from __future__ import annotations

import argparse
import gzip
import heapq
import json
import random
import statistics
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

from agent_cache.backends.eviction import Adaptive, Clock, CostAware, EvictionPolicy, S3Fifo, eviction_policy

DATA = Path(__file__).resolve().parent / "data"
RECORDED = ("tau1_airline_gpt4o", "tau2_airline_whissle")
OURS = "adaptive"
Trace = list[int]


# ------------------------------------------------------------------ traces


def zipf(rng: random.Random, keys: int, alpha: float, length: int) -> Trace:
    """Independent requests; the k-th key has the weight k ** -alpha."""
    weights = list(accumulate((k + 1) ** -alpha for k in range(keys)))
    return rng.choices(range(keys), cum_weights=weights, k=length)


def loop(keys: int, length: int) -> Trace:
    return [i % keys for i in range(length)]


def with_scans(rng: random.Random, capacity: int, length: int) -> Trace:
    """Zipf 1.0; after each `capacity` requests half as many for keys that are asked for once."""
    popular = zipf(rng, 20 * capacity, 1.0, length)
    fresh = 10**9
    half = max(1, capacity // 2)
    trace: Trace = []
    for start in range(0, length, 2 * half):
        trace += popular[start : start + 2 * half]
        trace += range(fresh, fresh + half)
        fresh += half
    return trace[:length]


def loop_and_zipf(rng: random.Random, capacity: int, length: int) -> Trace:
    """Seven in ten requests go round in a loop of 1.5 times the capacity, the others are zipf 1.0."""
    popular = zipf(rng, 20 * capacity, 1.0, length)
    place = 0
    trace: Trace = []
    for key in popular:
        if rng.random() < 0.3:
            trace.append(10**9 + key)
        else:
            trace.append(place)
            place = (place + 1) % (capacity * 3 // 2)
    return trace


def shifting(rng: random.Random, capacity: int, length: int) -> Trace:
    """Zipf 1.0 over ten times the capacity; after as many requests a tenth of the keys is new and hot ones move."""
    keys = 10 * capacity
    ranks = zipf(rng, keys, 1.0, length)
    names = list(range(keys))
    fresh = 10**9
    trace: Trace = []
    for start in range(0, length, keys):
        trace += [names[rank] for rank in ranks[start : start + keys]]
        for rank in rng.sample(range(keys), keys // 10):
            names[rank] = fresh
            fresh += 1
        for _ in range(keys // 20):
            a, b = rng.randrange(max(1, keys // 20)), rng.randrange(keys)
            names[a], names[b] = names[b], names[a]
    return trace


def sessions(
    rng: random.Random,
    capacity: int,
    length: int,
    *,
    share: float = 25,
    own: int = 10,
    calls: int = 100,
    common: float = 0.3,
) -> Trace:
    """`capacity / share` agents at once, each asking for about `own` things of its own, `calls` times in all; a part of
    the calls is for what everybody asks for (zipf 1.0)."""
    popular = zipf(rng, 20 * capacity, 1.0, length)
    fresh = 10**9

    def start() -> tuple[range, list[int]]:
        nonlocal fresh
        size = max(1, int(rng.gauss(own, own / 3)))
        fresh += size
        return range(fresh - size, fresh), [rng.randint(calls // 2, calls * 3 // 2)]

    running = [start() for _ in range(max(2, int(capacity / share)))]
    for _, left in running:
        left[0] = rng.randint(1, calls)
    trace: Trace = []
    for key in popular:
        if rng.random() < common:
            trace.append(key)
            continue
        place = rng.randrange(len(running))
        things, left = running[place]
        trace.append(rng.choice(things))
        left[0] -= 1
        if not left[0]:
            running[place] = start()
    return trace


def phases(rng: random.Random, capacity: int, length: int) -> Trace:
    """Sessions, a loop, zipf 0.9 and scans, one after the other, twice."""
    part = length // 8
    trace: Trace = []
    for _ in range(2):
        trace += sessions(rng, capacity, part)
        trace += loop(capacity * 3 // 2, part)
        trace += [2 * 10**9 + key for key in zipf(rng, 20 * capacity, 0.9, part)]
        trace += with_scans(rng, capacity, part)
    return trace


def recorded(name: str, own: bool) -> Trace:
    """The reads of a recorded workload, sessions interleaved; `own`: nobody shares with another session."""
    names: dict[tuple[str, str, str], int] = {}
    trace: Trace = []
    text = gzip.decompress((DATA / f"{name}.inter.jsonl.gz").read_bytes()).decode("utf-8")
    for row in map(json.loads, text.splitlines()):
        if row["k"] in ("read", "pure"):
            key = (row["s"] if own else "", row["t"], json.dumps(row["a"], sort_keys=True))
            trace.append(names.setdefault(key, len(names)))
    return trace


Maker = Callable[[random.Random, int, int], Trace]
MADE: dict[str, Maker] = {
    "zipf 0.6": lambda rng, c, n: zipf(rng, 20 * c, 0.6, n),
    "zipf 0.8": lambda rng, c, n: zipf(rng, 20 * c, 0.8, n),
    "zipf 1.0": lambda rng, c, n: zipf(rng, 20 * c, 1.0, n),
    "zipf 1.2": lambda rng, c, n: zipf(rng, 20 * c, 1.2, n),
    "zipf 1.0 + 1/3 scans": with_scans,
    "loop over 1.1 C": lambda _, c, n: loop(c * 11 // 10, n),
    "loop over 1.5 C": lambda _, c, n: loop(c * 3 // 2, n),
    "loop over 3 C": lambda _, c, n: loop(3 * c, n),
    "loop + 30% zipf": loop_and_zipf,
    "shifting zipf": shifting,
    "sessions": sessions,
    "sessions, nothing shared": lambda rng, c, n: sessions(rng, c, n, common=0.0),
    "sessions, 60% shared": lambda rng, c, n: sessions(rng, c, n, common=0.6),
    "sessions, large sets": lambda rng, c, n: sessions(rng, c, n, share=50, own=30, calls=150),
    "sessions, twice as many": lambda rng, c, n: sessions(rng, c, n, share=12.5),
    "all in turn": phases,
}


def scattered(trace: Trace) -> Trace:
    """Other names for the keys, spread as digests are, and the same in every run."""
    rng = random.Random(len(trace))
    names: dict[int, int] = {}
    return [names[key] if key in names else names.setdefault(key, rng.getrandbits(60)) for key in trace]


# ------------------------------------------------------------------ policies


class Cache(Protocol):
    def access(self, key: int) -> bool:
        """Ask for a key, and store it if it was not there. Tells whether it was."""


class Entry:
    __slots__ = ("dead", "key", "visited")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.visited = False
        self.dead = False


class Flagged:
    """A cache under one of our policies: a hit is one store of one flag."""

    def __init__(self, policy: EvictionPolicy[Entry]) -> None:
        self.policy = policy
        self.entries: dict[int, Entry] = {}

    def access(self, key: int) -> bool:
        entry = self.entries.get(key)
        if entry is not None:
            entry.visited = True
            return True
        entry = self.entries[key] = Entry(key)
        victim = self.policy.add(entry)
        if victim is not None:
            victim.dead = True
            del self.entries[victim.key]  # type: ignore[arg-type]
        return False


class Lru:
    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.order: OrderedDict[int, None] = OrderedDict()

    def access(self, key: int) -> bool:
        if key in self.order:
            self.order.move_to_end(key)
            return True
        if len(self.order) >= self.capacity:
            self.order.popitem(last=False)
        self.order[key] = None
        return False


class Sieve:
    """A queue that is never reordered, and a hand going through it from old to new (Zhang et al., NSDI 2024)."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.visited: dict[int, bool] = {}
        self.newer: dict[int, int | None] = {}
        self.older: dict[int, int | None] = {}
        self.newest: int | None = None
        self.oldest: int | None = None
        self.hand: int | None = None

    def access(self, key: int) -> bool:
        if key in self.visited:
            self.visited[key] = True
            return True
        if len(self.visited) >= self.capacity:
            self.evict()
        self.visited[key] = False
        self.newer[key], self.older[key] = None, self.newest
        if self.newest is not None:
            self.newer[self.newest] = key
        self.newest = key
        if self.oldest is None:
            self.oldest = key
        return False

    def evict(self) -> None:
        place = self.hand if self.hand is not None else self.oldest
        assert place is not None
        while self.visited[place]:
            self.visited[place] = False
            after = self.newer[place]
            place = after if after is not None else self.oldest
            assert place is not None
        newer, older = self.newer.pop(place), self.older.pop(place)
        self.hand = newer
        del self.visited[place]
        if newer is None:
            self.newest = older
        else:
            self.older[newer] = older
        if older is None:
            self.oldest = newer
        else:
            self.newer[older] = newer


class PublishedS3Fifo:
    """A tenth for new ones, hits counted to three, ghosts for the rest (Yang et al., SOSP 2023)."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.room = max(1, capacity // 10)
        self.small: deque[int] = deque()
        self.main: deque[int] = deque()
        self.ghosts: OrderedDict[int, None] = OrderedDict()
        self.hits: dict[int, int] = {}

    def access(self, key: int) -> bool:
        if key in self.hits:
            self.hits[key] = min(3, self.hits[key] + 1)
            return True
        while len(self.hits) >= self.capacity:
            self.step()
        self.hits[key] = 0
        if key in self.ghosts:
            del self.ghosts[key]
            self.main.append(key)
        else:
            self.small.append(key)
        return False

    def step(self) -> None:
        if len(self.small) >= self.room or not self.main:
            key = self.small.popleft()
            if self.hits[key]:
                self.hits[key] = 0
                self.main.append(key)
                return
            self.ghosts[key] = None
            if len(self.ghosts) > self.capacity - self.room:
                self.ghosts.popitem(last=False)
        else:
            key = self.main.popleft()
            if self.hits[key]:
                self.hits[key] -= 1
                self.main.append(key)
                return
        del self.hits[key]


class TinyLfu:
    """W-TinyLFU with a window of 1%, and exact counts where others keep a sketch (Einziger et al., TOS 2017)."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.window_room = max(1, capacity // 100)
        self.main_room = capacity - self.window_room
        self.protected_room = self.main_room * 8 // 10
        self.window: OrderedDict[int, None] = OrderedDict()
        self.probation: OrderedDict[int, None] = OrderedDict()
        self.protected: OrderedDict[int, None] = OrderedDict()
        self.counts: dict[int, int] = {}
        self.counted = 0

    def access(self, key: int) -> bool:
        self.count(key)
        if key in self.window:
            self.window.move_to_end(key)
            return True
        if key in self.protected:
            self.protected.move_to_end(key)
            return True
        if key in self.probation:
            del self.probation[key]
            self.protected[key] = None
            if len(self.protected) > self.protected_room:
                self.probation[self.protected.popitem(last=False)[0]] = None
            return True
        self.window[key] = None
        if len(self.window) > self.window_room:
            self.admit(self.window.popitem(last=False)[0])
        return False

    def count(self, key: int) -> None:
        self.counts[key] = min(15, self.counts.get(key, 0) + 1)
        self.counted += 1
        if self.counted >= 10 * self.capacity:
            self.counted //= 2
            self.counts = {known: count // 2 for known, count in self.counts.items() if count > 1}

    def admit(self, key: int) -> None:
        if len(self.probation) + len(self.protected) < self.main_room:
            self.probation[key] = None
            return
        segment = self.probation or self.protected
        if segment:
            other = next(iter(segment))
            if self.counts.get(key, 0) > self.counts.get(other, 0):
                del segment[other]
                self.probation[key] = None


class Arc:
    """Recent and frequent, split by what comes back (Megiddo and Modha, FAST 2003)."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.target = 0.0
        self.recent: OrderedDict[int, None] = OrderedDict()
        self.frequent: OrderedDict[int, None] = OrderedDict()
        self.left_recent: OrderedDict[int, None] = OrderedDict()
        self.left_frequent: OrderedDict[int, None] = OrderedDict()

    def access(self, key: int) -> bool:
        if key in self.recent:
            del self.recent[key]
            self.frequent[key] = None
            return True
        if key in self.frequent:
            self.frequent.move_to_end(key)
            return True
        recents, frequents = len(self.left_recent), len(self.left_frequent)
        if key in self.left_recent:
            self.target = min(self.capacity, self.target + max(1, frequents / recents))
            self.replace(False)
            del self.left_recent[key]
            self.frequent[key] = None
        elif key in self.left_frequent:
            self.target = max(0, self.target - max(1, recents / frequents))
            self.replace(True)
            del self.left_frequent[key]
            self.frequent[key] = None
        else:
            self.make_room()
            self.recent[key] = None
        return False

    def make_room(self) -> None:
        first = len(self.recent) + len(self.left_recent)
        total = first + len(self.frequent) + len(self.left_frequent)
        if first == self.capacity:
            if len(self.recent) < self.capacity:
                self.left_recent.popitem(last=False)
                self.replace(False)
            else:
                self.recent.popitem(last=False)
        elif total >= self.capacity:
            if total >= 2 * self.capacity:
                self.left_frequent.popitem(last=False)
            self.replace(False)

    def replace(self, frequent_came_back: bool) -> None:
        size = len(self.recent)
        if size and (size > self.target or (frequent_came_back and size == self.target) or not self.frequent):
            self.left_recent[self.recent.popitem(last=False)[0]] = None
        else:
            self.left_frequent[self.frequent.popitem(last=False)[0]] = None


POLICIES: dict[str, Callable[[int], Cache]] = {
    "LRU": Lru,
    "CLOCK": lambda capacity: Flagged(Clock(capacity)),
    "SIEVE": Sieve,
    "S3-FIFO": PublishedS3Fifo,
    "W-TinyLFU": TinyLfu,
    "ARC": Arc,
    "s3fifo": lambda capacity: Flagged(S3Fifo(capacity)),
    OURS: lambda capacity: Flagged(Adaptive(capacity)),
}


def hits(cache: Cache, trace: Sequence[int]) -> int:
    return sum(map(cache.access, trace))


def optimal_hits(trace: Sequence[int], capacity: int) -> int:
    """Belady: what is needed last goes, or does not come in."""
    never = len(trace)
    following = [never] * len(trace)
    last: dict[int, int] = {}
    for place in range(len(trace) - 1, -1, -1):
        following[place] = last.get(trace[place], never)
        last[trace[place]] = place
    stored: dict[int, int] = {}
    latest: list[tuple[int, int]] = []
    found = 0
    for place, key in enumerate(trace):
        needed = following[place]
        if key in stored:
            found += 1
        elif needed == never:
            continue
        elif len(stored) >= capacity:
            while stored.get(latest[0][1]) != -latest[0][0]:
                heapq.heappop(latest)
            if -latest[0][0] <= needed:
                continue
            del stored[heapq.heappop(latest)[1]]
        stored[key] = needed
        heapq.heappush(latest, (-needed, key))
    return found


# ------------------------------------------------------------------ the table


@dataclass(frozen=True)
class Row:
    """Hit ratios on one trace at one capacity, means over the seeds."""

    trace: str
    capacity: int
    requests: int
    seeds: int
    ratios: dict[str, float]
    optimum: float

    @property
    def best(self) -> str:
        return max((name for name in self.ratios if name != OURS), key=self.ratios.__getitem__)

    @property
    def ours_to_best(self) -> float:
        best = self.ratios[self.best]
        return self.ratios[OURS] / best if best else 1.0


def measure(name: str, capacity: int, traces: Sequence[Trace]) -> Row:
    named = [scattered(trace) for trace in traces]
    ratios = {
        policy: statistics.mean(hits(make(capacity), trace) / len(trace) for trace in named)
        for policy, make in POLICIES.items()
    }
    optimum = statistics.mean(optimal_hits(trace, capacity) / len(trace) for trace in named)
    return Row(name, capacity, len(traces[0]), len(traces), ratios, optimum)


def measure_made(job: tuple[str, int, int]) -> Row:
    name, capacity, seeds = job
    length = {10: 20_000, 128: 40_000, 1000: 150_000}.get(capacity, 40 * capacity)
    chance = not name.startswith("loop over")
    traces = [
        MADE[name](random.Random(f"{name} {capacity} {seed}"), capacity, length)
        for seed in range(seeds if chance else 1)
    ]
    return measure(name, capacity, traces)


def measure_recorded(job: tuple[str, int, bool]) -> Row:
    name, capacity, own = job
    return measure(f"{name}, {'own' if own else 'shared'}", capacity, [recorded(name, own)])


def all_rows(quick: bool, workers: int) -> Iterator[Row]:
    capacities, seeds = ([128], 1) if quick else ([10, 128, 1000, 10_000], 3)
    made = [(name, capacity, 1 if capacity > 1000 else seeds) for capacity in capacities for name in MADE]
    files = [(name, capacity, own) for name in RECORDED for own in (False, True) for capacity in (16, 32, 64, 128)]
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(measure_made, made)
        yield from pool.map(measure_recorded, files)


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    names = list(POLICIES)
    lines = [
        "| trace | capacity | " + " | ".join(names) + " | optimum | ours / best |",
        "|---|---" + "|---" * len(names) + "|---|---|",
    ]
    for row in rows:
        cells = [f"{row.ratios[name]:.3f}".lstrip("0") for name in names]
        cells = [
            f"**{cell}**" if row.ratios[name] == max(row.ratios.values()) else cell
            for name, cell in zip(names, cells, strict=True)
        ]
        last = f"{row.optimum:.3f}".lstrip("0"), f"{row.ours_to_best:.3f} ({row.best})"
        lines.append(f"| {row.trace} | {row.capacity} | " + " | ".join([*cells, *last]) + " |")
    return "\n".join(lines)


def summary(rows: Sequence[Row]) -> str:
    """Each policy beside the best of all on each trace: its worst, and how often it is within 2% and 5%."""
    lines = ["| policy | worst, / best of all | geometric mean | >= 0.98 | >= 0.95 | of |", "|---|---|---|---|---|---|"]
    for name in POLICIES:
        shares = [row.ratios[name] / max(row.ratios.values()) for row in rows if max(row.ratios.values())]
        mean = statistics.geometric_mean([max(share, 0.001) for share in shares])
        near = [sum(share >= least for share in shares) for least in (0.98, 0.95)]
        lines.append(f"| {name} | {min(shares):.3f} | {mean:.3f} | {near[0]} | {near[1]} | {len(shares)} |")
    return "\n".join(lines)


# ------------------------------------------------------------------ loads that differ


class WeighedEntry(Entry):
    __slots__ = ("cost", "load_seconds", "size")

    def __init__(self, key: Hashable, load_seconds: float, size: int) -> None:
        super().__init__(key)
        self.load_seconds = load_seconds
        self.cost = 0.0
        self.size = size


TOOLS = ((0.5, 0.005), (0.3, 0.05), (0.15, 0.4), (0.05, 3.0))
"""Shares of the keys and median seconds of a load: a table, a service, a search, a model."""


def weights_of(key: int, *, equal: bool) -> tuple[float, int]:
    """Seconds and bytes of a key, the same in every run. Neither has to do with how often it is asked for."""
    rng = random.Random(f"weights {key}")
    at, kind = rng.random(), 0
    while kind < len(TOOLS) - 1 and at >= TOOLS[kind][0]:
        at -= TOOLS[kind][0]
        kind += 1
    took = TOOLS[kind][1] * rng.lognormvariate(0, 0.5)
    return (1.0 if equal else took), int(min(200_000, 2_000 * rng.lognormvariate(0, 1))) + 400


class Bounded:
    """A cache bounded in entries or in bytes, that counts the seconds it saved."""

    def __init__(self, policy: EvictionPolicy[Any], most_bytes: int | None) -> None:
        self.policy = policy
        self.most_bytes = most_bytes
        self.bytes = 0
        self.entries: dict[int, WeighedEntry] = {}

    def saved(self, trace: Sequence[int], weights: dict[int, tuple[float, int]]) -> float:
        """The share of the seconds that all loads would take."""
        saved = total = 0.0
        for key in trace:
            took, size = weights[key]
            total += took
            entry = self.entries.get(key)
            if entry is not None:
                entry.visited = True
                saved += took
                continue
            entry = self.entries[key] = WeighedEntry(key, took, size)
            self.bytes += size
            self.gone(self.policy.add(entry))
            while self.most_bytes is not None and self.bytes > self.most_bytes:
                self.gone(self.policy.evict())
        return saved / total

    def gone(self, victim: Any) -> None:
        if victim is not None:
            victim.dead = True
            self.bytes -= victim.size
            del self.entries[victim.key]


class Gdsf:
    """The published policy: every hit counts, and ranks anew at once."""

    def __init__(self, limit: int | None, most_bytes: int | None) -> None:
        self.limit, self.most_bytes = limit, most_bytes
        self.floor, self.bytes, self.number = 0.0, 0, 0
        self.held: dict[int, tuple[float, int, int]] = {}  # rank, number, uses
        self.heap: list[tuple[float, int, int]] = []

    def saved(self, trace: Sequence[int], weights: dict[int, tuple[float, int]]) -> float:
        saved = total = 0.0
        for key in trace:
            took, size = weights[key]
            total += took
            uses = 0
            if key in self.held:
                saved += took
                uses = self.held[key][2]
            else:
                self.bytes += size
            self.number += 1
            worth = took / size if self.most_bytes is not None else took
            self.held[key] = (self.floor + (uses + 1) * worth, self.number, uses + 1)
            heapq.heappush(self.heap, (self.held[key][0], self.number, key))
            while (self.limit is not None and len(self.held) > self.limit) or (
                self.most_bytes is not None and self.bytes > self.most_bytes
            ):
                rank, number, other = heapq.heappop(self.heap)
                if other in self.held and self.held[other][1] == number:
                    self.floor = rank
                    self.bytes -= weights[other][1]
                    del self.held[other]
        return saved / total


WEIGHED = (
    "zipf 0.8",
    "zipf 1.0",
    "zipf 1.0 + 1/3 scans",
    "loop + 30% zipf",
    "shifting zipf",
    "sessions",
    "all in turn",
)


def measure_weighed(job: tuple[str, int, bool, bool, int]) -> dict[str, Any]:
    name, capacity, short_of_bytes, equal, seeds = job
    found: dict[str, list[float]] = {}
    for seed in range(seeds):
        trace = scattered(MADE[name](random.Random(f"{name} {capacity} {seed}"), capacity, 150 * capacity))
        weights = {key: weights_of(key, equal=equal) for key in set(trace)}
        mean = sum(size for _, size in weights.values()) // len(weights)
        limit, most = (None, capacity * mean) if short_of_bytes else (capacity, None)
        for policy in ("clock", OURS, "cost"):
            made = eviction_policy(policy, limit, bytes_are_short=short_of_bytes)
            found.setdefault(policy, []).append(Bounded(made, most).saved(trace, weights))
        found.setdefault("GDSF", []).append(Gdsf(limit, most).saved(trace, weights))
    shares = {policy: statistics.mean(values) for policy, values in found.items()}
    return {"trace": name, "capacity": capacity, "bytes": short_of_bytes, "equal": equal, "saved": shares}


def weighed_rows(quick: bool, workers: int) -> list[dict[str, Any]]:
    capacities, seeds = ((128,), 1) if quick else ((128, 1_000), 3)
    jobs = [
        (name, capacity, short_of_bytes, equal, seeds if capacity < 1_000 else 1)
        for equal in (False, True)
        for short_of_bytes in (False, True)
        for capacity in capacities
        for name in WEIGHED
    ]
    with ProcessPoolExecutor(workers) as pool:
        return list(pool.map(measure_weighed, jobs))


def weighed_table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| loads | bounded | trace | capacity | clock | adaptive | cost | GDSF | cost / adaptive |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        shares = row["saved"]
        cells = [f"{shares[name]:.3f}".lstrip("0") for name in ("clock", OURS, "cost", "GDSF")]
        about = ("equal" if row["equal"] else "differ", "bytes" if row["bytes"] else "entries", row["trace"])
        ratio = f"{shares['cost'] / shares[OURS]:.2f}"
        lines.append("| " + " | ".join([*about, str(row["capacity"]), *cells, ratio]) + " |")
    return "\n".join(lines)


def costs(entries: int = 10_000, rounds: int = 5) -> str:
    """CPU of taking in one entry and evicting another, in a full cache where half of the entries are in use."""
    lines = ["| policy | ns per add and evict | x CLOCK |", "|---|---|---|"]
    policies: dict[str, Callable[[int], EvictionPolicy[Any]]] = {
        "CLOCK": Clock,
        "s3fifo": S3Fifo,
        OURS: Adaptive,
        "cost": CostAware,
    }
    taken: dict[str, list[float]] = {name: [] for name in policies}
    for _ in range(rounds):
        for name, make in policies.items():
            rng = random.Random(1)
            policy = make(entries)
            ready = [WeighedEntry(rng.getrandbits(60), rng.random(), 1_000) for _ in range(4 * entries)]
            for entry in ready[:entries]:
                policy.add(entry)
            for entry in ready[: 3 * entries : 2]:
                entry.visited = True
            began = time.process_time()
            for entry in ready[entries:]:
                policy.add(entry)
            taken[name].append((time.process_time() - began) / (3 * entries))
    for name, figures in taken.items():
        ratio = statistics.median(a / b for a, b in zip(figures, taken["CLOCK"], strict=True))
        lines.append(f"| {name} | {statistics.median(figures) * 1e9:.0f} | {ratio:.2f} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one capacity, one seed")
    parser.add_argument("--cost", action="store_true", help="CPU of an insertion too")
    parser.add_argument("--weighed", action="store_true", help="seconds saved where loads differ, in place of all that")
    parser.add_argument("--json", metavar="FILE", help="keep the figures")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    if options.weighed:
        weighed = weighed_rows(options.quick, options.workers)
        print(weighed_table(weighed))
        if options.json:
            Path(options.json).write_text(json.dumps({"weighed": weighed}, indent=1) + "\n", "utf-8")
        return 0
    rows = list(all_rows(options.quick, options.workers))
    print(table(rows))
    print()
    print(summary(rows))
    if options.cost:
        print()
        print(costs())
    if options.json:
        figures = [asdict(row) | {"best": row.best, "ours_to_best": row.ours_to_best} for row in rows]
        Path(options.json).write_text(json.dumps({"rows": figures}, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
