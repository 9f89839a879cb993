"""What a call belongs to: the view it is made in.

A *view* is what the context variable holds: a session (or none) in a mode (normal, ``no_cache()``,
``refresh()``), with the table of calls it can answer at once and the log of those it did answer so.
Decorated tools read it on every call, so it is small and has no methods on that path.

The hot path appends to ``log`` and nothing else; whatever is counted from it (metrics, the loop
detector) is counted later, in batches, by :meth:`View.drain`. ``room`` is how long the log may get before
that must happen: the detector's headroom, so that nothing can trip unseen.

Entering and leaving sessions is :mod:`agent_cache.session`'s business.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import uuid
import weakref
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Hashable, Mapping
from contextvars import Context, ContextVar
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from agent_cache.canonical import encoded
from agent_cache.errors import UnkeyableArgumentError
from agent_cache.locks import renewed_after_fork
from agent_cache.loops import CallTrack, LoopDetector, LoopPolicy, OnLoop
from agent_cache.metrics import Metrics
from agent_cache.model import LoopEvent
from agent_cache.recorded import TALLY
from agent_cache.sampling import SampledTable
from agent_cache.tags import identity_chain, segment_text

if TYPE_CHECKING:
    from agent_cache.backends.base import Backend, NearEntry, NearHome
    from agent_cache.cassette import Tape
    from agent_cache.engine.dependencies import Noting
    from agent_cache.flight import TaskFlight
    from agent_cache.lineage import Lineage
    from agent_cache.tags import Chain

__all__ = ["ROOT", "Home", "Mode", "SessionState", "UnderWay", "View", "Warm", "current_view", "loading", "view_var"]

Mode = Literal["normal", "bypass", "refresh"]
_MAX_HOT = 32_768
_MAX_LOG = 1_024
_MAX_RESULTS = 64
_MAX_HINTS = 16


class Warm:
    """A call this view can answer at once, while ``generation`` is its home's and the entry's deadline has not come.

    Whoever serves it reads ``entry.stored`` first and ``entry.deadline`` after (an entry that dies loses its deadline
    before its value), and ``now()`` before ``generation``: what is proven by a bus is that every write up to then
    has been heard, so it is the generation after that which counts.
    """

    __slots__ = (
        "cost", "early", "entry", "generation", "home", "lane", "load_seconds", "loop", "now", "resource", "tool",
        "track",
    )  # fmt: skip

    tags: tuple[str, ...] = ()  # of the class: the resources of its answer, where somebody asks for them

    def __init__(
        self,
        entry: NearEntry,
        generation: object,
        resource: str,
        cost: float,
        track: CallTrack | None,
        lane: object,
        loop: object,
    ) -> None:
        self.entry = entry
        self.home: NearHome = entry.home
        self.generation = generation
        self.now = self.home.hot_clock
        self.load_seconds = entry.load_seconds
        self.early = 0.0  # seconds before the deadline from which on a look is taken; for tools with early_refresh
        self.resource = resource
        self.tool = ""
        self.cost = cost
        self.track = track
        self.lane = lane
        self.loop = loop


class UnderWay:
    """A load that others of the view may join while ``generation`` is that of its backend's store."""

    __slots__ = ("backend", "flight", "generation")

    def __init__(self, flight: TaskFlight, generation: object, backend: Backend) -> None:
        self.flight = flight
        self.generation = generation
        self.backend = backend


class SessionState:
    """What all live blocks of one session share."""

    def __init__(
        self,
        session_id: str,
        chain: Chain,
        identity: Mapping[str, object],
        backend: Backend | None,
        policy: LoopPolicy | None,
        on_loop: OnLoop,
        lineage: Lineage | None = None,
    ) -> None:
        self.session_id = session_id
        self.lineage = lineage
        """What has been written in its world since a declared start; None where none was declared."""
        self.chain = chain
        self.identity = identity
        self.backend = backend
        self.detector = LoopDetector(policy) if policy is not None else None
        self.on_loop = on_loop
        self.lock = renewed_after_fork(self, "lock")
        self.main: View | None = None
        self.metrics = Metrics()
        self.ticks = _Ticks()
        self.stages: dict[Hashable, int] = {}
        self.warned: set[Hashable] = set()
        self.results: OrderedDict[Hashable, Any] = OrderedDict()
        self.hints: deque[LoopEvent] = deque(maxlen=_MAX_HINTS)
        """What a staged answer has to say to the model, until somebody takes it there."""
        self.used: dict[int, Backend] = {}
        self.scopes: dict[str, tuple[Chain, bytes] | str] = {}
        self.writes = 0

    def remember(self, key: Hashable, stored: Any) -> None:
        """Keep the last result of a call for ``short_circuit``; the last 64 calls."""
        with self.lock:
            self.results[key] = stored
            self.results.move_to_end(key)
            if len(self.results) > _MAX_RESULTS:
                self.results.popitem(last=False)

    def new_turn(self) -> None:
        with self.lock:
            if self.detector is not None:
                self.detector.new_turn()
            self.stages.clear()
            self.warned.clear()
            self.hints.clear()
            if self.main is not None:
                self.main.cool()


class _Ticks:
    """Tells calls of one round of the event loop from later ones: the tasks of a ``gather`` run in one round.

    A call from another task in the same round was made before the first could have been answered to the agent.
    """

    def __init__(self) -> None:
        self.number = 0
        self._open_on: asyncio.AbstractEventLoop | None = None

    def now(self) -> int | None:
        """The number of this round; None without an event loop."""
        loop = asyncio._get_running_loop()
        if loop is None:
            return None
        if self._open_on is not loop:
            self.number += 1
            self._open_on = loop
            loop.call_soon(self._close, loop, context=Context())  # not the caller's, which holds its session
        return self.number

    def _close(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._open_on is loop:
            self._open_on = None


def keep_warm(hot: dict[Any, Warm], key: Any, warm: Warm) -> None:
    """Let a view answer this call at once from now on; ``hot`` is its table as it was when the call began."""
    if len(hot) >= _MAX_HOT:
        hot.clear()
    hot[key] = warm
    if warm.track is not None:
        warm.track.warm = warm


class Home:
    """The views of something that is in no session: one of its own, whoever calls, with counters of its own beside.

    Calling it gives the view for a call made now: ``no_cache()`` and ``refresh()`` hold for it as for everything, and a load
    that it is made in hears of it.
    ``slow``, if there is one, answers what is not hot (``slow(tool, view, values)``, awaited).
    """

    def __init__(self, slow: Callable[[Any, View, tuple[Any, ...]], Awaitable[Any]] | None = None) -> None:
        self.slow = slow
        self.metrics = Metrics()
        self.view = self._counted(View(None))

    def __call__(self) -> View:
        mode = current_view().mode
        if mode != "normal":
            return self._counted(View(None, mode))
        return self.view if loading.get() is None else self.view.within_load()

    def _counted(self, view: View) -> View:
        view.metrics = (PROCESS, self.metrics)
        return view


class _Never(dict[Any, Any]):
    """The hot table of a view in which nothing is answered at once."""

    def __setitem__(self, key: Any, value: Any) -> None:
        return None


_hot_table: Callable[[], dict[Any, Any]] = dict


def sample_hot(rate: float) -> None:
    """From the next table on, draw a part of the calls that could be answered at once; see :mod:`agent_cache.sampling`."""
    global _hot_table
    _hot_table = partial(SampledTable, rate) if rate else dict


class View:
    """A session (or none) in a mode. See the module."""

    __slots__ = (
        "__weakref__", "calls", "hot", "inside", "live", "loads", "log", "metrics", "mode", "plain", "room", "session",
        "tape",
    )  # fmt: skip

    def __init__(self, session: SessionState | None, mode: Mode = "normal", tape: Tape | None = None) -> None:
        self.session = session
        self.mode: Mode = mode
        self.plain = mode == "normal" and tape is None
        """Whether what is asked here in another view (a :class:`Home`) may be answered at once there."""
        self.tape = tape
        """Set where calls are recorded or replayed. Then nothing is answered at once and nothing joined here, and there is
        never any room: that is how a call finds out, so that one without a tape need not ask."""
        self.live: View | None = None if tape is None else View(session, mode)
        """Where a call that is recorded runs: the same without a tape."""
        self.hot: dict[Any, Warm] = _hot_table() if mode == "normal" and tape is None else _Never()
        self.loads: dict[Any, UnderWay] = {} if tape is None else _Never()
        self.calls: dict[Any, object] = {}
        """What was prepared for calls to backends that are asked each time."""
        self.log: list[Warm] = []
        self.metrics: tuple[Metrics, ...] = (PROCESS,) if session is None else (PROCESS, session.metrics)
        self.inside: View | None = None
        """Where calls are made inside of a load: the same, but nothing is answered at once, so that the load hears of them."""
        self.room = _MAX_LOG
        self.make_room()
        if (
            mode == "normal" and tape is None
        ):  # in the others nothing is answered at once: nothing to count, nothing to forget
            if session is not None:
                session.main = self
            with _views_lock:
                _views.add(self)

    @property
    def detector(self) -> LoopDetector | None:
        return self.session.detector if self.session is not None else None

    def within_load(self) -> View:
        """The view for what is called inside of a load that was begun in this one."""
        if self.mode != "normal" or self.tape is not None:
            return self  # nothing is answered at once here either
        inside = self.inside
        if inside is None:
            inside = copy(self)
            inside.hot, inside.loads, inside.calls, inside.log = _Never(), _Never(), _Never(), []
            inside.room = _MAX_LOG
            inside.plain = False
            self.inside = inside.inside = inside
        return inside

    def count(self, resource: str, field: str, times: int = 1, reason: str | None = None) -> None:
        for metrics in self.metrics:
            metrics.add(resource, field, times, reason)

    def make_room(self) -> None:
        """How many hits may now be answered at once before somebody looks."""
        if self.tape is not None:
            self.room = 0
            return
        detector = self.detector
        self.room = _MAX_LOG if detector is None else min(_MAX_LOG, detector.headroom())

    def cool(self) -> None:
        """Forget what could be answered at once: the configuration or the turn changed.

        A new table, so that a call that began before cannot put anything into it.
        """
        if self.live is not None:
            self.live.cool()
        elif self.mode == "normal":
            self.hot = _hot_table()
            self.loads = {}
            self.calls = {}
            self.inside = None

    def drain(self) -> None:
        """Count what was answered at once since the last time, in order."""
        log = self.log
        if not log:
            return
        with _drain_lock:
            size = len(log)
            batch = log[:size]
            del log[:size]
        if not batch:
            return
        first = batch[0]
        if batch.count(first) == size:
            self._counted(first, size)
            return
        detector = self.detector
        if detector is not None and self.session is not None:
            with self.session.lock:
                detector.saw_all([warm.track for warm in batch if warm.track is not None])
        for warm, times in Counter(batch).items():
            self._count_hits(warm, times)

    def _counted(self, warm: Warm, times: int) -> None:
        if warm.track is not None and self.session is not None and self.session.detector is not None:
            with self.session.lock:
                self.session.detector.saw(warm.track, times)
        self._count_hits(warm, times)

    def _count_hits(self, warm: Warm, times: int) -> None:
        for metrics in self.metrics:
            metrics.hit(warm.resource, warm.load_seconds * times, warm.cost * times, times)
        if TALLY.on:
            age = max(0.0, warm.home.clock() - warm.entry.created)
            TALLY.hit(warm.tool, warm.load_seconds * times, warm.cost * times, age, times)


PROCESS = Metrics()
"""The process-wide counters."""
_views: weakref.WeakSet[View] = weakref.WeakSet()
_views_lock = threading.Lock()
_drain_lock = threading.Lock()
ROOT = View(None)
"""The view outside any session."""
view_var: ContextVar[View] = ContextVar("agent_cache_view", default=ROOT)
current_view = view_var.get
loading: ContextVar[Noting | None] = ContextVar("agent_cache_loading", default=None)
"""The load this is called inside of."""


def _all_views() -> list[View]:
    with _views_lock:
        return list(_views)


def who_is(identity: Mapping[str, object]) -> str:
    """An identity as text that no other identity has; what cannot be keyed is like nobody else."""
    try:
        return hashlib.blake2b(encoded([*identity.items()], "identity"), digest_size=20).hexdigest()
    except UnkeyableArgumentError:
        return uuid.uuid4().hex


def forget_sessions(owns: Callable[[Chain], bool], chain: Chain) -> list[Chain]:
    """Let the open sessions that are ``chain``'s, or whose own chain is owned, keep no result; the chains they have."""
    found: list[Chain] = []
    for view in _all_views():
        state = view.session
        if state is None or not (owns(state.chain) or (chain and _chain_of(state.identity)[: len(chain)] == chain)):
            continue
        found.append(state.chain)
        with state.lock:
            state.results.clear()
        view.cool()
    return found


def _chain_of(identity: Mapping[str, object]) -> Chain:
    """As far as its fields have a text."""
    named = [(name, segment_text(value)) for name, value in identity.items()]
    return identity_chain((name, text) for name, text in named if text is not None)


def drain_all() -> None:
    for view in _all_views():
        view.drain()
        view.make_room()


def cool_all() -> None:
    for view in _all_views():
        view.cool()


def _after_fork() -> None:
    global _views_lock, _drain_lock
    _views_lock, _drain_lock = threading.Lock(), threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

__all__ += ["PROCESS", "cool_all", "drain_all", "forget_sessions", "keep_warm", "sample_hot", "who_is"]
