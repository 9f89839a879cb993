"""One call of a tool: its key, its tags, whose it is and which backend it goes to.

Pure: looks at arguments, policy and view, decides, and touches nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, cast

from agent_cache.backends.base import Backend
from agent_cache.canonical import encoded
from agent_cache.config import settings
from agent_cache.context import SessionState, View
from agent_cache.engine.tools import ReadTool, WriteTool
from agent_cache.errors import UnkeyableArgumentError
from agent_cache.lineage import Mark
from agent_cache.model import CacheKey
from agent_cache.notices import shown
from agent_cache.policy import scopes_of_reads
from agent_cache.tags import (
    LINEAGE,
    CallTags,
    Chain,
    Path,
    Tag,
    Template,
    bucket_path,
    call_path,
    call_tags,
    identity_chain,
    segment_text,
    shared_tags,
    write_tags,
)

_MAX_CALLS = 1_024
_CONSTANT = frozenset({str, bytes, int, bool, float, type(None)})

__all__ = [
    "REMEMBERED",
    "Bypass",
    "ReadCall",
    "Remembered",
    "Shadowed",
    "WriteCall",
    "backends_for",
    "cache_key",
    "narrowed_by",
    "prepare_read",
    "prepare_write",
    "same_call",
]


@dataclass(slots=True, eq=False)
class Bypass:
    """Why a call cannot be cached; ``detail`` is for people, ``fix`` tells whether it is worth a warning."""

    reason: str
    detail: str = ""
    key: CacheKey | None = None
    warn: bool = True


@dataclass(slots=True, eq=False)
class ReadCall:
    """A call that can be cached."""

    tool: ReadTool
    key: bytes
    digest: bytes
    tags: CallTags
    chain: Chain
    dies_with_session: bool
    backend: Backend
    ttl: float | None
    mark: Mark | None = None
    """Where in the lineage of its session it stands, if that is what it is shared by."""
    extras: tuple[Tag, ...] = ()
    """What its loads came to depend on beside what was declared: they are in ``tags``, and in ``key``."""
    declared: CallTags | None = None
    base_key: bytes | None = None
    """Tags and key without the extras, where there are any."""

    @property
    def cache_key(self) -> CacheKey:
        return CacheKey(self.tool.group, self.digest.hex())

    def depends_on(self, stamp: Hashable) -> Hashable:
        """What the loop detector is told that this read depends on, where the backend says ``stamp``."""
        return stamp if self.mark is None else (self.mark.digest, stamp)


@dataclass(frozen=True, slots=True, eq=False)
class Remembered:
    """How a call is looked up whose loads came to depend on more than was declared."""

    key: bytes
    tags: CallTags
    extras: tuple[Tag, ...]


REMEMBERED: dict[bytes, Remembered] = {}
"""By the key of the call as it was declared. Bounded by who fills it; what is forgotten is a miss."""


@dataclass(slots=True, eq=False)
class Shadowed(Bypass):
    """It could be cached, and runs live all the same: the cache looks on."""

    call: ReadCall = field(kw_only=True)


@dataclass(slots=True, eq=False)
class WriteCall:
    """What a write drops, and where. ``notes`` says what had to be widened, and why.

    ``paths`` it is known to write; those of ``open`` (their place among them, and the template) are whole only once the
    result is there: until then their parents stand for them.
    """

    tool: WriteTool
    tags: tuple[Tag, ...]
    scope: str
    backends: tuple[Backend, ...]
    notes: tuple[str, ...] = ()
    paths: tuple[Path, ...] = ()
    chain: Chain = ()
    open: tuple[tuple[int, Template], ...] = ()


def cache_key(tool: ReadTool, values: tuple[Any, ...]) -> CacheKey:
    """The call's key, whoever makes it.

    Raises:
        UnkeyableArgumentError: naming the argument.
    """
    return CacheKey(tool.group, tool.shape.digest(tool.identity, values).hex())


def same_call(tool: ReadTool, values: tuple[Any, ...], call: ReadCall) -> bool:
    """Whether mutable arguments are still those the call was keyed by."""
    try:
        return tool.shape.digest(tool.identity, values) == call.digest
    except UnkeyableArgumentError:
        return False


def prepare_read(tool: ReadTool, view: View, values: tuple[Any, ...]) -> ReadCall | Bypass:
    """Everything a read needs, or the reason why it must run uncached.

    Where the backend is asked on every hit, what was prepared is kept for the next equal call of this view.
    """
    if settings.mode != "on":
        return _beside(tool, view, values)
    if view.mode == "bypass" or backend_for(tool.policy.backend, view.session).in_process:
        return _prepared(tool, view, values)
    hot_key = tool.shape.hot_key(values)
    if hot_key is None or any(type(part) is bytes for part in hot_key):  # what can be changed is looked at each time
        return _prepared(tool, view, values)
    calls = view.calls
    known = calls.get(hot_key)
    if known is None:
        known = _prepared(tool, view, values)
        session = view.session
        if (
            isinstance(known, ReadCall)
            and known.mark is None
            and (session is None or known.chain == () or tool.policy.scope in session.scopes)
        ):
            if len(calls) >= _MAX_CALLS:
                calls.clear()
            calls[hot_key] = known
    elif tool.ttl_of is not None:
        return replace(cast(ReadCall, known), ttl=tool.ttl_of(values))
    return cast("ReadCall | Bypass", known)


def _beside(tool: ReadTool, view: View, values: tuple[Any, ...]) -> ReadCall | Bypass:
    """With a cache that is off, or looks on."""
    call = _prepared(tool, view, values)
    if settings.mode == "shadow" and isinstance(call, ReadCall):
        return Shadowed("shadow", "configure(mode='shadow')", call.cache_key, warn=False, call=call)
    return call


def _prepared(tool: ReadTool, view: View, values: tuple[Any, ...]) -> ReadCall | Bypass:
    try:
        digest = tool.shape.digest(tool.identity, values)
    except UnkeyableArgumentError as error:
        return Bypass("unkeyable_argument", str(error))
    if settings.mode == "off":
        return Bypass("mode_off", "configure(mode='off')", CacheKey(tool.group, digest.hex()), warn=False)
    if view.mode == "bypass":
        return Bypass("no_cache", "inside no_cache()", CacheKey(tool.group, digest.hex()), warn=False)
    policy = tool.policy
    paths = policy.fixed_paths
    if paths is None:
        arguments = tool.shape.arguments(values)
        filled: list[Path] = []
        for template in policy.resources:
            path, whole = template.fill(arguments)
            if not whole:
                text = f"a value of {template.text!r} is None, missing or has no text"
                return Bypass("unknown_entity", text, CacheKey(tool.group, digest.hex()))
            filled.append(path)
        paths = tuple(filled)
    whose = scope_of(policy.scope, view.session)
    if isinstance(whose, str):
        text = f"scope={policy.scope!r} needs an active session that names it"
        return Bypass(whose, text, CacheKey(tool.group, digest.hex()))
    chain, identity = whose
    if policy.scope == "lineage" and view.session is not None:
        return _in_lineage(tool, view.session, paths, digest, chain, identity)
    ttl = policy.ttl if tool.ttl_of is None else tool.ttl_of(values)
    call = ReadCall(  # by position: naming them costs as much as the object
        tool,
        _entry_key(digest, identity),
        digest,
        call_tags(shared_tags(paths, tool.group, chain), bucket_path(tool.group, digest)),
        chain,
        policy.scope == "session",
        backend_for(policy.backend, view.session),
        settings.default_ttl if ttl is None and tool.ttl_of is None else ttl,
    )
    if REMEMBERED and (more := REMEMBERED.get(call.key)) is not None:
        call.declared, call.base_key = call.tags, call.key
        call.key, call.tags, call.extras = more.key, more.tags, more.extras
    return call


def _in_lineage(
    tool: ReadTool, session: SessionState, paths: tuple[Path, ...], digest: bytes, chain: Chain, identity: bytes
) -> ReadCall | Bypass:
    """A read that is shared by what has been written to what it reads. What nobody else can have dies with the session."""
    call = bucket_path(tool.group, digest)
    mark = session.lineage.mark((*paths, call)) if session.lineage is not None else None
    if mark is None:
        text = "a write of this session is running"
        return Bypass("own_write", text, CacheKey(tool.group, digest.hex()), warn=False)
    chain = session.chain if mark.private else chain
    return ReadCall(
        tool=tool,
        key=_entry_key(digest, identity + mark.digest + (encoded(chain) if mark.private else b"")),
        digest=digest,
        tags=call_tags(shared_tags((), tool.group, chain), call),
        chain=chain,
        dies_with_session=mark.private,
        backend=backend_for(tool.policy.backend, session),
        ttl=tool.policy.ttl if tool.policy.ttl is not None else settings.default_ttl,
        mark=mark,
    )


def backend_for(own: Backend | None, session: SessionState | None) -> Backend:
    """The decorator's backend, else the session's, else the configured one."""
    if own is not None:
        return own
    if session is not None and session.backend is not None:
        return session.backend
    return settings.default_backend()


def backends_for(
    own: Backend | None, resources: Iterable[Template], session: SessionState | None
) -> tuple[Backend, ...]:
    """Where an invalidation has to go: to its own backend, and to those on which reads of the resources are."""
    resources = tuple(resources)
    found = [backend_for(own, session)]
    if own is not None and scopes_of_reads.some_name_none(resources):
        found.append(backend_for(None, session))
    found += scopes_of_reads.backends_of(resources)
    return tuple({id(backend): backend for backend in found}.values())


def scope_of(scope: str, session: SessionState | None) -> tuple[Chain, bytes] | str:
    """Whose the answer is: the chain its tags are on and its part of the key; or why that is not known.

    Fails closed: a missing identity never widens the scope.
    """
    if scope == "global":
        return (), b""
    if session is None:
        return "no_session"
    known = session.scopes.get(scope)
    if known is None:
        known = _scope_in(scope, session)
        if all(type(value) in _CONSTANT for value in session.identity.values()):
            session.scopes[scope] = known
    return known


def _scope_in(scope: str, session: SessionState) -> tuple[Chain, bytes] | str:
    if scope == "session":
        return session.chain, encoded(("session", *session.chain))
    if scope == "lineage":
        return _lineage_of(session)
    names: list[str] = []
    values: list[object] = []
    for name, value in session.identity.items():
        names.append(name)
        values.append(value)
        if value is None:
            return "missing_identity"
        if name == scope:
            texts = [segment_text(v) for v in values]
            if None in texts:
                return "missing_identity"
            chain = identity_chain((n, t) for n, t in zip(names, texts, strict=True) if t is not None)
            try:
                return chain, encoded([*zip(names, values, strict=True)])
            except UnkeyableArgumentError:
                return "missing_identity"
    return "missing_identity"


def _lineage_of(session: SessionState) -> tuple[Chain, bytes] | str:
    """The chain of the state it started in; the whole identity is part of the key."""
    if session.lineage is None:
        return "no_start_state"
    if any(value is None for value in session.identity.values()):
        return "missing_identity"
    try:
        return (*LINEAGE, session.lineage.state.hex()), encoded(("lineage", *session.identity.items()))
    except UnkeyableArgumentError:
        return "missing_identity"


def _entry_key(digest: bytes, identity: bytes) -> bytes:
    """A digest over tool, arguments, namespace and scope identity; keyed with the secret if there is one."""
    space, secret = settings.key_space, settings.secret
    if not identity and not space and not secret:
        return digest
    material = b"".join((digest, len(space).to_bytes(4, "big"), space, identity))
    return hashlib.blake2b(material, digest_size=20, key=secret, person=b"agent_cache.1").digest()


def prepare_write(tool: WriteTool, view: View, values: tuple[Any, ...]) -> WriteCall:
    """What a write drops. Never fails: whatever is unclear is dropped widely, and noted."""
    policy = tool.policy
    arguments = tool.shape.arguments(values)
    backends = backends_for(policy.backend, policy.resources, view.session)
    if not policy.clear_all:
        keys = _keys_from(tool, values)
        if not isinstance(keys, str):
            called = tuple([call_path(k) for k in keys])
            return WriteCall(tool, write_tags(called, ()), "global", backends, paths=called)
        heads = tuple([(t.head,) if t.head is not None else () for t in policy.resources])
        return WriteCall(tool, write_tags(heads, ()), "global", backends, (keys,), heads)
    paths = tuple([template.fill(arguments)[0] for template in policy.resources])
    chain, scope, note = _write_chain(tool, view)
    call = WriteCall(tool, write_tags(paths, chain), scope, backends, (note,) if note else (), paths, chain)
    if chain[:1] == LINEAGE:  # no entry hangs on a tag that it could move
        call.tags, call.backends = (), ()
    if policy.names_result:  # with the values of now: the tool may change its arguments
        templates = enumerate(policy.resources)
        call.open = tuple((at, template.bound(arguments)) for at, template in templates if template.names_result)
    return call


def narrowed_by(call: WriteCall, result: object) -> tuple[tuple[Tag, ...] | None, str]:
    """What the write turns out to have written, now that its result is there: None if no less than was thought.

    With what is to be said about a result that does not name what it should: then the parent stays written.
    """
    paths, note = list(call.paths), ""
    for at, template in call.open:
        path = template.known_from(result)
        if path is None:
            note = f"{template.text!r}: the result does not say which; it drops all of {':'.join(paths[at])!r}"
        else:
            paths[at] = path
    tags = write_tags(paths, call.chain)
    return (tags if tags != call.tags else None), note


def _write_chain(tool: WriteTool, view: View) -> tuple[Chain, str, str]:
    """A scoped write stays narrow only where every read of the resource has that very scope."""
    policy = tool.policy
    if policy.scope == "global":
        return (), "global", ""
    whose = scope_of(policy.scope, view.session)
    if isinstance(whose, str):
        return (), "global", f"scope={policy.scope!r}: {whose}; it drops the resource in every scope"
    if not scopes_of_reads.all_have(policy.resources, policy.scope):
        return (
            (),
            "global",
            f"scope={policy.scope!r}: some read has another scope; it drops the resource in every scope",
        )
    return whose[0], policy.scope, ""


def _keys_from(tool: WriteTool, values: tuple[Any, ...]) -> list[CacheKey] | str:
    """The keys ``key_fn`` names, or why there are none."""
    key_fn = tool.policy.key_fn
    args, kwargs = _as_call(tool, values)
    try:
        found = key_fn(args, kwargs) if key_fn is not None else None
        keys = [found] if isinstance(found, CacheKey) else list(found) if isinstance(found, Iterable) else []
    except Exception as error:  # noqa: BLE001 - a write must never be lost to it: the whole resource is dropped and said so
        return f"key_fn raised {shown(error)}; it drops the whole resource"
    if not keys or not all(isinstance(k, CacheKey) for k in keys):
        return f"key_fn returned {shown(found)}, not what cache_key() returns; it drops the whole resource"
    return keys


def _as_call(tool: WriteTool, values: tuple[Any, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The call as ``(args, kwargs)``, defaults filled in: positional parameters in args, keyword-only in kwargs."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for parameter, value in zip(tool.shape.parameters, values, strict=True):
        if parameter.kind is parameter.VAR_POSITIONAL:
            args.extend(value)
        elif parameter.kind is parameter.VAR_KEYWORD:
            kwargs.update(value)
        elif parameter.kind is parameter.KEYWORD_ONLY:
            kwargs[parameter.name] = value
        else:
            args.append(value)
    return tuple(args), kwargs
