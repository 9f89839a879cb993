"""What a policy says of one recorded call: what it is, whose answer it would be, which tags it reads or moves.

A policy comes from flags (``get_*:user:{user_id}``), from the TOML the adapters read, or, for traces that name
resources themselves, from the trace. Which answers are current is the ledger's business.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agent_cache.adapters import Policies, ToolPolicy
from agent_cache.errors import ConfigurationError
from agent_cache.simulate.traffic import Call, Entity, hashed
from agent_cache.tags import Chain, Tag, Template, read_tags, segment_text, write_tags

__all__ = ["DROPS", "Drops", "Rules", "Said"]

Drops = Literal["entity", "resource", "everything", "nothing"]
DROPS: tuple[Drops, ...] = ("entity", "resource", "everything", "nothing")
_FIELD = re.compile(r"\{\s*([^.\[\]{}\s]+)")
_ROOT = ()
_MAX_TOOLS = 10_000


@dataclass(frozen=True, slots=True)
class Said:
    """A policy's word on one call.

    Attributes:
        kind: ``read``, ``write``, ``other`` (neither), or ``unknown`` (no policy names it).
        paths: what is read or written; None: a read whose resource is not known, which runs uncached.
        chain: whose answer; None: not known, so the call runs uncached.
        lineage: the answer belongs to all sessions that have written the same.
        ttl: seconds, or None.
    """

    kind: str
    paths: tuple[tuple[str, ...], ...] | None = ()
    chain: Chain | None = ()
    lineage: bool = False
    ttl: float | None = None
    poll: bool = False
    ignore: tuple[str, ...] = ()

    @property
    def tags(self) -> tuple[Tag, ...]:
        """What a read depends on, or a write moves."""
        if self.kind == "write":
            return write_tags(self.paths or (_ROOT,), self.chain or ())
        return read_tags(self.paths or (), self.chain or ())


@dataclass(frozen=True, slots=True)
class _Rule:
    policy: ToolPolicy
    templates: tuple[Template, ...]


class Rules:
    """A policy for traces.

    Args:
        policies: by tool name or pattern; None: what the trace itself says of its calls.
        drops: what a write drops: the ``entity`` it names (and lists over it), the whole ``resource``, ``everything``, or
            ``nothing`` (a cache with a ttl only).
        scope: who shares an answer where the policy does not say: ``global``, ``session``, ``lineage`` or an identity field.
        refused_writes: ``drop``, or ``keep``: a write that was answered by an error drops nothing.

    Raises:
        ConfigurationError: naming the parameter, the value and the fix.
    """

    def __init__(
        self,
        policies: Policies | None = None,
        *,
        drops: Drops = "entity",
        scope: str = "global",
        refused_writes: Literal["drop", "keep"] = "drop",
    ) -> None:
        if drops not in DROPS:
            raise ConfigurationError("drops", drops, f"give one of {', '.join(DROPS)}")
        if refused_writes not in ("drop", "keep"):
            raise ConfigurationError("refused_writes", refused_writes, "give 'drop' or 'keep'")
        if not isinstance(scope, str) or not scope.isidentifier():
            raise ConfigurationError(
                "scope", scope, "give 'global', 'session', 'lineage' or the name of an identity field"
            )
        self.policies = policies
        self.drops = drops
        self.scope = scope
        self.refused_writes = refused_writes
        self._rules: dict[str, _Rule | None] = {}

    @classmethod
    def from_flags(cls, reads: Iterable[str] = (), writes: Iterable[str] = (), **options: Any) -> Rules:
        """From texts such as ``get_*:user:{user_id}``: a pattern of tool names, a colon, a resource.

        Several for one pattern name several resources.

        Raises:
            ConfigurationError: a text is not of that form.
        """
        found: dict[str, dict[str, Any]] = {}
        for kind, texts in (("read", reads), ("write", writes)):
            for text in texts:
                pattern, _, resource = text.partition(":")
                if not pattern or not resource:
                    raise ConfigurationError(kind, text, "write 'TOOL:RESOURCE', such as 'get_*:user:{user_id}'")
                known = found.setdefault(pattern, {"kind": kind, "resource": []})
                if known["kind"] != kind:
                    raise ConfigurationError(kind, text, f"{pattern!r} is declared as a {known['kind']} as well")
                known["resource"].append(resource)
        return cls(Policies(found) if found else None, **options)

    @classmethod
    def from_toml(cls, path: str | Path, **options: Any) -> Rules:
        """From a file with a table per tool, as :meth:`agent_cache.adapters.Policies.from_toml` reads it."""
        return cls(Policies.from_toml(path), **options)

    def of(self, call: Call) -> Said:
        """What this call is."""
        if self.policies is None and call.kind is not None:
            return self._recorded(call)
        rule = self._rule(call.tool)
        if rule is None:
            return Said("unknown")
        policy = rule.policy
        if policy.kind == "other":
            return Said("other", poll=policy.poll)
        scope = policy.scope or self.scope
        chain = _chain(scope, call)
        if policy.kind == "write":
            return self._write(call, [self._path(t, call, _result(call))[0] for t in rule.templates], chain)
        filled = [self._path(template, call, None) for template in rule.templates]
        paths = tuple(path for path, _ in filled) if all(whole for _, whole in filled) else None
        return Said("read", paths, chain, scope == "lineage", policy.ttl, policy.poll, policy.ignore)

    def _rule(self, tool: str) -> _Rule | None:
        if tool in self._rules:
            return self._rules[tool]
        policy = self.policies.find(tool) if self.policies is not None else None
        rule = None
        if policy is not None:
            texts = policy.resources
            rule = _Rule(policy, tuple(Template.parse(text, {*_FIELD.findall(text), "result"}) for text in texts))
        if len(self._rules) < _MAX_TOOLS:
            self._rules[tool] = rule
        return rule

    def _path(self, template: Template, call: Call, result: Any) -> tuple[tuple[str, ...], bool]:
        path, whole = template.fill({**call.arguments, "result": result} if result is not None else call.arguments)
        return (path[:1], True) if self.drops == "resource" and path else (path, whole)

    def _recorded(self, call: Call) -> Said:
        if call.kind == "other":
            return Said("other")
        chain = _chain(self.scope, call)
        if call.kind == "write":
            return self._write(call, [self._entity(entity) for entity in call.writes], chain)
        paths = tuple(self._entity(entity) for entity in call.reads) or (("pure",),)
        return Said("read", paths, chain, self.scope == "lineage")

    def _entity(self, entity: Entity) -> tuple[str, ...]:
        resource, which = entity
        head = segment_text(resource) or "resource"
        text = None if which is None or self.drops == "resource" else segment_text(which)
        return (head,) if text is None else (head, text)

    def _write(self, call: Call, paths: list[tuple[str, ...]], chain: Chain | None) -> Said:
        if self.drops == "nothing" or (call.error and self.refused_writes == "keep"):
            return Said("write", None, None)
        if self.drops == "everything":
            return Said("write", (_ROOT,), ())
        return Said("write", tuple(dict.fromkeys(paths)) or None, chain or ())


def _chain(scope: str, call: Call) -> Chain | None:
    if scope in ("global", "lineage"):
        return ()
    if scope == "session":
        return ("session", str(hashed(call.session))) if call.session else None
    chain: list[str] = []
    for name, value in call.identity.items():
        text = segment_text(value)
        if text is None:
            return None
        chain.append(f"{name}={text}")
        if name == scope:
            return tuple(chain)
    return None


def _result(call: Call) -> Mapping[str, Any] | None:
    """The answer as a mapping, for resources that only the answer names."""
    if call.error or not call.shown.startswith("{"):
        return None
    try:
        value = json.loads(call.shown)
    except ValueError:
        return None
    return value if isinstance(value, Mapping) else None
