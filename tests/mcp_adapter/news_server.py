"""A server that says what has changed, in both generations of the protocol; also a program that serves it over stdio."""

from __future__ import annotations

import asyncio
from typing import Any

import mcp.types as types
from mcp.server.lowlevel.server import NotificationOptions, Server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ResourceUpdated, ToolsListChanged

ARGUMENTS = {
    "get_user": ["user_id"],
    "change": ["user_id", "name", "uri"],
    "rename_tools": [],
    "end_streams": [],
}
POLICIES: dict[str, dict[str, Any]] = {
    "get_user": {"kind": "read", "resource": "user://{user_id}"},
    "change": {"kind": "other"},  # as if somebody else did it
    "rename_tools": {"kind": "other"},
    "end_streams": {"kind": "other"},
}


class News:
    """The server's state: its users, who subscribed to what, and how to tell them."""

    def __init__(self) -> None:
        self.names = {"1": "Ann", "2": "Eve"}
        self.subscribed: list[str] = []
        self.more_tools: list[str] = []
        self.bus = InMemorySubscriptionBus()
        self.listening = ListenHandler(self.bus)

    async def list_tools(self, ctx: Any, params: Any) -> types.ListToolsResult:
        names = [*ARGUMENTS, *self.more_tools]
        tools = [
            types.Tool(
                name=name,
                input_schema={
                    "type": "object",
                    "properties": {each: {"type": "string"} for each in ARGUMENTS.get(name, ())},
                },
            )
            for name in names
        ]
        return types.ListToolsResult(tools=tools)

    async def call_tool(self, ctx: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        given = params.arguments or {}
        text = await getattr(self, f"_{params.name}")(ctx, **given)
        return types.CallToolResult(content=[types.TextContent(type="text", text=text)])

    async def _get_user(self, ctx: Any, user_id: str) -> str:
        return self.names[user_id]

    async def _change(self, ctx: Any, user_id: str, name: str, uri: str = "") -> str:
        self.names[user_id] = name
        uri = uri or f"user://{user_id}"
        await self.bus.publish(ResourceUpdated(uri=uri))
        if uri in self.subscribed or "*" in uri:
            params = types.ResourceUpdatedNotificationParams(uri=uri.replace("*", ""))
            await ctx.session.send_notification(types.ResourceUpdatedNotification(params=params))
        return "changed"

    async def _rename_tools(self, ctx: Any) -> str:
        self.more_tools.append("another")
        await self.bus.publish(ToolsListChanged())
        if ctx.protocol_version < "2026":
            await ctx.session.send_notification(types.ToolListChangedNotification())
        return "renamed"

    async def _end_streams(self, ctx: Any) -> str:
        self.listening.close()
        return "ended"

    async def list_resources(self, ctx: Any, params: Any) -> types.ListResourcesResult:
        return types.ListResourcesResult(resources=[])

    async def subscribe(self, ctx: Any, params: types.SubscribeRequestParams) -> types.EmptyResult:
        self.subscribed.append(str(params.uri))
        return types.EmptyResult()

    def server(self) -> Server[Any]:
        return Server(
            "news",
            on_list_tools=self.list_tools,
            on_call_tool=self.call_tool,
            on_list_resources=self.list_resources,
            on_subscribe_resource=self.subscribe,
            on_subscriptions_listen=self.listening,
        )


async def _stdio() -> None:
    from mcp.server.stdio import stdio_server

    server = News().server()
    async with stdio_server() as (read, write):
        options = server.create_initialization_options(NotificationOptions(tools_changed=True))
        await server.run(read, write, options)


if __name__ == "__main__":
    asyncio.run(_stdio())
