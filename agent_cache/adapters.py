"""What every framework adapter is thin over: a policy per tool, and tools that come as a name, arguments and a way to run.

A framework knows its tools by name and hands over JSON arguments; there is no function to decorate. Here such a tool
becomes one, with the decorators everybody uses, so that adapters have no cache of their own: :class:`ToolPolicy` says what
a tool reads or writes, :class:`Policies` finds the policy of a name, :class:`AdaptedTool` runs one call.

Nothing of any framework belongs here: its messages, errors and hooks are its adapter's business.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import tomllib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, fields, replace
from enum import Enum
from fnmatch import fnmatchcase
from inspect import Parameter, Signature, isfunction
from keyword import iskeyword
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, cast

from agent_cache.backends.base import Backend
from agent_cache.cassette import replayable
from agent_cache.clock import nonce
from agent_cache.config import settings
from agent_cache.context import current_view
from agent_cache.decorators import AgentCache, AgentCacheInvalidator
from agent_cache.engine.provenance import ASKED, TELLS, Provenance
from agent_cache.engine.stale import pass_through
from agent_cache.engine.verify import is_verifying
from agent_cache.errors import ConfigurationError
from agent_cache.freshness import checked_freshness
from agent_cache.keys import IDENTITY
from agent_cache.locks import renewed_after_fork
from agent_cache.model import GLOBAL, LoopEvent
from agent_cache.policy import checked_fraction
from agent_cache.refusals import checked_no_effect
from agent_cache.session import AgentCacheSession, left
from agent_cache.tags import Template, quoted
from agent_cache.watched import watched

__all__ = [
    "MISSING",
    "AdaptedTool",
    "HeldSessions",
    "OneCallOnly",
    "Policies",
    "Served",
    "ToolPolicy",
    "adapted",
    "decorated_kind",
    "function_identity",
    "in_session",
    "is_decorated",
    "is_taping",
    "origin_of",
    "pass_through",
    "prefixed",
    "replayable",
    "taken_hints",
]

T = TypeVar("T")
Kind = Literal["read", "write", "other"]
_KINDS = ("read", "write", "other")
_FRESHNESS = ("stale_while_revalidate", "stale_if_error", "early_refresh", "soft_timeout", "hard_timeout")


class _Missing(Enum):
    """The value of an argument that was not given: not the same as one that was given as None."""

    MISSING = None
    __agent_cache_absent__ = True  # recordings leave it out

    def __repr__(self) -> str:
        return "not given"


MISSING = _Missing.MISSING


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolPolicy:
    """How the calls of one tool are treated.

    Attributes:
        kind: ``"read"``: answered from the cache while that is true; ``"write"``: drops what it makes stale;
            ``"other"``: neither (but loops are looked for).
        resource: what it reads or writes, as for :class:`~agent_cache.AgentCache`: a name or a template over the
            arguments, or several.
        scope: who may share an answer; None = nobody said so. A tool that is told who is asking needs one.
        ttl: seconds; None = until invalidated.
        jitter, stale_while_revalidate, stale_if_error, early_refresh, soft_timeout, hard_timeout: of a read, as for
            :class:`~agent_cache.AgentCache`.
        ignore: arguments left out of the key.
        poll: the tool is meant to be polled.
        write: of an other tool: False where it changes nothing of what the reads see, True where it does; None: nobody says
            (then ``scope="lineage"`` takes it for a write of anything).
        cost: what one call costs, in a unit of your own.
        cache_if: a function of the result (as the adapter stores it); what it is false for is not stored.
        no_effect: of a write: exception classes it raises only before it has changed anything.
        no_effect_if: of a write: a function of the result that is true where nothing was changed.

    Raises:
        ConfigurationError: naming the field, the value and the fix.
    """

    kind: Kind
    resource: str | tuple[str, ...] = ()
    scope: str | None = None
    ttl: float | None = None
    jitter: float = 0.0
    stale_while_revalidate: float = 0.0
    stale_if_error: float = 0.0
    early_refresh: float = 0.0
    soft_timeout: float | None = None
    hard_timeout: float | None = None
    ignore: tuple[str, ...] = ()
    poll: bool = False
    write: bool | None = None
    cost: float | None = None
    cache_if: Callable[[Any], bool] | None = None
    no_effect: tuple[type[Exception], ...] = ()
    no_effect_if: Callable[[Any], bool] | None = None

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ConfigurationError("kind", self.kind, f"give one of {', '.join(map(repr, _KINDS))}")
        resources = (self.resource,) if isinstance(self.resource, str) else tuple(self.resource)
        object.__setattr__(self, "resource", resources)
        object.__setattr__(self, "ignore", (self.ignore,) if isinstance(self.ignore, str) else tuple(self.ignore))
        if self.kind != "other" and not resources:
            raise ConfigurationError("resource", self.resource, f"say what this {self.kind} tool {self.kind}s")
        if self.kind != "read" and (self.ttl is not None or self.cache_if is not None or self.ignore):
            raise ConfigurationError("kind", self.kind, "ttl, ignore and cache_if are for kind='read'")
        for name in ("jitter", *_FRESHNESS):
            if self.kind != "read" and getattr(self, name):
                raise ConfigurationError(name, getattr(self, name), "it is for kind='read'")
        checked_fraction(self.jitter, "jitter")
        checked_freshness(self.ttl, **self.freshness)
        if self.kind != "other" and self.write is not None:
            raise ConfigurationError(
                "write", self.write, "it is for kind='other'; a read or a write says it by its kind"
            )
        object.__setattr__(self, "no_effect", checked_no_effect(self.no_effect))
        for name, given in (("no_effect", self.no_effect), ("no_effect_if", self.no_effect_if)):
            if self.kind != "write" and given:
                raise ConfigurationError(name, given, "it is for kind='write'")

    @property
    def freshness(self) -> dict[str, Any]:
        """The fields about freshness, as parameters of :class:`~agent_cache.AgentCache`."""
        return {name: getattr(self, name) for name in _FRESHNESS}

    @property
    def resources(self) -> tuple[str, ...]:
        return cast("tuple[str, ...]", self.resource)

    @classmethod
    def of(cls, given: object, where: str) -> ToolPolicy:
        """A policy as it is, or from a plain mapping such as ``{"kind": "read", "resource": "user:{user_id}"}``.

        Raises:
            ConfigurationError: an unknown or a wrong field; ``where`` says whose policy it is.
        """
        if isinstance(given, ToolPolicy):
            return given
        if not isinstance(given, Mapping):
            raise ConfigurationError(where, given, "give a ToolPolicy or a mapping such as {'kind': 'read', ...}")
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                raise ConfigurationError(where, dict(given), f"{name!r} is unknown; there are {', '.join(known)}")
        if "kind" not in given:
            raise ConfigurationError(where, dict(given), "'kind' is missing: 'read', 'write' or 'other'")
        try:
            return cls(**{str(name): _frozen(value) for name, value in given.items()})
        except ConfigurationError as error:
            raise ConfigurationError(f"{where}.{error.parameter}", error.value, error.fix) from None

    def as_mapping(self) -> dict[str, Any]:
        """The policy as plain JSON; functions and classes are left out."""
        shown = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        shown.pop("no_effect", None)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in shown.items() if not callable(v)}


def _frozen(value: object) -> Any:
    return tuple(value) if isinstance(value, list) else value


def prefixed(policy: ToolPolicy, *path: str) -> ToolPolicy:
    """The policy with its resources below ``path``, such as a server's name; ``"*"`` is all of what is there."""
    head = ":".join(map(quoted, path))
    return replace(policy, resource=tuple(head if each == "*" else f"{head}:{each}" for each in policy.resources))


class Policies:
    """Policies by tool name; a name may be a pattern (``get_*``). An exact name wins, then the first pattern that fits.

    Args:
        policies: names to :class:`ToolPolicy` or plain mappings.

    Raises:
        ConfigurationError: naming the tool and what is wrong.
    """

    def __init__(self, policies: Mapping[str, ToolPolicy | Mapping[str, Any]] | None = None) -> None:
        if policies is not None and not isinstance(policies, Mapping):
            raise ConfigurationError("policies", policies, "give a mapping from tool names to policies")
        self._by_name = {
            str(name): ToolPolicy.of(given, f"policies[{name!r}]") for name, given in (policies or {}).items()
        }

    @classmethod
    def from_toml(cls, path: str | Path) -> Policies:
        """From a file with a table per tool: ``[tools.get_user]``, ``kind = "read"``, ``resource = "user:{id}"``.

        Raises:
            ConfigurationError: the file cannot be read, is no TOML, or holds something unknown.
        """
        try:
            found = tomllib.loads(Path(path).read_text("utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigurationError("policies", str(path), f"the file cannot be read: {error}") from None
        unknown = sorted(found.keys() - {"tools"})
        if unknown:
            raise ConfigurationError("policies", str(path), f"{unknown[0]!r} is unknown; write tables [tools.NAME]")
        return cls(found.get("tools", {}))

    def find(self, name: str) -> ToolPolicy | None:
        """The policy for a tool of this name, if there is one."""
        exact = self._by_name.get(name)
        if exact is not None:
            return exact
        return next((policy for pattern, policy in self._by_name.items() if fnmatchcase(name, pattern)), None)

    def check(self, known: Iterable[str]) -> None:
        """That every policy fits some tool.

        Raises:
            ConfigurationError: a policy for a tool that is not there, with those that are.
        """
        names = sorted(known)
        for pattern in self.unused(names):
            fix = f"there is no such tool; there are {', '.join(names) or 'none'}"
            raise ConfigurationError("policies", pattern, fix)

    def unused(self, known: Collection[str]) -> Iterator[str]:
        """Names and patterns that fit none of these tools."""
        for pattern in self._by_name:
            if not any(fnmatchcase(name, pattern) or name == pattern for name in known):
                yield pattern

    def __iter__(self) -> Any:
        return iter(self._by_name)


@dataclass(frozen=True, slots=True)
class Served(Generic[T]):
    """What a call returned. ``executed``: this very call ran the tool, and this is what that brought; else the answer was
    there already, or somebody else's call was under way.

    The rest is told of a read that was not executed, by a tool made with ``adapted(..., provenance=True)``:

    Attributes:
        stale: the rule by which an answer beyond its ttl was served (such as ``"stale_while_revalidate"``), else None.
        age: seconds since the answer was loaded, or was last found to hold still; None where that is not known (a replay).
        tags: the resources it depends on, as paths such as ``"order:7"``: those of the policy, then what its load came to
            read. Whose answer it is (session, identity) is not among them.
    """

    value: T
    executed: bool
    stale: str | None = None
    age: float | None = None
    tags: tuple[str, ...] = ()

    @property
    def origin(self) -> dict[str, Any]:
        """What adapters write beside a result, as plain JSON: ``age`` (rounded to milliseconds), ``tags`` and ``stale``, each
        where there is something to say."""
        return origin_of(self.age, self.tags, self.stale)


def origin_of(age: float | None, tags: Sequence[str], stale: str | None) -> dict[str, Any]:
    """See :attr:`Served.origin`."""
    said: dict[str, Any] = {}
    if age is not None:
        said["age"] = round(age, 3)
    if tags:
        said["tags"] = list(tags)
    if stale is not None:
        said["stale"] = stale
    return said


class OneCallOnly:
    """A result that belongs to one call; no codec knows it, so it is neither stored nor shared.

    An adapter returns it from ``run`` around whatever must not be kept (errors that come as values, commands).

    Args:
        result: what the caller gets.
        shown: what the loop detector compares it by, where its repr tells more than how the call turned out.
    """

    __slots__ = ("_shown", "result")

    def __init__(self, result: Any, shown: str | None = None) -> None:
        self.result = result
        self._shown = shown

    def __agent_cache_recorded__(self) -> Any:
        """What a recording keeps: a replay gives each call its own."""
        return self.result

    def __repr__(self) -> str:
        return repr(self.result) if self._shown is None else self._shown


_run: ContextVar[Callable[[], Any]] = ContextVar("agent_cache_run")


class AdaptedTool:
    """One tool of a framework, ready to be called through the cache; made by :func:`adapted`."""

    def __init__(
        self,
        name: str,
        policy: ToolPolicy,
        parameters: Sequence[str],
        identity: str | None,
        returns: Any,
        provenance: bool = False,
    ) -> None:
        self.name = name
        self._tells = provenance and policy.kind == "read"
        self.policy = policy
        self._names = tuple(p for p in dict.fromkeys(parameters) if p.isidentifier() and not iskeyword(p))
        self._known_names = frozenset(self._names)
        self._returns = returns
        self._identity = nonce().hex() if identity is None else identity  # of its async and its blocking form alike
        self._ready: dict[tuple[int, bool, bool], tuple[Backend | None, Any]] = {}
        self._decorated(None, (), is_async=True)  # what is wrong with the policy is said now

    async def __call__(
        self, arguments: Mapping[str, Any], run: Callable[[], Awaitable[T]], *, backend: Backend | None = None
    ) -> Served[T]:
        """Answer a call; ``run`` runs the tool. What ``run`` raises is raised, and an :class:`OneCallOnly` is unpacked.

        Raises:
            AgentLoopDetectedError: the session's loop policy stopped the call.
        """
        executed: list[bool] = []

        async def noted() -> T:
            is_own = not is_verifying()
            result = await run()
            if is_own:  # and did not fail: in place of an error something else may be answered
                executed.append(True)
            return result

        asked = Provenance() if self._tells else None
        reset, told = _run.set(noted), None if asked is None else ASKED.set(asked)
        try:
            value = await self._decorated(backend, arguments, is_async=True)(**arguments)
        finally:
            _run.reset(reset)
            if told is not None:
                ASKED.reset(told)
            del reset, told  # it holds the context, and a traceback this frame
        return _served(value, asked, executed=bool(executed))

    def blocking(
        self, arguments: Mapping[str, Any], run: Callable[[], T], *, backend: Backend | None = None
    ) -> Served[T]:
        """The same for code without an event loop; equal calls made at once in several threads run once."""
        executed: list[bool] = []

        def noted() -> T:
            is_own = not is_verifying()
            result = run()
            if is_own:
                executed.append(True)
            return result

        asked = Provenance() if self._tells else None
        reset, told = _run.set(noted), None if asked is None else ASKED.set(asked)
        try:
            value = self._decorated(backend, arguments, is_async=False)(**arguments)
        finally:
            _run.reset(reset)
            if told is not None:
                ASKED.reset(told)
            del reset, told  # it holds the context, and a traceback this frame
        return _served(value, asked, executed=bool(executed))

    def _decorated(self, backend: Backend | None, arguments: Iterable[str], *, is_async: bool) -> Any:
        more = not self._known_names.issuperset(arguments)
        ready = self._ready.get((id(backend), is_async, more))
        if ready is None:
            function = _async_function() if is_async else _blocking_function()
            self._dress(function, more=more)
            ready = self._ready[id(backend), is_async, more] = backend, self._decorator(backend)(function)
        return ready[1]

    def _dress(self, function: Any, *, more: bool) -> None:
        """A function of this name and these parameters; whose answers are whose is said by ``identity``."""
        named = [Parameter(name, Parameter.KEYWORD_ONLY, default=MISSING) for name in self._names]
        rest = [Parameter(_free("others", self._names), Parameter.VAR_KEYWORD)] if more else []
        function.__name__ = function.__qualname__ = self.name
        function.__signature__ = Signature([*named, *rest], return_annotation=self._returns)
        function.__annotations__ = {"return": self._returns}
        setattr(function, IDENTITY, self._identity)
        setattr(function, TELLS, self._tells)

    def _decorator(self, backend: Backend | None) -> Callable[[Any], Any]:
        policy = self.policy
        resource = [*policy.resources]
        if policy.kind == "write":
            return AgentCacheInvalidator(
                resource,
                policy.scope or GLOBAL,
                no_effect=policy.no_effect,
                no_effect_if=_unpacking(policy.no_effect_if),
                backend=backend,
            )
        if policy.kind == "other":
            return watched(write=policy.write, poll=policy.poll)
        return AgentCache(
            resource,
            scope=GLOBAL if policy.scope is None else policy.scope,
            ttl=policy.ttl,
            jitter=policy.jitter,
            **policy.freshness,
            maxsize=None,
            ignore=[name for name in policy.ignore if name in self._names],
            cache_if=_unpacking(policy.cache_if),
            poll=policy.poll,
            cost=policy.cost,
            backend=backend,
        )


def _served(value: Any, asked: Provenance | None, *, executed: bool) -> Served[Any]:
    plain = value.result if isinstance(value, OneCallOnly) else value
    if asked is None or executed:
        return Served(plain, executed)
    return Served(plain, executed, asked.stale, asked.age, asked.tags)


def _unpacking(asked: Callable[[Any], bool] | None) -> Callable[[Any], bool] | None:
    """``cache_if`` and ``no_effect_if`` are asked about results of the tool, not about ours."""
    if asked is None:
        return None
    predicate = asked
    return lambda value: not isinstance(value, OneCallOnly) and predicate(value)


def _free(name: str, taken: Sequence[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _async_function() -> Any:
    async def tool(**_: Any) -> Any:
        return await _run.get()()

    return tool


def _blocking_function() -> Any:
    def tool(**_: Any) -> Any:
        return _run.get()()

    return tool


def in_session() -> bool:
    """Whether the caller is inside an :class:`~agent_cache.AgentCacheSession`."""
    return current_view().session is not None


def is_taping() -> bool:
    """Whether the calls of the caller are recorded or replayed: then none may go past :class:`AdaptedTool`."""
    return current_view().tape is not None


def taken_hints(*tools: str) -> tuple[LoopEvent, ...]:
    """What the session of the caller has to say to the model, once: see ``AgentCacheSession.take_hints``.

    With names: about calls of these tools only, so that calls made in parallel do not take each other's.
    """
    state = current_view().session
    if state is None or not state.hints:
        return ()
    with state.lock:
        hints = tuple(event for event in state.hints if not tools or event.tool in tools)
        for event in hints:
            state.hints.remove(event)
    return hints


def is_decorated(function: Any) -> bool:
    """Whether it is a tool of this package already: cached, invalidating or watched. Its calls are seen as they are."""
    code = getattr(function, "__code__", None)
    if code is None:
        return False
    return bool(
        code.co_filename.startswith("<agent_cache ") or function.__globals__.get("__name__") == watched.__module__
    )


def decorated_kind(function: Any) -> Literal["read", "write", ""]:
    """What a decorator of this package makes of it; empty where none says: ``@watched``, or none at all."""
    if not is_decorated(function) or function.__globals__.get("__name__") == watched.__module__:
        return ""
    return "read" if hasattr(function, "__agent_cache__") else "write"


def function_identity(function: Any) -> str | None:
    """What makes this function this function in every process; None where its name does not say it (closures, bound
    methods, callable objects, what stands in a script).
    """
    if not isfunction(function) or function.__module__ in (None, "__main__") or "<locals>" in function.__qualname__:
        return None
    found: Any = sys.modules.get(function.__module__)
    for part in function.__qualname__.split("."):
        found = getattr(found, part, None)
    # frameworks leave an object of theirs under the name
    seen = [found, *(getattr(found, name, None) for name in ("__wrapped__", "func", "coroutine"))]
    return f"{function.__module__}:{function.__qualname__}" if any(each is function for each in seen) else None


_MOST_KNOWN = 4_096
_MOST_GONE = 65_536
_known: OrderedDict[tuple[object, ...], AdaptedTool] = OrderedDict()


def adapted(
    name: str,
    policy: ToolPolicy,
    parameters: Iterable[str],
    identity: str | None,
    returns: Any = Any,
    *,
    provenance: bool = False,
) -> AdaptedTool:
    """The tool of this name, policy and identity; the same object again, so adapters may be made anew for every run.

    Args:
        name: what people and metrics call it.
        policy: what it reads or writes.
        parameters: the arguments the model can fill in, by name; those a template uses must be among them.
        identity: what makes this tool this tool, the same in every process that may share its answers: for example
            a server's name and the tool's input schema, or a function's module and qualified name. None: this very
            object's answers are shared with nobody.
        returns: the type of what ``run`` returns, as for a return annotation; it decides how results are kept.
        provenance: have each :class:`Served` say the age, the tags and the staleness of an answer. Without it a hit is
            cheaper; answers are shared between both forms.

    Raises:
        ConfigurationError: a template that names no parameter, or a policy the decorators do not accept.
    """
    names = tuple(parameters)
    for template in policy.resources:
        Template.parse(template, names, of_write=policy.kind == "write")
    if identity is None:
        return AdaptedTool(name, policy, names, None, returns, provenance)
    asked = (name, policy, names, identity, returns, provenance)
    try:
        tool = _known.get(asked)
    except TypeError:  # a policy with something in it that cannot be hashed
        return AdaptedTool(name, policy, names, identity, returns, provenance)
    if tool is None:
        digest = hashlib.blake2b(f"{identity}\0{policy.as_mapping()}".encode("utf-8", "surrogatepass"), digest_size=16)
        tool = _known[asked] = AdaptedTool(name, policy, names, digest.hexdigest(), returns, provenance)
        if len(_known) > _MOST_KNOWN:
            _known.popitem(last=False)
    else:
        _known.move_to_end(asked)
    return tool


class HeldSessions:
    """Sessions that live over calls which come one by one, each in a context of its own (a server's clients, the nodes
    of a graph).

    ``with held.attach("thread-1", identity={...}):`` around each call; :meth:`release` when the run is over. Past
    ``most`` sessions, the one not used for longest is released.

    Args:
        most: sessions held open at once.
        options: for every :class:`~agent_cache.AgentCacheSession`. With a ``start_state``, :meth:`release` says that the
            world of a session may be begun anew; one that had to make room comes back without a start: its writes are
            forgotten.
    """

    def __init__(self, most: int = 1_024, **options: Any) -> None:
        self._most = most
        self._options = options
        self._lock = renewed_after_fork(self, "_lock")
        self._held: OrderedDict[tuple[object, ...], AgentCacheSession] = OrderedDict()
        self._gone: dict[str, None] = {}
        self._all_may_have_gone = False
        self._leaving: set[asyncio.Task[None]] = set()
        AgentCacheSession("checked", **options)  # what is wrong with the options is said now

    def attach(self, session_id: str, identity: Mapping[str, object] | None = None) -> AgentCacheSession:
        """A block of this session, to be entered around one call; the session goes on after it."""
        who = repr(sorted((identity or {}).items(), key=lambda item: item[0]))
        key = session_id, who, current_view().tape  # under a recording, another one than outside
        with self._lock:
            options = self._options_for(session_id)
            if key in self._held:
                self._held.move_to_end(key)
            else:
                holder = self._held[key] = AgentCacheSession(session_id, identity=identity, **options)
                copy_context().run(holder.__enter__)
            oldest = self._held.popitem(last=False) if len(self._held) > self._most else None
            if oldest is not None:
                self._note(str(oldest[0][0]))
        if oldest is not None:
            self._leave(oldest[1])
        return AgentCacheSession(session_id, identity=identity, **options)

    def _options_for(self, session_id: str) -> dict[str, Any]:
        """Without the start for one that was let go of before its run was over."""
        if "start_state" not in self._options or not (self._all_may_have_gone or session_id in self._gone):
            return self._options
        text = "session %s had to make room and is back: scope='lineage' runs uncached in it; hold more than most=%s"
        settings.notices.once(("held", id(self)), text, session_id, self._most)
        return {name: value for name, value in self._options.items() if name != "start_state"}

    def _note(self, session_id: str) -> None:
        if "start_state" in self._options:
            self._gone[session_id] = None
            if len(self._gone) > _MOST_GONE:
                self._gone.clear()
                self._all_may_have_gone = True

    def release(self, session_id: str) -> None:
        """The run is over: its entries are dropped (behind, where an event loop runs), whoever asked in it."""
        with self._lock:
            over = [self._held.pop(key) for key in list(self._held) if key[0] == session_id]
            self._gone.pop(session_id, None)
        for holder in over:
            self._leave(holder)

    def close(self) -> None:
        """Release all."""
        with self._lock:
            over = list(self._held.values())
            self._held.clear()
        for holder in over:
            self._leave(holder)

    def _leave(self, holder: AgentCacheSession) -> None:
        context = copy_context()
        if asyncio._get_running_loop() is None:
            context.run(holder.__exit__, None, None, None)
            return
        task = asyncio.get_running_loop().create_task(context.run(left, holder), context=context)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
