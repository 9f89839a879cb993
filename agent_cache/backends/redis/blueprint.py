"""Where Redis is and how a connection to it is made: from a URL, from parameters, from a client handed in.

Connections are redis-py's (TLS, ACL users, unix sockets, RESP2 and RESP3 are its business); they are ours alone, so a
client that was handed in is never closed, and each event loop gets its own. No password is ever shown.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from agent_cache.backends.urls import without_password
from agent_cache.errors import ConfigurationError

try:
    from redis import backoff as redis_backoff
    from redis.asyncio import connection as redis_connection
    from redis.asyncio import retry as redis_retry
    from redis.asyncio import sentinel as redis_sentinel
except ImportError as missing:  # pragma: no cover - said to whoever asks for Redis without the extra
    raise ImportError("RedisBackend needs redis-py: pip install 'agent-cache[redis]'") from missing

__all__ = ["Address", "Blueprint", "blueprint_of"]

Address = tuple[str, int]
_OURS: Mapping[str, Any] = {"decode_responses": False, "retry": None, "retry_on_timeout": False, "retry_on_error": []}
_NOT_OURS = ("connection_pool", "himport_registry", "event_dispatcher", "maint_notifications_config", "host", "port")
_FIX = (
    "write redis://[user:password@]host:port/db, rediss://…, unix:///path, redis+cluster://host:port[,host:port] "
    "or redis+sentinel://host:port[,host:port]/service/db"
)


@dataclass(slots=True)
class Blueprint:
    """How to reach Redis. ``nodes``: the Sentinels, the Cluster's first nodes, or the one server."""

    kind: Literal["standalone", "sentinel", "cluster"]
    nodes: list[Address]
    options: dict[str, Any] = field(repr=False)
    connection_class: Any = redis_connection.Connection
    service: str = ""
    sentinel_options: dict[str, Any] = field(default_factory=dict, repr=False)

    def describe(self) -> str:
        """The place, for people: no user, no password."""
        if "path" in self.options:
            return f"unix:{self.options['path']}"
        places = ",".join(f"{host}:{port}" for host, port in self.nodes)
        return {"standalone": places, "cluster": f"cluster {places}", "sentinel": f"{self.service}@{places}"}[self.kind]

    def address(self) -> str:
        """The place with its database: two that are the same lead to the same data."""
        return f"{self.describe()}/{self.options.get('db') or 0}"

    async def connection(self, address: Address | None, connect_timeout: float) -> Any:
        """A connected connection to ``address``, or where that is left open to the primary. Raises what redis-py does."""
        options = {**self.options, **_OURS, "socket_timeout": None, "socket_connect_timeout": connect_timeout}
        async with asyncio.timeout(connect_timeout):
            if "path" not in options:
                options["host"], options["port"] = address or await self._primary(connect_timeout)
            made = self.connection_class(**_known(self.connection_class, options))
            try:
                await made.connect()
            except BaseException:
                await made.disconnect(nowait=True)
                raise
        return made

    async def _primary(self, connect_timeout: float) -> Address:
        if self.kind != "sentinel":
            return self.nodes[0]
        timeouts = {"socket_timeout": connect_timeout, "socket_connect_timeout": connect_timeout}
        once = {
            "retry": redis_retry.Retry(redis_backoff.NoBackoff(), 0)
        }  # trying again is not redis-py's to decide here
        sentinel_class: Any = redis_sentinel.Sentinel
        asked = sentinel_class(self.nodes, sentinel_kwargs={**self.sentinel_options, **timeouts, **once})
        try:
            address: Address = await asked.discover_master(self.service)
            return address
        finally:
            for sentinel in asked.sentinels:
                await sentinel.aclose()


def _known(connection_class: Any, options: dict[str, Any]) -> dict[str, Any]:
    """What the installed redis-py's connection takes of it: versions differ in their extras."""
    names = _parameters(connection_class)
    return {name: value for name, value in options.items() if name in names}


@functools.cache
def _parameters(connection_class: Any) -> frozenset[str]:
    names: set[str] = set()
    for base in inspect.getmro(connection_class):
        if "__init__" in vars(base):
            names.update(inspect.signature(base).parameters)
    return frozenset(names)


def blueprint_of(url: str, given: Mapping[str, Any], client: Any) -> Blueprint:
    """From what the user said.

    Raises:
        ConfigurationError: a URL that is none, or a client that is not redis-py's asyncio one.
    """
    for name in ("port", "db"):
        number = given.get(name)
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 0):
            raise ConfigurationError(name, number, "give a whole number")
    if client is not None:
        return _of_client(client)
    parts = _split(url)
    scheme = parts.scheme
    secure = scheme.startswith("rediss")
    if scheme in ("redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel"):
        return _of_many(url, scheme, secure, given)
    if scheme not in ("redis", "rediss", "unix"):
        raise ConfigurationError("url", without_password(url), _FIX)
    try:
        options: dict[str, Any] = {**redis_connection.parse_url(url)}
    except ValueError as error:
        told = (
            str(error)
            if str(error).startswith(("Invalid value for", "Port out of range"))
            else "a password needs its special characters encoded"
        )
        raise ConfigurationError("url", without_password(url), f"{told}; {_FIX}") from None
    if scheme != "unix" and parts.path.strip("/") and not parts.path.strip("/").isdigit():
        raise ConfigurationError("url", without_password(url), f"the database must be a number; {_FIX}")
    made = options.pop("connection_class", redis_connection.Connection)
    options.update({name: value for name, value in given.items() if value is not None})
    node = (str(options.pop("host", "localhost")), int(options.pop("port", 6379)))
    return Blueprint("standalone", [node], _checked(options, made, url), made)


def _of_many(url: str, scheme: str, secure: bool, given: Mapping[str, Any]) -> Blueprint:
    """Several nodes in one URL."""
    parts = _split(url)
    who, _, where = parts.netloc.rpartition("@")
    options: dict[str, Any] = {}
    if who:
        user, _, password = who.partition(":")
        options = {"username": unquote(user) or None, "password": unquote(password) or None}
    nodes: list[Address] = []
    standard = 26379 if scheme.endswith("sentinel") else 6379
    for place in where.split(","):
        host, _, port = place.rpartition(":") if ":" in place.rpartition("]")[2] else (place, "", "")
        if not (host or place) or (port and not port.isdigit()):
            raise ConfigurationError("url", without_password(url), _FIX)
        nodes.append(((host or place).strip("[]"), int(port or standard)))
    query = dict(parse_qsl(parts.query))
    sentinel = {name[9:]: query.pop(name) for name in list(query) if name.startswith("sentinel_")}
    parsers: Mapping[str, Any] = redis_connection.URL_QUERY_ARGUMENT_PARSERS
    for name, value in query.items():
        try:
            options[name] = parsers.get(name, str)(value)
        except ValueError:
            raise ConfigurationError(
                "url", without_password(url), f"{name} has a value it cannot have; {_FIX}"
            ) from None
    path = [part for part in parts.path.split("/") if part]
    service = ""
    if scheme.endswith("sentinel"):
        if not path:
            raise ConfigurationError("url", without_password(url), _FIX)
        service = unquote(path.pop(0))
    if path:
        if not path[0].isdigit() or (scheme.endswith("cluster") and path[0] != "0"):
            raise ConfigurationError(
                "url", without_password(url), f"the database must be a number, 0 on a cluster; {_FIX}"
            )
        options["db"] = int(path[0])
    options.update({name: value for name, value in given.items() if value is not None and name not in ("host", "port")})
    made: Any = redis_connection.SSLConnection if secure else redis_connection.Connection
    kind: Literal["sentinel", "cluster"] = "sentinel" if service else "cluster"
    if kind == "sentinel" and secure:
        sentinel["ssl"] = True
    return Blueprint(kind, nodes, _checked(options, made, url), made, service, sentinel)


def _of_client(client: Any) -> Blueprint:
    """How a redis-py asyncio client connects; its own connections stay its own."""
    startup = getattr(client, "startup_nodes", None) or getattr(
        getattr(client, "nodes_manager", None), "startup_nodes", None
    )
    if startup is not None:  # RedisCluster
        nodes = [
            (str(node.host), int(node.port)) for node in (startup.values() if isinstance(startup, dict) else startup)
        ]
        given = dict(getattr(client, "connection_kwargs", {}))
        made = given.pop("connection_class", None) or (
            redis_connection.SSLConnection if given.get("ssl") else redis_connection.Connection
        )
        return Blueprint("cluster", nodes, {k: v for k, v in given.items() if k not in _NOT_OURS}, made)
    pool = getattr(client, "connection_pool", None)
    made = getattr(pool, "connection_class", None)
    if pool is None or made is None or not inspect.iscoroutinefunction(getattr(made, "connect", None)):
        raise ConfigurationError("client", client, "give a redis.asyncio.Redis or redis.asyncio.RedisCluster")
    given = dict(pool.connection_kwargs)
    options = {name: value for name, value in given.items() if name not in _NOT_OURS}
    manager = getattr(pool, "sentinel_manager", None)
    if manager is not None:
        nodes, sentinel = [], dict(manager.sentinel_kwargs)
        for each in manager.sentinels:
            where = each.connection_pool.connection_kwargs
            nodes.append((str(where["host"]), int(where["port"])))
        secure = issubclass(made, redis_connection.SSLConnection)
        plain: Any = redis_connection.SSLConnection if secure else redis_connection.Connection
        return Blueprint("sentinel", nodes, options, plain, str(pool.service_name), sentinel)
    return Blueprint("standalone", [(str(given.get("host", "localhost")), int(given.get("port", 6379)))], options, made)


def _checked(options: dict[str, Any], connection_class: Any, url: str) -> dict[str, Any]:
    unknown = sorted(set(options) - set(_known(connection_class, options)) - {"max_connections"})
    if unknown:
        raise ConfigurationError("url", without_password(url), f"redis-py knows no option {', '.join(unknown)}")
    options.pop("max_connections", None)
    return options


def _split(url: object) -> Any:
    if not isinstance(url, str):
        raise ConfigurationError("url", type(url).__name__, _FIX)
    try:
        return urlsplit(url)
    except ValueError:
        raise ConfigurationError("url", "…", _FIX) from None
