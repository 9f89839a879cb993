"""The backend under test, and what the parent may do to it: a disk file, a Redis alone, behind Sentinel, a Cluster.

What belongs here: starting one of our own if asked to, giving every worker its way there, talking to the nodes. What
does not: when to break what (faults).
"""

from __future__ import annotations

import importlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from agent_cache.testing.processes.caches import Setup
from agent_cache.testing.proxy import FaultProxy
from agent_cache.testing.servers import ClusterSetup, RedisServer, SentinelSetup, Wire

__all__ = ["Stage"]

_KINDS = {
    "disk": "disk",
    "memory": "memory",
    "redis": "redis",
    "rediss": "redis",
    "redis+cluster": "cluster",
    "redis+sentinel": "sentinel",
}


_DOWN_AFTER = 3.0  # seconds; on a busy machine less makes the Sentinel see deaths where there are none: split brains


class Stage:
    """One backend under test.

    Args:
        url: where it is; with ``own``, the scheme and the options only.
        own: start a server, or make a file, of our own; remove it in the end.
        proxied: give every worker a proxy of its own (a Redis alone).

    Raises:
        ValueError: this URL cannot be tested so.
    """

    def __init__(self, url: str, *, own: bool, proxied: bool) -> None:
        parts = urlsplit(url)
        if parts.scheme not in _KINDS:
            raise ValueError(f"--backend {url}: the scheme is one of {', '.join(_KINDS)}")
        self.kind = _KINDS[parts.scheme]
        self.own = own
        self._query = parts.query
        self.url = url
        self.server: RedisServer | None = None
        self.sentinel: SentinelSetup | None = None
        self.cluster: ClusterSetup | None = None
        self.proxies: dict[int, FaultProxy] = {}
        """By place in the row of workers, the same after a restart."""
        self._proxied = proxied
        self._folder: Path | None = None
        if own and self.kind == "memory":
            raise ValueError("--server own: memory has no server")
        if not own and self.kind == "disk" and not parts.path.strip("/"):
            raise ValueError(f"--backend {url}: give a path, or --server own")
        if self.kind == "disk" and parts.query:  # what a client does not know would become part of the file's name
            raise ValueError(f"--backend {url}: the litmus knows no options of a file; leave out ?{parts.query}")
        if not own and self.kind != "disk" and self.kind != "memory" and not parts.netloc:
            raise ValueError(f"--backend {url}: give a host, or --server own")

    def open(self) -> None:
        """Start what is ours. Blocks."""
        if self.own:
            bare = self._start()
            self.url = f"{bare}{'&' if '?' in bare else '?'}{self._query}" if self._query else bare

    def _start(self) -> str:
        if self.kind == "disk":
            self._folder = Path(tempfile.mkdtemp(prefix="agent-cache-litmus-"))
            return f"disk://{self._folder}/cache.db"
        if self.kind == "sentinel":
            self.sentinel = SentinelSetup(down_after=_DOWN_AFTER).start()
            return self.sentinel.url
        if self.kind == "cluster":
            self.cluster = ClusterSetup().start()
            return self.cluster.url
        self.server = RedisServer().start()
        return self.server.url

    def close(self) -> None:
        """Stop what is ours. Blocks."""
        for proxy in self.proxies.values():
            proxy.close()
        for mine in (self.server, self.sentinel, self.cluster):
            if mine is not None:
                mine.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def url_for(self, place: int) -> str:
        """The way of one worker to the backend. Blocks when a proxy is to be started."""
        if not self._proxied or self.kind != "redis":
            return self.url
        proxy = self.proxies.get(place)
        parts = urlsplit(self.url)
        if proxy is None:
            assert parts.hostname is not None
            proxy = self.proxies[place] = FaultProxy(parts.hostname, parts.port or 6379).start()
        login = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{login}{'@' if login else ''}127.0.0.1:{proxy.port}"))

    # -- Redis --------------------------------------------------------------------------------------------------

    @contextmanager
    def wires(self) -> Iterator[list[Wire]]:
        """A connection to every node that takes writes."""
        wires: list[Wire] = []
        try:
            if self.cluster is not None:
                wires += [node.connect() for node in self.cluster.nodes if node.running]
            elif self.sentinel is not None:
                wires.append(self.sentinel.primary.connect())
            elif self.server is not None:
                wires.append(self.server.connect())
            else:
                parts = urlsplit(self.url)
                wires.append(Wire(parts.port or 6379, password=parts.password, user=parts.username or None))
                if parts.path.strip("/"):
                    wires[0].call("SELECT", parts.path.strip("/"))
            yield wires
        finally:
            for wire in wires:
                wire.close()

    def heal(self) -> None:
        """Wait until all is well again. Blocks."""
        if self.cluster is not None:
            for node in self.cluster.nodes:
                if not node.running:
                    node.start()
            self.cluster.await_healthy()
        if self.server is not None and not self.server.running:
            self.server.start()
        for proxy in self.proxies.values():
            proxy.heal()

    # -- disk ---------------------------------------------------------------------------------------------------

    @property
    def file(self) -> Path:
        """The database file."""
        return Path(Setup(self.url, "", 0).path)

    def copy_file(self, to: Path) -> None:
        """A consistent copy of the database as it is now."""
        sqlite3 = importlib.import_module("sqlite3")
        to.unlink(missing_ok=True)
        source, target = sqlite3.connect(self.file, timeout=10), sqlite3.connect(to)
        try:
            source.backup(target)
        finally:
            source.close()
            target.close()

    def put_file(self, new: Path | None) -> None:
        """Replace the database by another file, or delete it."""
        for end in ("-wal", "-shm", "-journal"):
            self.file.with_name(self.file.name + end).unlink(missing_ok=True)
        if new is None:
            self.file.unlink(missing_ok=True)
        else:
            new.replace(self.file)
