"""How long what was loaded lasts, and in which form it is kept, where a tool's freshness has rules of its own.

Part of the load line: the ttl as a function of the result, errors that are answers, a source's version beside a value,
and the validator that makes an expired answer fresh again in place of a load.
"""

from __future__ import annotations

import hashlib
import time
from typing import Any, NamedTuple

from agent_cache.backends.base import Found
from agent_cache.canonical import encoded
from agent_cache.clock import seconds
from agent_cache.codecs import LastingCodec, Marked, Stored
from agent_cache.config import settings
from agent_cache.context import View
from agent_cache.engine.behind import Consult
from agent_cache.engine.calls import ReadCall
from agent_cache.engine.drivers import Line
from agent_cache.engine.effects import Ran
from agent_cache.engine.tools import ReadTool
from agent_cache.errors import ConfigurationError, UnkeyableArgumentError, UnstorableResultError
from agent_cache.flight import Landed
from agent_cache.freshness import ExpiredEntry, Freshness, Validator, retry_after
from agent_cache.notices import shown

__all__ = ["Terms", "error_terms", "marked", "source_version", "still_holds", "value_terms"]


class Terms(NamedTuple):
    """Seconds for which it is fresh, and for which it is kept beyond that. ``exact``: they are not to be shortened."""

    ttl: float | None
    grace: float
    exact: bool = False


_MAX_ERROR = 1024 * 1024  # bytes
_wall = time.time


def value_terms(
    tool: ReadTool, view: View, call: ReadCall, fresh: Freshness, value: Any, landed: Landed
) -> Terms | None:
    """What a value gets; None: it is not stored, and ``landed.refused`` says why."""
    ttl = call.ttl
    if fresh.ttl_of is not None:
        try:
            said = seconds(fresh.ttl_of(value), "ttl", zero_ok=True)
        except Exception as error:  # noqa: BLE001 - the tool has its answer; a failing function only means "do not keep it"
            landed.refused = "ttl_failed"
            view.count(tool.resource, "unstorable", reason="ttl_failed")
            what = (
                f"returned {shown(error.value)}" if isinstance(error, ConfigurationError) else f"raised {shown(error)}"
            )
            text = "%s: the function given as ttl %s; such results are not stored. Let it return seconds, a timedelta or None"
            settings.notices.once((tool.identity, "ttl"), text, tool.name, what)
            return None
        if said == 0:
            landed.refused = "ttl"
            return None
        ttl = said if said is not None else ttl
    return Terms(ttl, fresh.grace if ttl is not None else 0.0)


def error_terms(
    tool: ReadTool, view: View, fresh: Freshness, error: BaseException, landed: Landed
) -> tuple[Stored, Terms] | None:
    """The form in which an error is kept, if it is one that is an answer; and for how long."""
    if not isinstance(error, tuple(fresh.errors)) or not isinstance(error, Exception):
        return None
    codec = tool.codec
    assert isinstance(codec, LastingCodec)  # noqa: S101 - made so where there are such errors
    try:
        kept = codec.freeze_error(error, _MAX_ERROR)
    except UnstorableResultError as refusal:
        landed.refused = refusal.reason
        view.count(tool.resource, "unstorable", reason=refusal.reason)
        text = "%s: its error is raised and not stored (%s)"
        settings.notices.once((tool.identity, "error", refusal.reason), text, tool.name, refusal)
        return None
    lasts = retry_after(error, _wall)
    return kept, Terms(fresh.errors[type(error)] if lasts is None else lasts, 0.0, exact=lasts is not None)


# -- validators ----------------------------------------------------------------------------------------------------------


def source_version(
    tool: ReadTool, view: View, validator: Validator | None, values: tuple[Any, ...]
) -> Line[bytes | None]:
    """The digest of the version the source has now; None where nobody knows."""
    if validator is None or validator.version is None:
        return None
    said: Ran = yield Consult(validator.version, (tool.shape.arguments(values),))
    if said.error is None and said.value is not None:
        try:
            return hashlib.blake2b(encoded(said.value, "version"), digest_size=20).digest()
        except UnkeyableArgumentError as error:
            said.error = error
    if said.error is not None:
        _failed(tool, view, said.error)
    return None


def marked(tool: ReadTool, stored: Stored, mark: bytes | None) -> Stored:
    """``stored`` with the version its load began under."""
    codec = tool.codec
    return stored if mark is None or not isinstance(codec, LastingCodec) else codec.marked(stored, mark)


def still_holds(
    tool: ReadTool, view: View, validator: Validator, values: tuple[Any, ...], kept: Found, mark: bytes | None
) -> Line[bool]:
    """Whether an expired answer is as good as a fresh one. ``mark``: the source's version as of now."""
    if kept.ttl_left is None or -kept.ttl_left > validator.keep:
        return False
    if validator.check is None:
        return mark is not None and isinstance(kept.stored, Marked) and kept.stored.mark == mark
    try:
        entry = ExpiredEntry(kept.stored.fresh(), tool.shape.arguments(values), kept.age)
    except UnstorableResultError:
        return False
    said: Ran = yield Consult(validator.check, (entry,))
    if said.error is None and type(said.value) is not bool:
        said.error = TypeError(f"revalidate returned {type(said.value).__name__}, not True or False")
    if said.error is not None:
        _failed(tool, view, said.error)
        return False
    return said.value is True


def _failed(tool: ReadTool, view: View, error: BaseException) -> None:
    view.count(tool.resource, "revalidation_failures", reason=type(error).__name__)
    text = "%s: its validator failed (%r); the tool is run instead"
    settings.notices.once((tool.identity, "revalidate"), text, tool.name, error)
