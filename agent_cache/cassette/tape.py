"""One run over a cassette: which recorded call is next for the one that is made, and what is kept of those that run.

Calls are matched by tool, arguments and the identity that counts, and those that are equal by the order in which they were
begun: so calls made at once find their own answers whatever the order in which they come this time.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections import deque
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

from agent_cache.cassette.files import Cassette, Writer, load
from agent_cache.cassette.lines import Kind, RecordedCall, RecordedOutcome
from agent_cache.cassette.nearest import nearest, spelled
from agent_cache.cassette.outcomes import error_data, error_from, error_name, result_data, result_from
from agent_cache.cassette.values import REDACTED, Redact, call_key, plain, redacted
from agent_cache.codecs import Stored, ToolCodec
from agent_cache.errors import CassetteError, ConfigurationError, UnrecordedCallError, UnstorableResultError
from agent_cache.locks import renewed_after_fork

__all__ = ["Asked", "Played", "RecordMode", "Tape", "Taping"]

log = logging.getLogger("agent_cache")
RecordMode = Literal["all", "once", "new_episodes"]
TapePath = tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A call that is made under a tape; ``arguments`` and ``who`` as they stand in a line."""

    tool: str
    origin: str
    kind: Kind
    codec: ToolCodec
    arguments: Mapping[str, Any]
    who: Mapping[str, Any] | None
    key: str
    paths: tuple[TapePath, ...] = ()
    poll: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Played:
    """A recorded answer: a value everybody gets a copy of, an error, or ``interrupted`` (there was none)."""

    stored: Stored | None = None
    error: Exception | None = None
    hit: bool = False
    no_effect: bool = False
    interrupted: bool = False


class Taping:
    """What a session was told about recording and replaying, checked; :meth:`open` begins a run.

    Raises:
        ConfigurationError: naming the parameter, the value and the fix.
        CassetteError: the cassette is there and cannot be read.
    """

    def __init__(
        self,
        record: str | os.PathLike[str] | None,
        replay: str | os.PathLike[str] | None,
        record_mode: RecordMode | None,
        redact: Redact,
        replay_errors: Iterable[type[Exception]],
    ) -> None:
        if record is not None and replay is not None:
            raise ConfigurationError("replay", str(replay), "give record= or replay=; record_mode='once' does either")
        if record_mode is not None and record is None:
            raise ConfigurationError("record_mode", record_mode, "it goes with record=; replay= never records")
        if record_mode is not None and record_mode not in get_args(RecordMode):
            raise ConfigurationError("record_mode", record_mode, "give 'all', 'once' or 'new_episodes'")
        self.path = _path("record", record) if record is not None else _path("replay", cast("str", replay))
        self.mode: RecordMode | Literal["none"] = "none" if record is None else record_mode or "all"
        self.redact = _checked_redact(redact)
        self.classes = _checked_classes(replay_errors)
        self._loaded: Cassette | None = self._load()

    def _load(self) -> Cassette | None:
        """What there is to replay."""
        if self.mode == "all":
            return None
        if not self.path.exists():
            if self.mode == "none":
                fix = f"there is no such cassette; record it with record={str(self.path)!r}"
                raise ConfigurationError("replay", str(self.path), fix)
            return None
        known = load(self.path)
        return None if self.mode == "once" and (known.failed is not None or not known.complete) else known

    def open(self) -> Tape:
        """Begin a run.

        Raises:
            ConfigurationError: the cassette cannot be written.
            CassetteError: it has become unreadable.
        """
        known, self._loaded = self._loaded, None
        if known is None:
            known = self._load()
        strict = self.mode == "none" or (self.mode == "once" and known is not None)
        writer = None if strict else Writer(self.path, _version())
        if known is not None and not known.complete:
            log.warning("cassette %s has no end: the run it is from was killed", self.path)
        return Tape(self.path, known, writer, self.redact, self.classes)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("agent-cache")
    except PackageNotFoundError:  # used from a source tree that is not installed
        return "unknown"


def _path(parameter: str, given: object) -> Path:
    if not isinstance(given, (str, os.PathLike)) or not os.fspath(given) or isinstance(os.fspath(given), bytes):
        raise ConfigurationError(parameter, given, "give the path of a cassette, such as 'run.cassette'")
    path = Path(cast("str", os.fspath(given)))
    if path.is_dir():
        raise ConfigurationError(parameter, str(given), "it is a folder; give the path of a file")
    return path


def _checked_redact(redact: object) -> Redact:
    if callable(redact):
        return cast("Redact", redact)
    if isinstance(redact, str):
        return (redact,)
    names = tuple(redact) if isinstance(redact, Iterable) else None
    if names is None or not all(isinstance(name, str) for name in names):
        fix = "give names of parameters such as ('token',), or a function of a tool's name and its arguments"
        raise ConfigurationError("redact", redact, fix)
    return cast("Redact", names)


def _checked_classes(given: object) -> dict[str, type[Exception]]:
    classes = tuple(given) if isinstance(given, Iterable) else (given,)
    for each in classes:
        if not isinstance(each, type) or not issubclass(each, Exception):
            raise ConfigurationError("replay_errors", given, "give classes of exceptions, such as (OutOfStock,)")
    return {error_name(cast("type", each)): cast("type[Exception]", each) for each in classes}


@dataclass(slots=True, eq=False)
class _Answers:
    """The recorded answers of one key that are left, and the last one that was given."""

    left: deque[RecordedCall] = field(default_factory=deque)
    given: int = 0
    last: RecordedCall | None = None
    stamp: Hashable = None


class Tape:
    """One run. Thread-safe; waits for nobody.

    Attributes:
        path: the cassette's.
        strict: no tool runs.
    """

    def __init__(
        self,
        path: Path,
        known: Cassette | None,
        writer: Writer | None,
        redact: Redact,
        classes: Mapping[str, type[Exception]],
    ) -> None:
        self.path = path
        self.strict = writer is None
        self._known = known
        self._writer = writer
        self._redact = redact
        self._classes = classes
        self._lock = renewed_after_fork(self, "_lock")
        self._answers: dict[tuple[str, str], _Answers] = {}
        self._origins: dict[str, set[str]] = {}
        self._bound: dict[tuple[str, str], str] = {}
        self._time = 0
        self._recorded = 0
        self._closed = False
        self._said: set[str] = set()
        self._moved: dict[Hashable, int] = {}
        self._labels: weakref.WeakKeyDictionary[Any, str | None] = weakref.WeakKeyDictionary()
        self._sessions = 0
        self._hidden: dict[str, dict[str, int]] = {}
        for call in sorted(known.calls if known is not None else (), key=lambda call: call.began):
            self._time = max(self._time, call.ended)
            if not call.nested and call.kind != "invalidate":
                self._origins.setdefault(call.tool, set()).add(call.origin)
                self._answers.setdefault((call.key, call.origin), _Answers()).left.append(call)
        if writer is not None and known is not None:
            for call in known.calls:
                writer.add(call)

    # -- who asks what -------------------------------------------------------------------------------------------------

    def entered(self, session: object, session_id: str, *, named: bool) -> None:
        """A session under this tape; the first one is the tape's own, others are told apart by name, else by order."""
        with self._lock:
            if session not in self._labels:
                label = session_id if named else f"#{self._sessions}"
                self._labels[session] = label if self._sessions else None
                self._sessions += 1

    def asked(
        self,
        tool: str,
        origin: str,
        kind: Kind,
        codec: ToolCodec,
        arguments: dict[str, Any],
        *,
        session: object,
        identity: Mapping[str, object],
        per_session: bool = False,
        paths: tuple[TapePath, ...] = (),
        poll: bool = False,
    ) -> Asked:
        """A call, as it stands in a line.

        Raises:
            ConfigurationError: the user's ``redact`` failed.
        """
        shown = {name: plain(value) for name, value in redacted(self._redact, tool, arguments).items()}
        hidden: Iterable[str] = () if callable(self._redact) else self._redact
        who: dict[str, Any] = {
            name: self._pseudonym(name, plain(value)) if name in hidden else plain(value)
            for name, value in identity.items()
        }
        label = self._labels.get(session) if per_session and session is not None else None
        if label is not None:
            who["session"] = label
        return Asked(tool, origin, kind, codec, shown, who or None, call_key(tool, who or None, shown), paths, poll)

    def _pseudonym(self, field: str, value: object) -> dict[str, Any]:
        """What stands for a hidden field of an identity: another for each value, in the order in which they come."""
        with self._lock:
            known = self._hidden.setdefault(field, {})
            number = known.setdefault(repr(value), len(known) + 1)
        return REDACTED if number == 1 else {**REDACTED, "number": number}

    # -- replay --------------------------------------------------------------------------------------------------------

    def has(self, asked: Asked) -> bool:
        """Whether an answer is left for this call."""
        with self._lock:
            origin = self._origin(asked)
            answers = self._answers.get((asked.key, origin)) if origin is not None else None
            return answers is not None and bool(answers.left)

    def take(self, asked: Asked, stamp: Hashable = None) -> Played | None:
        """The next recorded answer; None where there is none and the tool may run.

        Args:
            asked: the call.
            stamp: what it depends on: a read whose answers have run out has its last one again while this is the same.

        Raises:
            UnrecordedCallError: there is none, and no tool runs.
            CassetteError: there is one, and it cannot be given again.
        """
        with self._lock:
            origin = self._origin(asked)
            answers = self._answers.get((asked.key, origin)) if origin is not None else None
            call: RecordedCall | None = None
            if answers is not None and answers.left:
                call = answers.last = answers.left.popleft()
                answers.given += 1
                answers.stamp = stamp
            elif answers is not None and self.strict and asked.kind == "read" and answers.stamp == stamp:
                call = answers.last if answers.last is not None and answers.last.outcome == "returned" else None
            if call is None and not self.strict:
                return None
            if call is None:
                raise self._unrecorded(asked, answers)
        return self._played(asked, call)

    def _origin(self, asked: Asked) -> str | None:
        """The recorded origin that is this tool's: its own; or, where a tool of this name has moved, the only one."""
        origins = self._origins.get(asked.tool)
        if origins is None:
            return None
        if asked.origin in origins:
            self._bound[asked.tool, asked.origin] = asked.origin
            return asked.origin
        bound = self._bound.get((asked.tool, asked.origin))
        if bound is None and len(origins) == 1 and not any(tool == asked.tool for tool, _ in self._bound):
            bound = self._bound[asked.tool, asked.origin] = next(iter(origins))
        return bound

    def _played(self, asked: Asked, call: RecordedCall) -> Played:
        if call.outcome == "interrupted":
            return Played(interrupted=True)
        if call.outcome == "unkept":
            why = str((call.error or {}).get("text"))
            text = f"{self._spelled(asked)} was recorded without its result, which has no form in a cassette ({why})"
            raise CassetteError(self.path, f"{text}; declare a return type that has one, and record anew")
        if call.outcome == "raised":
            return Played(error=error_from(call.error or {}, self._classes), no_effect=call.no_effect)
        try:
            stored = result_from(call.result or {}, asked.codec)
            stored.fresh()
        except UnstorableResultError as error:
            text = f"the recorded result of {self._spelled(asked)} is not what the tool returns now ({error})"
            raise CassetteError(self.path, f"{text}; record anew") from None
        return Played(stored, hit=call.hit, no_effect=call.no_effect)

    def interrupted(self, asked: Asked) -> CassetteError:
        """The error for a call that was cancelled when it was recorded, where nobody cancels it now."""
        return CassetteError(self.path, f"{self._spelled(asked)} was cancelled when it was recorded: it has no answer")

    def _unrecorded(self, asked: Asked, answers: _Answers | None) -> UnrecordedCallError:
        call = self._spelled(asked)
        calls = self._known.calls if self._known is not None else ()
        near: str | None = None
        difference = ""
        if answers is not None:
            near, difference = call, f"it was recorded {answers.given} times, and this is one more"
            why = f"{call} was recorded {answers.given} times, and this is one more"
            if asked.kind == "read" and answers.last is not None and answers.last.outcome == "returned":
                why += ", after a write to what it reads"
        else:
            found, difference = nearest(asked.tool, asked.arguments, asked.who, (c for c in calls if not c.nested))
            why = f"{call} was not recorded"
            if found is None:
                why += f"; no call of {asked.tool} was"
            else:
                near = spelled(found.tool, found.arguments)
                difference = difference or f"the tool is {asked.origin}, recorded {found.origin}"
                why += f"; nearest is {near}: {difference}"
        if self._known is not None and not self._known.complete:
            why += ". The cassette has no end: its run was killed"
        why += ". No tool runs in a replay; record anew, or add to it with record_mode='new_episodes'"
        return UnrecordedCallError(self.path, why, asked.tool, call, near, difference)

    def _spelled(self, asked: Asked) -> str:
        return spelled(asked.tool, asked.arguments)

    def unplayed(self) -> tuple[str, ...]:
        """Recorded calls that have not been asked for, in the order in which they were begun."""
        with self._lock:
            left = [call for answers in self._answers.values() for call in answers.left]
        return tuple(spelled(call.tool, call.arguments) for call in sorted(left, key=lambda call: call.began))

    # -- what depends on what, without a cache -------------------------------------------------------------------------

    def stamp(self, paths: Iterable[TapePath], *more: Hashable) -> Hashable:
        """What reads of these paths depend on; another one after a write to any of it."""
        with self._lock:
            moved = self._moved
            own = [moved.get(("any", path), 0) for path in paths]
            above = [moved.get(("all", path[:end]), 0) for path in paths for end in range(len(path))]
            return (*own, *above, *(moved.get(each, 0) for each in more))

    def moved(self, paths: Iterable[TapePath], *more: Hashable) -> None:
        """These paths were written."""
        with self._lock:
            tags: list[Hashable] = [*more]
            for path in paths:
                tags += [("any", path[:end]) for end in range(len(path) + 1)]
                tags.append(("all", path))
            for tag in tags:
                self._moved[tag] = self._moved.get(tag, 0) + 1

    # -- recording -----------------------------------------------------------------------------------------------------

    def tick(self) -> int:
        """The next number of this run's counter."""
        with self._lock:
            self._time += 1
            return self._time

    def keep(
        self,
        asked: Asked,
        began: int,
        value: Any = None,
        error: BaseException | None = None,
        *,
        interrupted: bool = False,
        hit: bool = False,
        nested: bool = False,
        no_effect: bool = False,
    ) -> None:
        """Write down how a call ended. Never fails the call: what cannot be kept is said so, once."""
        if self._writer is None:
            return
        outcome: RecordedOutcome = "returned"
        result: dict[str, Any] | None = None
        failed: dict[str, Any] | None = None
        if interrupted or (error is not None and not isinstance(error, Exception)):
            outcome = "interrupted"
        elif isinstance(error, Exception):
            outcome, failed = "raised", error_data(error)
        elif asked.kind != "invalidate":
            try:
                result = result_data(value, asked.codec)
            except UnstorableResultError as why:
                outcome, failed = "unkept", {"type": error_name(type(value)), "text": str(why)}
                text = "%s: a result of %s cannot be recorded (%s); a replay of that call will fail"
                self._once(f"unkept {asked.tool}", text, self.path, asked.tool, why)
        resources = tuple(":".join(path) for path in asked.paths)
        with self._lock:
            if self._closed or not self._writer.ours:
                text = "%s: %s was called after its session ended, or in a forked process, and is not recorded"
                self._once("late", text, self.path, asked.tool)
                return
            self._time += 1
            call = RecordedCall(
                asked.tool, asked.origin, asked.kind, asked.arguments, began, self._time, asked.who, resources,
                outcome, result, failed, hit, nested, no_effect, asked.poll,
            )  # fmt: skip
            try:
                self._writer.add(call)
                self._recorded += 1
            except (OSError, ValueError) as why:
                self._closed = True
                self._once("broken", "%s: recording stopped (%s); %s is what there is", self.path, why, self._partial())
                self._writer.leave()

    def _partial(self) -> Path | None:
        return self._writer.partial if self._writer is not None else None

    def _once(self, what: str, text: str, *arguments: Any) -> None:
        with self._lock:
            said = what in self._said
            self._said.add(what)
        if not said:
            log.warning(text, *arguments)

    def close(self, failed: str | None) -> None:
        """The run is over: the cassette gets its end and its name."""
        with self._lock:
            if self._writer is None or self._closed or not self._writer.ours:
                return
            self._closed = True
            if self._known is not None and self._recorded == 0:
                self._writer.discard()
                return
            try:
                self._writer.finish(failed)
            except OSError as error:
                text = "%s: the cassette could not be finished (%s); %s is what there is"
                log.warning(text, self.path, error, self._partial())
