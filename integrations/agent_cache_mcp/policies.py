"""What a tool of an MCP server reads or writes: said by name, by the server's author, or (if trusted) by its annotations.

Deciding only; nothing here calls a tool. A tool about which nothing is known counts as a write to everything of its server:
that costs hits, never a wrong answer.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote, unquote

from agent_cache.adapters import Policies, ToolPolicy, prefixed
from agent_cache.errors import ConfigurationError
from agent_cache.tags import segment_text
from agent_cache_mcp.results import PROVENANCE

__all__ = ["ALL", "WRITES_ALL", "Definition", "below", "is_uri", "parameters_of", "policy_of", "uri_of"]

Definition = Mapping[str, Any]
"""A tool as ``tools/list`` describes it: ``name``, ``inputSchema``, ``annotations``, ``_meta``."""

ALL = "*"
WRITES_ALL = ToolPolicy(kind="write", resource=ALL)
_ANY_FIELD = re.compile(r"(\{[^}]*\})")
_SEPARATORS = re.compile(r"[:/]+")
_log = logging.getLogger("agent_cache.mcp")


def policy_of(
    definition: Definition, policies: Policies, *, trusted: bool, open_world_ttl: float | None, strict: bool
) -> ToolPolicy:
    """The policy of a tool: by its name, else by its ``_meta``, else (if trusted) by its annotations, else a write to all.

    Raises:
        ConfigurationError: the tool's ``_meta`` is wrong, and ``strict``; otherwise that is logged, and it is a write.
    """
    name = str(definition.get("name"))
    named = policies.find(name)
    if named is not None:
        return named
    said = (definition.get("_meta") or {}).get(PROVENANCE)
    if said is not None:
        try:
            return ToolPolicy.of(said, f"_meta.{PROVENANCE} of tool {name!r}")
        except ConfigurationError as error:
            if strict:
                raise
            _log.warning("%s; the tool counts as a write to everything of its server", error)
            return WRITES_ALL
    hints = definition.get("annotations") or {}
    if not trusted or hints.get("readOnlyHint") is not True:
        return WRITES_ALL
    if hints.get("openWorldHint", True) is False:
        return ToolPolicy(kind="read", resource=ALL)
    if open_world_ttl is not None:  # the world changes and tells nobody
        return ToolPolicy(kind="read", resource=ALL, ttl=open_world_ttl)
    return ToolPolicy(kind="other")


def parameters_of(definition: Definition) -> tuple[str, ...]:
    """The names of a tool's arguments."""
    schema = definition.get("inputSchema")
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    return tuple(map(str, properties)) if isinstance(properties, Mapping) else ()


def below(policy: ToolPolicy, server: str) -> ToolPolicy:
    """The policy with its resources inside one server's, URIs among them written as paths.

    Raises:
        ConfigurationError: a URI that cannot be a path.
    """
    return prefixed(replace(policy, resource=tuple(map(_as_path, policy.resources))), server)


def is_uri(resource: str) -> bool:
    """Whether a resource is a URI (``user://{id}``), so that the server's notifications can name it."""
    return "://" in _ANY_FIELD.sub("", resource)


def _as_path(resource: str) -> str:
    """``user://{id}`` as ``user:{id}``: a URI's empty segments are none."""
    if not is_uri(resource):
        return resource
    whole = "".join(p if p.startswith("{") else _SEPARATORS.sub(":", p) for p in _ANY_FIELD.split(resource))
    pieces = _ANY_FIELD.split(whole.strip(":"))
    return "".join(p if p.startswith("{") else ":".join(map(_literal, p.split(":"))) for p in pieces)


def _literal(text: str) -> str:
    plain = unquote(text)
    if set(plain) & set(":/{}"):
        raise ConfigurationError("resource", text, "a URI with an encoded ':', '/' or brace in it is not supported")
    return plain


def uri_of(resource: str, arguments: Mapping[str, Any]) -> str | None:
    """The URI that a URI template names for these arguments; None where a value is missing or is not a plain one."""
    out = []
    for piece in _ANY_FIELD.split(resource):
        if not piece.startswith("{"):
            out.append(piece)
            continue
        value = arguments.get(piece[1:-1].strip())
        if segment_text(value) is None or isinstance(value, bool):
            return None
        out.append(quote(str(value), safe="/:@!$&'()*+,;=-._~"))
    return "".join(out)
