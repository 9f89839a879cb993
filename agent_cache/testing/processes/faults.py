"""What is broken while calls are made: each fault a class with a name.

``inject`` breaks something, and mends it again before it returns, except for what only time mends. What belongs here:
how to break and mend. What does not: when, and what came of it.
"""

from __future__ import annotations

import asyncio
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from agent_cache.testing.processes.caches import LEAD_LEASE, WRITE_LEASE
from agent_cache.testing.servers import ReplyError, Wire

if TYPE_CHECKING:
    from agent_cache.testing.processes.runner import Process, Run
    from agent_cache.testing.proxy import Connection, FaultProxy

__all__ = ["FAULTS", "Fault", "choose_faults"]

_EVERYWHERE = frozenset({"disk", "memory", "redis", "cluster", "sentinel"})
_REDIS = frozenset({"redis", "cluster", "sentinel"})


class Fault(ABC):
    """One way to break things.

    Attributes:
        name: on the command line.
        fits: kinds of backend it can be used with.
        needs_own: the server must be ours.
        needs_proxy: every worker needs a proxy of its own.
        takes_markers: windows may lose their markers to it: C0 is then not promised.
    """

    name: ClassVar[str]
    fits: ClassVar[frozenset[str]] = _REDIS
    needs_own: ClassVar[bool] = False
    needs_proxy: ClassVar[bool] = False
    takes_markers: ClassVar[bool] = True

    @abstractmethod
    async def inject(self, run: Run) -> str | None:
        """Do it, and say in words what was done; None if there was no occasion."""


FAULTS: dict[str, type[Fault]] = {}


def _known(fault: type[Fault]) -> type[Fault]:
    FAULTS[fault.name] = fault
    return fault


def choose_faults(names: Iterable[str], kind: str, *, own: bool) -> list[Fault]:
    """The faults of these names; ``all``: those that fit.

    Raises:
        ValueError: an unknown name, or one that does not fit.
    """
    chosen: dict[str, Fault] = {}
    for name in names:
        if name == "all":
            for each, fault in FAULTS.items():
                if kind in fault.fits and (own or not fault.needs_own):
                    chosen[each] = fault()
            continue
        made = FAULTS.get(name)
        if made is None:
            raise ValueError(f"--faults {name}: give all, or some of {', '.join(FAULTS)}")
        if kind not in made.fits:
            raise ValueError(f"--faults {name}: does not fit a {kind} backend")
        if made.needs_own and not own:
            raise ValueError(f"--faults {name}: needs --server own")
        chosen[name] = made()
    return list(chosen.values())


@asynccontextmanager
async def _taking_markers(run: Run, worker: int | None = None) -> AsyncIterator[None]:
    """Windows open now, or opened in the block, may lose their markers."""
    run.referee.markers_going(worker)
    try:
        yield
        await asyncio.sleep(0.1)  # what is on its way to the referee
    finally:
        run.referee.markers_gone(worker)


def _some_process(run: Run) -> Process:
    return run.workers[run.rng.randrange(len(run.workers))]


# ------------------------------------------------------------------------------------------------------- processes


@_known
class Kill(Fault):
    """SIGKILL a worker: at any moment, inside a write before or after its commit, or inside a load."""

    name = "kill"
    fits = _EVERYWHERE
    takes_markers = False

    async def inject(self, run: Run) -> str | None:
        def strike(number: int) -> None:
            run.process(number).popen.kill()

        when = run.rng.choice(("", "wt", "wc", "wc", "ls"))
        if when:
            number = await run.desk.lie_in_wait(when, strike, 2.0)
            if number is None:
                return None
            process = run.process(number)
        else:
            process = _some_process(run)
            process.popen.kill()
        await run.restart(process.place)
        moment = {"": "", "wt": " inside a write", "wc": " after a commit", "ls": " inside a load"}[when]
        return f"worker {process.number}{moment}"


@_known
class Stop(Fault):
    """SIGSTOP a worker past its leases, now and then inside a write or a load; then SIGCONT."""

    name = "stop"
    fits = _EVERYWHERE

    async def inject(self, run: Run) -> str | None:
        stopped: list[Process] = []

        def strike(number: int) -> None:
            process = run.process(number)
            run.referee.markers_going(number)
            os.kill(process.popen.pid, signal.SIGSTOP)
            stopped.append(process)

        when = run.rng.choice(("", "wt", "wc", "ls"))
        if when:
            await run.desk.lie_in_wait(when, strike, 2.0)
        else:
            strike(_some_process(run).number)
        if not stopped:
            return None
        length = run.rng.choice((0.3 * LEAD_LEASE, 1.3 * LEAD_LEASE, 1.3 * WRITE_LEASE))
        try:
            await asyncio.sleep(length)
        finally:
            os.kill(stopped[0].popen.pid, signal.SIGCONT)
        await asyncio.sleep(0.2)
        run.referee.markers_gone(stopped[0].number)
        return f"worker {stopped[0].number} for {length:.1f} s{' at ' + when if when else ''}"


# ----------------------------------------------------------------------------------------------------------- Redis


async def _on_every_node(run: Run, *command: str | float) -> None:
    def doing() -> None:
        with run.stage.wires() as wires:
            for wire in wires:
                wire.call(*command)

    await asyncio.to_thread(doing)


@_known
class ClientKill(Fault):
    """CLIENT KILL: the server hangs up on everyone, or on those who listen to the bus."""

    name = "client-kill"
    takes_markers = False

    async def inject(self, run: Run) -> str | None:
        kind = run.rng.choice(("normal", "pubsub"))
        await _on_every_node(run, "CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        return kind


@_known
class ClientPause(Fault):
    """CLIENT PAUSE: the server answers nobody for a while."""

    name = "client-pause"

    async def inject(self, run: Run) -> str | None:
        # A Sentinel would take a long pause for a death, and promote another: a split brain.
        length = run.rng.uniform(0.05, 0.2) if run.stage.sentinel is not None else run.rng.uniform(0.2, 1.2)
        async with _taking_markers(run):
            await _on_every_node(run, "CLIENT", "PAUSE", int(length * 1000), "ALL")
            await asyncio.sleep(length)
        return f"{length:.1f} s"


@_known
class FlushAll(Fault):
    """FLUSHALL: every record is gone."""

    name = "flushall"

    async def inject(self, run: Run) -> str | None:
        async with _taking_markers(run):
            await _on_every_node(run, "FLUSHALL")
        return ""


@_known
class ScriptFlush(Fault):
    """SCRIPT FLUSH: the server has forgotten every script."""

    name = "script-flush"
    takes_markers = False

    async def inject(self, run: Run) -> str | None:
        await _on_every_node(run, "SCRIPT", "FLUSH")
        return ""


def _delete_some(run: Run, wires: list[Wire], share: float, *, tags: bool) -> int:
    """Delete some keys of ours; ``tags``: only tag records. How many."""
    deleted = 0
    for wire in wires:
        cursor: Any = b"0"
        while True:
            cursor, names = wire.call("SCAN", cursor, "COUNT", 1000)
            for name in names:
                if run.prefix.rstrip(":").encode() not in name or run.rng.random() >= share:
                    continue
                if tags:
                    try:
                        if wire.call("GETRANGE", name, 0, 0) != b"T":
                            continue
                    except ReplyError:
                        continue
                deleted += wire.call("DEL", name)
            if cursor == b"0":
                break
    return deleted


@_known
class DeleteTags(Fault):
    """Delete tag records, now and then while a write tool runs."""

    name = "del-tag"

    async def inject(self, run: Run) -> str | None:
        share = run.rng.choice((0.1, 0.5, 1.0))

        def doing() -> int:
            with run.stage.wires() as wires:
                return _delete_some(run, wires, share, tags=True)

        if run.rng.random() < 0.5:
            found: list[int] = []
            run.referee.markers_going(None)
            try:
                await run.desk.lie_in_wait(run.rng.choice(("wt", "wc")), lambda _: found.append(doing()), 2.0)
                await asyncio.sleep(0.1)
            finally:
                run.referee.markers_gone(None)
            return f"{found[0]} records inside a write" if found else None
        async with _taking_markers(run):
            return f"{await asyncio.to_thread(doing)} records"


@_known
class Evict(Fault):
    """Memory pressure: the server evicts what it likes; one that is not ours: random keys are deleted."""

    name = "evict"

    async def inject(self, run: Run) -> str | None:
        async with _taking_markers(run):
            if run.stage.server is None or run.rng.random() < 0.5:

                def doing() -> int:
                    with run.stage.wires() as wires:
                        return _delete_some(run, wires, run.rng.uniform(0.1, 0.7), tags=False)

                return f"{await asyncio.to_thread(doing)} keys deleted"
            server = run.stage.server
            before = await asyncio.to_thread(server.info, "stats")
            memory = await asyncio.to_thread(server.info, "memory")
            data = int(memory["used_memory_dataset"])
            less = int(memory["used_memory"]) - int(run.rng.uniform(0.1, 0.5) * min(data, 200_000))
            await asyncio.to_thread(server.cli, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
            await asyncio.to_thread(server.cli, "CONFIG", "SET", "maxmemory", less)
            await asyncio.sleep(0.4)
            await asyncio.to_thread(server.cli, "CONFIG", "SET", "maxmemory", 0)
            after = await asyncio.to_thread(server.info, "stats")
            return f"{int(after['evicted_keys']) - int(before['evicted_keys'])} keys evicted"


@_known
class RestartEmpty(Fault):
    """Kill a server and start it again with nothing."""

    name = "restart-empty"
    fits = frozenset({"redis", "cluster"})
    needs_own = True

    async def inject(self, run: Run) -> str | None:
        server = run.stage.server
        if server is None:
            assert run.stage.cluster is not None
            server = run.rng.choice(run.stage.cluster.nodes)
        async with _taking_markers(run):
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(run.rng.choice((0.0, 0.3)))
            await asyncio.to_thread(lambda: server.restart(keep_data=False))
            await asyncio.to_thread(run.stage.heal)
        return f"port {server.port}"


@_known
class RestartOld(Fault):
    """Kill the server and start it again from a snapshot taken a while ago."""

    name = "restart-old"
    fits = frozenset({"redis", "cluster"})
    needs_own = True

    def __init__(self) -> None:
        self._snapshots: dict[int, Path] = {}

    async def inject(self, run: Run) -> str | None:
        server = run.stage.server
        if server is None:
            assert run.stage.cluster is not None
            server = run.rng.choice(run.stage.cluster.nodes)
        snapshot = self._snapshots.pop(server.port, None)
        if snapshot is None:
            self._snapshots[server.port] = await asyncio.to_thread(server.snapshot)
            await asyncio.sleep(0.5)
            snapshot = self._snapshots.pop(server.port)
        async with _taking_markers(run):
            await asyncio.to_thread(lambda: server.restart(old_snapshot=snapshot))
            await asyncio.to_thread(run.stage.heal)
        if run.rng.random() < 0.5:  # for the next time: an even older one
            self._snapshots[server.port] = snapshot
        return f"port {server.port}"


@_known
class Failover(Fault):
    """Kill the primary; the replica that missed the last writes is promoted by the Sentinel."""

    name = "failover"
    fits = frozenset({"sentinel"})
    needs_own = True

    async def inject(self, run: Run) -> str | None:
        setup = run.stage.sentinel
        assert setup is not None

        def lag() -> None:
            setup.lag_replica()

        def fail() -> None:
            old = setup.primary
            run.log(f"killing primary {old.port}")
            new = setup.kill_primary()
            run.log(f"promoted {new.port}")
            # It comes back as a replica: a moment as a second primary would be a split brain.
            conf = old.folder / "server.conf"
            kept = [line for line in conf.read_text().splitlines() if not line.startswith("replicaof")]
            conf.write_text("\n".join([*kept, f"replicaof 127.0.0.1 {new.port}", ""]))
            old.restart(keep_data=False)
            setup.demote(old)

        await asyncio.to_thread(lag)
        await asyncio.sleep(run.rng.uniform(0.05, 0.3))
        async with _taking_markers(run):
            await asyncio.to_thread(fail)
        return f"to port {setup.primary.port}"


@_known
class Demote(Fault):
    """A primary is demoted while its clients stay connected: the Sentinel's failover, or REPLICAOF and back."""

    name = "demote"
    fits = frozenset({"redis", "sentinel"})

    async def inject(self, run: Run) -> str | None:
        setup = run.stage.sentinel
        async with _taking_markers(run):
            if setup is not None:
                run.referee.brain_splits()  # for the moment between the promotion of one and the demotion of the other
                try:
                    await asyncio.to_thread(setup.failover)
                    await asyncio.sleep(0.1)
                finally:
                    run.referee.brain_heals()
                return f"to port {setup.primary.port}"
            await _on_every_node(run, "REPLICAOF", "127.0.0.1", 1)
            length = run.rng.uniform(0.1, 0.8)
            await asyncio.sleep(length)
            await _on_every_node(run, "REPLICAOF", "NO", "ONE")
        return f"for {length:.1f} s"


# ---------------------------------------------------------------------------------------------- the way to the server


def _listens(connection: Connection) -> bool:
    return b"SUBSCRIBE" in connection.first_bytes.upper()


class _WayFault(Fault):
    """Something between the server and one worker; it is over when ``inject`` returns."""

    fits = frozenset({"redis"})
    needs_proxy = True
    lengths: ClassVar[tuple[float, ...]] = (0.3, 1.0, 1.3 * WRITE_LEASE)

    @abstractmethod
    def harm(self, proxy: FaultProxy) -> None:
        """Begin."""

    async def inject(self, run: Run) -> str | None:
        process = _some_process(run)
        proxy = run.stage.proxies[process.place]
        length = run.rng.choice(self.lengths)
        async with _taking_markers(run, process.number):
            await asyncio.to_thread(self.harm, proxy)
            try:
                await asyncio.sleep(length)
            finally:
                await asyncio.to_thread(proxy.heal)
        return f"worker {process.number} for {length:.1f} s"


@_known
class StallBus(_WayFault):
    """What the bus says does not arrive, and nobody hangs up."""

    name = "stall-bus"

    def harm(self, proxy: FaultProxy) -> None:
        proxy.stall("to_client", _listens)


@_known
class Slow(_WayFault):
    """Every packet is late."""

    name = "slow"
    lengths = (0.5, 1.5)

    def harm(self, proxy: FaultProxy) -> None:
        proxy.delay(0.06)


@_known
class HalfOpen(_WayFault):
    """What is sent is lost, and nobody hangs up."""

    name = "half-open"

    def harm(self, proxy: FaultProxy) -> None:
        proxy.black_hole()


@_known
class Partition(_WayFault):
    """One process cannot reach the server; the others can."""

    name = "partition"

    def harm(self, proxy: FaultProxy) -> None:
        proxy.partition()


# ------------------------------------------------------------------------------------------------------------- disk


class _FileFault(Fault):
    fits = frozenset({"disk"})

    def __init__(self) -> None:
        self._copies = 0

    async def _copy(self, run: Run) -> Path:
        self._copies += 1
        copy = run.stage.file.with_name(f"copy-{self.name}-{self._copies}.db")
        await asyncio.to_thread(run.stage.copy_file, copy)
        return copy


@_known
class ReplaceFile(_FileFault):
    """Another file with the same content takes the place of the database."""

    name = "replace-file"

    async def inject(self, run: Run) -> str | None:
        async with _taking_markers(run):
            copy = await self._copy(run)
            await asyncio.to_thread(run.stage.put_file, copy)
        return ""


@_known
class DeleteFile(_FileFault):
    """The database is deleted under those who have it open."""

    name = "delete-file"

    async def inject(self, run: Run) -> str | None:
        async with _taking_markers(run):
            await asyncio.to_thread(run.stage.put_file, None)
        return ""


@_known
class OldFile(_FileFault):
    """A backup of a while ago is put in the place of the database."""

    name = "old-file"

    async def inject(self, run: Run) -> str | None:
        copy = await self._copy(run)
        age = run.rng.uniform(0.2, 1.0)
        await asyncio.sleep(age)
        async with _taking_markers(run):
            await asyncio.to_thread(run.stage.put_file, copy)
        return f"{age:.1f} s old"
