"""URLs fit to be shown: in errors, logs and reports."""

from __future__ import annotations

import re

__all__ = ["without_password"]


def without_password(url: str) -> str:
    """A URL without user, password and options, and without anything that may be part of them."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url if re.fullmatch(r"[A-Za-z0-9./_-]*", url) else "…"
    hidden = "…@" if "@" in rest else ""
    where = rest.rpartition("@")[2] if hidden else rest
    place = re.match(r"[A-Za-z0-9.,:\[\]_/-]*", where.partition("?")[0])
    shown = place[0] if place else ""
    if not hidden and not re.fullmatch(r"[^:@]*(:\d+)?((,[^:@,]*(:\d+)?)*)(/.*)?", shown):
        return f"{scheme}://…"  # a password whose user part was forgotten may stand where the port should
    return f"{scheme}://{hidden}{shown}"
