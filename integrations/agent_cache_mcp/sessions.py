"""News of a server through a session of the official SDK, of either generation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import mcp.types as types
from pydantic import AnyUrl

from agent_cache_mcp.watch import LIST_CHANGED, UPDATED, News

__all__ = ["SessionSource"]


class SessionSource:
    """A :class:`~agent_cache_mcp.watch.Source`.

    Args:
        client: the ``Client``, or the session itself.
        session: the ``ClientSession``.
    """

    def __init__(self, client: Any, session: Any) -> None:
        self._client = client
        self._session = session
        asked = getattr(session, "get_server_capabilities", None)  # mcp 1.x
        capabilities = asked() if asked is not None else session.server_capabilities
        self.listens = _is_modern(session)
        self.subscribes = not self.listens and bool(
            getattr(getattr(capabilities, "resources", None), "subscribe", False)
        )

    @asynccontextmanager
    async def listen(self, uris: tuple[str, ...]) -> AsyncIterator[AsyncIterator[News]]:
        """A stream of events; the client's own cache hears of them too."""
        if self._client is not self._session:
            opened = self._client.listen(tools_list_changed=True, resource_subscriptions=uris)
        else:
            from mcp.client.subscriptions import listen

            opened = listen(self._session, tools_list_changed=True, resource_subscriptions=uris)
        async with opened as subscription:
            yield _news(subscription)

    async def subscribe(self, uri: str) -> None:
        """Ask a legacy server for news of one resource. Sent as it is: the SDK's method for it warns of its age."""
        wrapper: Any = types.ClientRequest
        wraps = hasattr(wrapper, "model_fields")  # mcp 1.x; a plain union since
        named: Any = AnyUrl(uri) if wraps else uri
        params = types.SubscribeRequestParams(uri=named)
        request = types.SubscribeRequest(method="resources/subscribe", params=params)
        await self._session.send_request(wrapper(request) if wraps else request, types.EmptyResult)


async def _news(subscription: Any) -> AsyncIterator[News]:
    async for event in subscription:
        if hasattr(event, "uri"):
            yield UPDATED, str(event.uri)
        elif type(event).__name__ == "ToolsListChanged":
            yield LIST_CHANGED, None


def _is_modern(session: Any) -> bool:
    version = getattr(session, "protocol_version", None)
    if not isinstance(version, str):
        return False
    from mcp_types.version import MODERN_PROTOCOL_VERSIONS

    return version in MODERN_PROTOCOL_VERSIONS
