"""Who asks a server, as far as the server can tell: a principal, never the credential itself, and the client's session.

The same for both kinds of servers; where the values come from is theirs to say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

from mcp.types import INTERNAL_ERROR

from agent_cache import AgentCacheSession
from agent_cache.adapters import HeldSessions
from agent_cache.errors import ConfigurationError
from agent_cache.loops import OnLoop

__all__ = ["Sessions", "principal_of", "told"]

_CREDENTIALS = ("authorization", "cookie", "x-api-key")


def principal_of(token: object, headers: Mapping[str, str] | None) -> str | None:
    """A text for whoever holds this access token, or sent these headers; None for the anonymous.

    The whole token counts, not the user it names: what one token may see, another of the same user may not.
    """
    if token is not None:
        return _digest("token", str(getattr(token, "token", token)))
    sent = [f"{name}={headers[name]}" for name in _CREDENTIALS if name in headers] if headers is not None else []
    return _digest("headers", *sent) if sent else None


def _digest(*parts: str) -> str:
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


async def told(check: Awaitable[None]) -> None:
    """Wait for a check of the policies; what is wrong with them goes to the client as an error of the protocol.

    Raises:
        MCPError: with the text of the ``ConfigurationError``.
    """
    from mcp.shared.exceptions import MCPError

    try:
        await check
    except ConfigurationError as error:
        raise MCPError(code=INTERNAL_ERROR, message=f"agent_cache: {error}") from error


class Sessions:
    """The agent_cache session of each client session of a server."""

    def __init__(self, on_loop: OnLoop | None, options: Mapping[str, Any]) -> None:
        self._held = HeldSessions(loop_detection=on_loop is not None, on_loop=on_loop or "raise", **options)

    def around(
        self, session_id: str | None, identity: Mapping[str, object] | None
    ) -> AbstractAsyncContextManager[AgentCacheSession | None]:
        """The block for one call. Calls of clients that have no session are looked at one by one, never as a loop."""
        if session_id is not None:
            return self._held.attach(session_id, identity)
        if identity is not None:
            return AgentCacheSession(loop_detection=False, identity=identity)
        return nullcontext()
