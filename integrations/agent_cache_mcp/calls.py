"""One MCP server's tools behind the cache: the part that every door (client, servers, proxy) shares.

A door learns what tools there are (:meth:`ServerCache.learn`), hands over each call with a way to run it, and turns the
mapping it gets back into whatever its SDK wants. What is kept is the result's wire form and when it was made.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel

from agent_cache.adapters import AdaptedTool, OneCallOnly, Policies, ToolPolicy, adapted, is_taping, replayable
from agent_cache.backends.base import Backend
from agent_cache.clock import seconds
from agent_cache.errors import ConfigurationError
from agent_cache_mcp.policies import WRITES_ALL, Definition, below, is_uri, parameters_of, policy_of, uri_of
from agent_cache_mcp.results import RequestMeta, Wire, failed, keepable, request_meta, text_of, with_provenance

__all__ = ["Answered", "Asker", "Followed", "Run", "ServerCache"]

Run = Callable[[], Awaitable["Wire | OneCallOnly"]]
_OTHER = ToolPolicy(kind="other")
PolicyMapping = Policies | Mapping[str, ToolPolicy | Mapping[str, Any]]
_ASKER = "agent_cache_asker"  # the argument that stands for who asks and what else the answer may depend on
_log = logging.getLogger("agent_cache.mcp")


@dataclass(frozen=True, slots=True)
class Asker:
    """Whose call it is and what, beside the arguments, the answer may depend on.

    Attributes:
        principal: a text no other principal has (never a credential itself); None: everybody is the same.
        meta: the request's ``_meta``.
        protocol: the version of the protocol, where it is another than the connection's and the form of a result
            depends on it.
        known: False where the tool is told who asks and we are not: then it runs live unless its policy says a scope.
    """

    principal: str | None = None
    meta: RequestMeta | None = None
    protocol: str | None = None
    known: bool = True


@dataclass(frozen=True, slots=True)
class Answered:
    """A call's answer. ``executed``: by the tool, for this very call. ``age``: seconds since it was made; a read's only.

    ``stale``: the rule by which it was served beyond its ttl. ``tags``: the resources it depends on, as paths.
    """

    result: Wire
    kind: str
    executed: bool
    age: float | None = None
    stale: str | None = None
    tags: tuple[str, ...] = ()

    @property
    def noted(self) -> Wire:
        """The result with the note of where it comes from."""
        age = None if self.executed else self.age
        return with_provenance(self.result, hit=not self.executed, age=age, tags=self.tags, stale=self.stale)

    def handed_on(self, made: Sequence[Any], model: type[BaseModel]) -> Any:
        """What this very call ``made`` (the last of it) as it is; what others made is made anew, as ``model``. Both with the note.

        A failure of this call may have been answered by what was there; what is no read's has no note.
        """
        if not made or not self.executed:
            return model.model_validate(self.noted)
        if self.kind != "read" or not isinstance(made[-1], model):
            return made[-1]
        return made[-1].model_copy(update={"meta": self.noted["_meta"]})


@dataclass(frozen=True, slots=True)
class Followed:
    """A resource the server may tell of: its URI, and what to call when it has."""

    uri: str
    changed: Callable[[], Awaitable[None]]


@replayable
class _ToolFailedError(Exception):
    """The tool answered that it failed. Raised, so that it is never kept and the loop detector knows."""

    def __init__(self, result: Wire) -> None:
        super().__init__(text_of(result))
        self.result = result


@dataclass(frozen=True, slots=True)
class _Known:
    policy: ToolPolicy
    tool: AdaptedTool
    changes: tuple[tuple[str, AdaptedTool], ...]  # by URI template, what invalidates it


class ServerCache:
    """The tools of one server.

    Args:
        server: a name for the server; its entries and resources are apart from every other's.
        policies: by tool name (patterns allowed): :class:`~agent_cache.adapters.ToolPolicy` or mappings.
        trust_annotations: believe the server's ``readOnlyHint``.
        open_world_ttl: seconds an answer may be served of a read-only tool that looks at an open world.
        backend: as for :class:`~agent_cache.AgentCache`.
        partition: what else tells its entries from others', such as whom the connection speaks for.
        strict: the server's own ``_meta`` must be right (its author is listening); else it is not believed.
        now: the time in seconds since the epoch, for ages.

    Raises:
        ConfigurationError: naming the parameter, the value and the fix.
    """

    def __init__(
        self,
        server: str,
        policies: PolicyMapping | None = None,
        *,
        trust_annotations: bool = False,
        open_world_ttl: float | None = None,
        backend: Backend | None = None,
        partition: str = "",
        strict: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        if not isinstance(server, str) or not server.strip():
            raise ConfigurationError("server", server, "give the server a name, such as 'crm'")
        if backend is not None and not hasattr(backend, "lookup"):
            raise ConfigurationError("backend", backend, "give a backend such as MemoryBackend()")
        self.server = server
        self.backend = backend
        self._policies = policies if isinstance(policies, Policies) else Policies(policies)
        self._trusted = bool(trust_annotations)
        self._open_world_ttl = seconds(open_world_ttl, "open_world_ttl")
        self._partition = partition
        self.protocol: str | None = None  # of the connection; calls in another one say so
        self._strict = strict
        self._now = now
        self._known: dict[str, _Known] = {}
        self._unknown = self._write_to_all("tool")
        self._dropper = self._write_to_all("everything_changed")

    # -- what there is ---------------------------------------------------------------------------------------------------

    def learn(self, definitions: Iterable[Definition], *, whole: bool = True) -> None:
        """These are the tools there are (``whole``), or some of them.

        Raises:
            ConfigurationError: a policy that fits no tool (where ``whole``) or not its tool. Nothing has changed then.
        """
        found = {str(definition["name"]): self._made(definition) for definition in definitions}
        if whole:
            self._policies.check(found)
            self._known = found
        else:
            self._known = {**self._known, **found}

    def relearn(self, definitions: Iterable[Definition]) -> None:
        """As :meth:`learn`, for tools that changed while calls go on: what does not fit any more is logged."""
        try:
            self.learn(definitions)
        except ConfigurationError as error:
            _log.warning("%s: %s; until that is put right, all its tools count as writes", self.server, error)
            self._known = {}

    def forget(self) -> None:
        """Nothing is known of any tool until the next :meth:`learn`."""
        self._known = {}

    def knows(self, name: str) -> bool:
        """Whether there is a tool of this name."""
        return name in self._known

    def policy(self, name: str) -> ToolPolicy:
        """How calls of this tool are treated."""
        known = self._known.get(name)
        return WRITES_ALL if known is None else known.policy

    def _made(self, definition: Definition) -> _Known:
        name, parameters = str(definition["name"]), parameters_of(definition)
        policy = policy_of(
            definition,
            self._policies,
            trusted=self._trusted,
            open_world_ttl=self._open_world_ttl,
            strict=self._strict,
        )
        try:
            return self._adapted(name, policy, parameters, definition)
        except ConfigurationError as error:
            if self._strict or self._policies.find(name) is not None:
                raise ConfigurationError(f"policy of {name!r}: {error.parameter}", error.value, error.fix) from None
            _log.warning("tool %r: %s; it counts as a write to everything of its server", name, error)
            return self._adapted(name, WRITES_ALL, (), definition)

    def _adapted(self, name: str, policy: ToolPolicy, parameters: tuple[str, ...], definition: Definition) -> _Known:
        for ignored in policy.ignore:
            if ignored not in parameters:
                fix = f"{ignored!r} is no argument of the tool; it has {', '.join(parameters) or 'none'}"
                raise ConfigurationError("ignore", policy.ignore, fix)
        if policy.kind == "read" and _ASKER in parameters:
            policy = ToolPolicy(kind="other")  # nobody means it; then nobody can forge it either
        schemas = [definition.get("inputSchema"), definition.get("outputSchema")]
        whose = self._partition if policy.scope is None else ""  # a scope that was said tells who may share
        identity = json.dumps([self.server, name, schemas, whose, self.protocol], sort_keys=True, default=str)
        inside = below(_of_wire(policy), self.server)
        tool = adapted(name, inside, parameters, identity, provenance=True)
        changes: tuple[tuple[str, AdaptedTool], ...] = ()
        if policy.kind == "read":
            changes = tuple(
                (uri, self._change("resource_updated", ToolPolicy(kind="write", resource=uri), parameters))
                for uri in policy.resources
                if is_uri(uri)
            )
        return _Known(policy, tool, changes)

    def _change(self, name: str, policy: ToolPolicy, parameters: tuple[str, ...] = ()) -> AdaptedTool:
        return adapted(name, below(policy, self.server), parameters, f"{self.server} {name}")

    def _write_to_all(self, name: str) -> AdaptedTool:
        return self._change(name, WRITES_ALL)

    # -- calls -----------------------------------------------------------------------------------------------------------

    async def call(
        self, name: str, arguments: Mapping[str, Any] | None, run: Run, asker: Asker, *, live: bool = False
    ) -> Answered:
        """Answer one call. What ``run`` raises is raised.

        Args:
            name: the tool's.
            arguments: the call's.
            run: runs the tool; returns the result's wire form, inside :class:`OneCallOnly` if it must not be kept.
            asker: whose call it is.
            live: the call is part of a longer exchange (an answer to a question, a task): it is run whatever is stored,
                and not stored. A write is a write all the same.

        Raises:
            AgentLoopDetectedError: the session's loop policy stopped the call.
        """
        known = self._known.get(name)
        given = dict(arguments or {})
        if known is None or known.policy.kind == "write":
            tool = self._unknown if known is None else known.tool
            answer = await tool({} if known is None else given, _whole(run), backend=self.backend)
            return Answered(_plain(answer.value), "write", executed=True)
        policy = known.policy
        if policy.kind == "other" and not live:
            answer = await known.tool(given, _whole(run), backend=self.backend)
            return Answered(_plain(answer.value), "other", executed=True)
        if live or _ASKER in given or not (asker.known or policy.scope is not None):
            if is_taping():
                passing = adapted(name, _OTHER, tuple(given), f"{self.server} {name}")
                return Answered(_plain((await passing(given, _whole(run))).value), "other", executed=True)
            return Answered(_plain(await run()), "other", executed=True)
        try:
            served = await known.tool(_keyed(given, policy, asker), self._load(run), backend=self.backend)
        except _ToolFailedError as failure:
            return Answered(failure.result, "read", executed=True)
        kept: Mapping[str, Any] = _plain(served.value)
        if "created_at" in kept:
            age = max(0.0, self._now() - kept["created_at"])
            return Answered(dict(kept["result"]), "read", served.executed, age, served.stale, served.tags)
        return Answered(dict(kept), "read", served.executed, tags=served.tags)

    def _load(self, run: Run) -> Callable[[], Awaitable[Wire | OneCallOnly]]:
        async def load() -> Wire | OneCallOnly:
            began = self._now()  # an answer is as old as the question
            result = await run()
            if isinstance(result, OneCallOnly):
                return result
            if failed(result):
                raise _ToolFailedError(result)
            return {"created_at": began, "result": result} if keepable(result) else OneCallOnly(result)

        return load

    # -- what others changed ------------------------------------------------------------------------------------------------

    def followed(self, name: str, arguments: Mapping[str, Any] | None) -> list[Followed]:
        """The resources a call reads that the server has URIs for."""
        known = self._known.get(name)
        given = dict(arguments or {})
        found = []
        for template, tool in known.changes if known is not None else ():
            uri = uri_of(template, given)
            if uri is not None:
                found.append(Followed(uri, lambda tool=tool: self._outside(tool, given)))  # type: ignore[misc]
        return found

    async def changed(self, uri: str) -> None:
        """A resource has changed of which nobody here knows who reads it: all of its scheme is dropped."""
        scheme = uri.partition("://")[0]
        if "://" not in uri:
            await self.drop_all()
        else:
            head = ToolPolicy(kind="write", resource="{scheme}")
            await self._outside(self._change("resource_updated", head, ("scheme",)), {"scheme": scheme})

    async def drop_all(self) -> None:
        """Everything of this server is dropped."""
        await self._outside(self._dropper, {})

    async def _outside(self, tool: AdaptedTool, arguments: Mapping[str, Any]) -> None:
        """Invalidate, in nobody's session: news from the server are no calls of an agent."""

        async def nothing() -> None:
            return None

        async def invalidate() -> None:
            await tool(arguments, nothing, backend=self.backend)

        await asyncio.get_running_loop().create_task(invalidate(), context=Context())


def _keyed(arguments: dict[str, Any], policy: ToolPolicy, asker: Asker) -> dict[str, Any]:
    """The arguments and, where it says something, what else the answer may depend on."""
    principal = asker.principal if policy.scope is None else None
    beside = [principal, request_meta(asker.meta), asker.protocol]
    return arguments if beside == [None, None, None] else {**arguments, _ASKER: beside}


def _of_wire(policy: ToolPolicy) -> ToolPolicy:
    """The policy for what is kept here; its own functions are given the result's wire form."""
    if policy.cache_if is not None:
        wanted = policy.cache_if
        return replace(policy, cache_if=lambda kept: wanted(kept["result"]))
    return policy


def _whole(run: Run) -> Callable[[], Awaitable[Wire]]:
    async def whole() -> Wire:
        return _plain(await run())

    return whole


def _plain(result: Wire | OneCallOnly) -> Wire:
    plain: Wire = result.result if isinstance(result, OneCallOnly) else result
    return plain
