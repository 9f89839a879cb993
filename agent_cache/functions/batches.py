"""Loads for several keys gathered into one call of a batch loader.

Who misses within a window of time (or until a batch is full) is loaded together; batches are gathered per event loop,
loader and session, so that nobody is loaded on behalf of somebody else. What is cached, and who shares a load of one
key, is decided elsewhere: here every key comes once.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from agent_cache.canonical import encoded
from agent_cache.context import current_view, loading, view_var
from agent_cache.engine.dependencies import Noting, Together
from agent_cache.errors import BatchLoadError, UnkeyableArgumentError
from agent_cache.flight import Flight, flights_here, inside
from agent_cache.locks import renewed_after_fork

__all__ = ["BatchLoader", "Batches"]

BatchLoader = Callable[[list[Any]], Awaitable[Mapping[Any, Any] | Sequence[Any]] | Mapping[Any, Any] | Sequence[Any]]


class _Batch:
    """The keys of one call of a batch loader, each with the future of the one load that waits for it."""

    def __init__(self, loader: BatchLoader) -> None:
        self.loader = loader
        self.loop = asyncio.get_running_loop()
        self.waiting: dict[asyncio.Future[Any], Any] = {}
        self.flights: set[Flight] = set()
        self.loads: list[Noting] = []
        """Which all depend on what is read for any of them."""
        self.timer: asyncio.Handle | None = None
        self.task: asyncio.Task[None] | None = None

    def leave(self, future: asyncio.Future[Any]) -> None:
        """This load is over or was cancelled; with the last one the batch is."""
        self.waiting.pop(future, None)
        if future.done() and not future.cancelled():
            future.exception()  # else one that nobody waited for any more would be reported
        if not self.waiting and self.task is not None:
            self.task.cancel()

    async def run(self) -> None:
        inside(self.flights)
        if self.loads:
            loading.set(Together(self.loads))
            view_var.set(current_view().within_load())
        self.flights, self.loads = (
            set(),
            [],
        )  # they hold how they ended, errors too, which hold the frames that hold this
        waiting, answers = dict(self.waiting), list[Any]()
        try:
            answers = await self._answers(list(waiting.values()))
            _tell(waiting, answers)
        finally:
            self.task = None
            _call_off(waiting)  # what was thrown at this task is not theirs
            del answers, waiting  # an error keeps this frame: it must not keep the error, nor who was told it

    async def _answers(self, keys: list[Any]) -> list[Any]:
        try:
            said = self.loader(list(keys))
            if inspect.isawaitable(said):
                said = await said
            return [_raisable(self.loader, *each) for each in zip(keys, _by_key(self.loader, keys, said), strict=True)]
        except asyncio.CancelledError:
            if not self.waiting or _is_being_cancelled():
                raise
            return [BatchLoadError(f"{_name(self.loader)} was cancelled") for _ in keys]
        except Exception as error:  # noqa: BLE001 - it is raised to each of the callers
            return [_raisable(self.loader, key, error) for key in keys]


class Batches:
    """The batches being gathered.

    Args:
        window: seconds for which the first key of a batch waits for others.
        limit: keys at most.
    """

    def __init__(self, window: float, limit: int) -> None:
        self.window = window
        self.limit = limit
        self.sent = 0
        self._open: dict[Hashable, _Batch] = {}
        self._lock = renewed_after_fork(self, "_lock")

    async def load(self, loader: BatchLoader, key: Any) -> Any:
        """The value of one key, from the batch it falls into."""
        batch, future = self._join(loader, key)
        try:
            return await future
        finally:
            batch.leave(future)
            del future  # an error raised from here keeps this frame, and the future keeps the error

    def _join(self, loader: BatchLoader, key: Any) -> tuple[_Batch, asyncio.Future[Any]]:
        loop = asyncio.get_running_loop()
        place = (id(loop), _same(loader), current_view().session)
        with self._lock:
            batch = self._open.get(place)
            if batch is None or batch.loop is not loop or not batch.waiting:
                self._forget_closed_loops()
                if batch is not None and batch.timer is not None:
                    batch.timer.cancel()
                batch = self._open[place] = _Batch(loader)
                gathered = batch
                batch.timer = loop.call_later(self.window, lambda: self._send(place, gathered))
            future: asyncio.Future[Any] = loop.create_future()
            batch.waiting[future] = key
            batch.flights.update(flights_here())
            notes = loading.get()
            if notes is not None:
                batch.loads.append(notes)
            full = len(batch.waiting) >= self.limit
        if full:
            self._send(place, batch)
        return batch, future

    def _send(self, place: Hashable, batch: _Batch) -> None:
        with self._lock:
            if self._open.get(place) is batch:
                del self._open[place]
            if batch.timer is not None:
                batch.timer.cancel()
                batch.timer = None  # it holds the context it was set in, and that the load that opened this batch
            if batch.task is not None or not batch.waiting:
                return
            self.sent += 1
            batch.task = batch.loop.create_task(batch.run())

    def _forget_closed_loops(self) -> None:
        for place in [place for place, batch in self._open.items() if batch.loop.is_closed()]:
            del self._open[place]


def _tell(waiting: Iterable[asyncio.Future[Any]], answers: list[Any]) -> None:
    for future, answer in zip(waiting, answers, strict=True):
        if future.done():
            continue
        if isinstance(answer, BaseException):
            future.set_exception(answer)
        else:
            future.set_result(answer)


def _call_off(waiting: Iterable[asyncio.Future[Any]]) -> None:
    for future in waiting:
        future.cancel()


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _same(loader: BatchLoader) -> Hashable:
    """What two uses of one loader have in common: ``obj.method`` is a new object each time, and equal."""
    try:
        hash(loader)
    except TypeError:
        return id(loader)
    return loader


def _by_key(loader: BatchLoader, keys: list[Any], said: Any) -> list[Any]:
    """An answer for each key; an exception where it is to be raised.

    Raises:
        BatchLoadError: an answer that says nothing about which value is whose.
    """
    if isinstance(said, Mapping):
        return _from_mapping(loader, keys, said)
    if not isinstance(said, Sequence) or isinstance(said, (str, bytes, bytearray)):
        fix = "return a list with one value for each key in their order, or a dict by key"
        raise BatchLoadError(f"{_name(loader)} returned {type(said).__qualname__}: {fix}")
    if len(said) != len(keys):
        fix = "nobody can tell which is whose; return a dict by key where some may be missing"
        raise BatchLoadError(f"{_name(loader)} returned {len(said)} values for {len(keys)} keys: {fix}")
    return list(said)


def _from_mapping(loader: BatchLoader, keys: list[Any], said: Mapping[Any, Any]) -> list[Any]:
    found: Mapping[Any, Any] = said
    names: list[Any] = keys
    if not _are_told_apart(keys):  # 1 and True, or a list: compared as cache keys are
        names = [encoded(key, "key") for key in keys]
        found = dict(_typed(said.items()))
    missing = object()
    answers: list[Any] = []
    for key, name in zip(keys, names, strict=True):
        answer = found.get(name, missing)
        if answer is missing:
            answer = BatchLoadError(f"{_name(loader)} returned no value for this key", key)
        answers.append(answer)
    return answers


def _raisable(loader: BatchLoader, key: Any, answer: Any) -> Any:
    """An answer whose error may be raised to whoever asked: not one that would stop him, or end his loop instead."""
    if not isinstance(answer, BaseException) or (
        isinstance(answer, Exception) and not isinstance(answer, StopIteration)
    ):
        return answer
    told = BatchLoadError(f"{_name(loader)} answered {type(answer).__name__} for this key", key)
    told.__cause__ = answer
    return told


def _are_told_apart(keys: list[Any]) -> bool:
    """Whether a dict can hold all of them side by side."""
    try:
        return len(set(keys)) == len(keys)
    except TypeError:
        return False


def _typed(items: Iterable[tuple[Any, Any]]) -> Iterable[tuple[bytes, Any]]:
    for key, value in items:
        with suppress(UnkeyableArgumentError):  # then it is the key of nobody who asked
            yield encoded(key, "key"), value


def _name(loader: BatchLoader) -> str:
    return getattr(loader, "__qualname__", None) or repr(loader)
