"""One load among the processes of a host: leases beside the file, on which only the number of loads rests."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_cache import AgentCache, BackendError
from agent_cache.backends.base import Missing, Taken
from agent_cache.backends.disk import DiskBackend, leadtable
from agent_cache.backends.disk.leadtable import LeadTable
from agent_cache.backends.disk.leases import DiskLead, Those
from agent_cache.testing import FakeClock
from tests.disk.conftest import CART, KEY, WRITE, Talk

Make = Callable[..., Talk]
BOOT = b"thisboot"


# --------------------------------------------------------------------------------------------------- the table


def name(number: int) -> bytes:
    """Names that share a bucket."""
    return bytes(4) + number.to_bytes(12, "big")


def apart(number: int) -> bytes:
    """Names that do not."""
    return number.to_bytes(4, "little") + name(number)[4:]


class Others:
    """Tables of other processes, as far as locks and slots can tell: one opened file each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tables: list[LeadTable] = []

    def __call__(self) -> LeadTable:
        self.tables.append(LeadTable(str(self.path)))
        return self.tables[-1]


@pytest.fixture(params=["locks", "slots"])
def another(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Others]:
    if request.param == "slots":  # a system without locks of an opened file
        monkeypatch.setattr(leadtable, "_OF_A_TABLE", None)
    made = Others(tmp_path / "leads")
    yield made
    for table in made.tables:
        table.close()


def locks(another: Others) -> bool:
    return leadtable._OF_A_TABLE is not None


def test_a_lead_is_one_holders_until_it_is_given_back(another: Others) -> None:
    one, two = another(), another()
    assert one.take(name(1), b"holder-one--", BOOT, 10.0, 3.0)
    assert not two.take(name(1), b"holder-two--", BOOT, 10.0, 3.0)
    assert not one.take(name(1), b"holder-two--", BOOT, 10.0, 3.0), "another thread of the same process"
    assert two.take(name(2), b"holder-two--", BOOT, 10.0, 3.0)
    assert (len(one), len(two)) == (1, 1)
    assert two.give(name(1), b"holder-two--"), "what one does not have"
    assert not two.take(name(1), b"holder-two--", BOOT, 10.0, 3.0)
    assert one.give(name(1), b"holder-two--"), "nor this one"
    assert not two.take(name(1), b"holder-two--", BOOT, 10.0, 3.0)
    assert one.give(name(1), b"holder-one--")
    assert len(one) == 0
    assert two.take(name(1), b"holder-two--", BOOT, 10.0, 3.0)


def test_who_says_nothing_for_a_lease_loses_it_to_one_only(another: Others) -> None:
    one, two, three = another(), another(), another()
    assert one.take(name(1), b"holder-one--", BOOT, 10.0, 3.0)
    for table in (two, three):
        assert not table.take(name(1), b"holder-two--", BOOT, 10.0, 3.0)
        assert not table.take(name(1), b"holder-two--", BOOT, 12.9, 3.0)
    assert two.take(name(1), b"holder-two--", BOOT, 13.0, 3.0)
    assert not three.take(name(1), b"holder-3----", BOOT, 13.0, 3.0)
    assert not three.take(name(1), b"holder-3----", BOOT, 15.9, 3.0)
    one.renew(name(1), b"holder-one--", BOOT, 14.0, 3.0)
    assert one.give(name(1), b"holder-one--"), "it has run on: and changes nothing"
    if not locks(another):  # else its lock is free, and somebody may load beside who took it over
        assert not three.take(name(1), b"holder-3----", BOOT, 14.0, 3.0)
    assert two.give(name(1), b"holder-two--")
    assert three.take(name(1), b"holder-3----", BOOT, 14.0, 3.0)


def test_a_lease_is_counted_anew_for_who_leads_next(another: Others) -> None:
    one, two = another(), another()
    assert one.take(name(1), b"holder-one--", BOOT, 10.0, 3.0)
    assert not two.take(name(1), b"holder-two--", BOOT, 10.0, 3.0)
    assert one.give(name(1), b"holder-one--")
    assert two.take(name(1), b"holder-two--", BOOT, 11.0, 3.0)
    assert two.give(name(1), b"holder-two--")
    assert one.take(name(1), b"holder-1----", BOOT, 12.0, 3.0)
    assert not two.take(name(1), b"holder-2----", BOOT, 14.0, 3.0)


def test_who_says_that_it_is_still_at_it_keeps_it(another: Others) -> None:
    one, two = another(), another()
    assert one.take(name(1), b"holder-one--", BOOT, 10.0, 3.0)
    assert not two.take(name(1), b"holder-two--", BOOT, 10.5, 3.0)
    for now in range(11, 40):
        one.renew(name(1), b"holder-one--", BOOT, float(now), 3.0)
        assert not two.take(name(1), b"holder-two--", BOOT, now + 2.9, 3.0)
    assert one.give(name(1), b"holder-one--")
    assert two.take(name(1), b"holder-two--", BOOT, 39.0, 3.0), "nothing is left of it"
    assert two.give(name(1), b"holder-two--")
    assert one.take(name(1), b"holder-one--", BOOT, 39.0, 3.0)


def test_a_note_of_another_boot_is_over(another: Others) -> None:
    one, two = another(), another()
    assert one.take(name(1), b"holder-one--", b"lastboot", 1e6, 3.0)
    one.renew(name(1), b"holder-one--", b"lastboot", 1e6, 3.0)
    one.close()
    assert two.take(name(1), b"holder-two--", BOOT, 1.0, 3.0)


def test_a_table_that_is_closed_has_nothing_any_more(another: Others) -> None:
    one, two = another(), another()
    assert one.take(name(1), b"holder-one--", BOOT, 10.0, 3.0)
    one.close()
    one.drop(name(1), b"holder-one--")
    assert two.take(name(1), b"holder-two--", BOOT, 10.0 if locks(another) else 13.0, 3.0)
    with pytest.raises(OSError, match="closed"):
        one.take(name(2), b"holder-one--", BOOT, 10.0, 3.0)
    assert len(two) == 1


def test_a_lead_whose_owner_forgot_it_is_dropped_at_once(another: Others) -> None:
    one, two = another(), another()
    assert one.take(name(1), b"holder-one--", BOOT, 10.0, 3.0)
    one.drop(name(1), b"somebody----")
    assert not two.take(name(1), b"holder-two--", BOOT, 10.0, 3.0)
    with leadtable._turn:  # as in a collection of garbage in the middle of anything
        one.drop(name(1), b"holder-one--")
    assert two.take(name(1), b"holder-two--", BOOT, 10.0 if locks(another) else 13.0, 3.0)


def test_a_full_bucket_and_garbage_keep_nobody_waiting(another: Others, tmp_path: Path) -> None:
    one, two = another(), another()
    for number in range(20):
        assert one.take(name(number), b"holder-one--", BOOT, 10.0, 3.0)
        one.renew(name(number), b"holder-one--", BOOT, 10.0, 1e6)
    for number in range(20):
        two.take(name(number), b"holder-two--", BOOT, 10.0, 3.0)
    had = [two.take(name(number), b"holder-two--", BOOT, 13.0, 3.0) for number in range(20)]
    assert had.count(False) == 8, "the others were had without being written down"
    (tmp_path / "leads").write_bytes(b"\xff" * 700)
    three = another()
    assert three.take(name(1), b"holder-3----", BOOT, 20.0, 3.0) is not locks(another)
    assert three.take(name(1), b"holder-4----", BOOT, 23.0, 3.0) is locks(another), "who had it already has it"
    assert len(three) == 1


def test_who_waits_again_later_counts_a_lease_anew(another: Others) -> None:
    """Its call was cancelled while it waited, and the lead was given back since."""
    one, two = another(), another()
    assert one.take(name(1), b"holder-one--", BOOT, 10.0, 3.0)
    assert not two.take(name(1), b"holder-two--", BOOT, 10.5, 3.0)
    assert one.give(name(1), b"holder-one--")
    assert one.take(name(1), b"holder-1----", BOOT, 100.0, 3.0)
    assert not two.take(name(1), b"holder-2----", BOOT, 100.1, 3.0)
    assert not two.take(name(1), b"holder-2----", BOOT, 102.9, 3.0)
    assert two.take(name(1), b"holder-2----", BOOT, 103.1, 3.0)


def test_after_a_long_load_that_failed_one_of_those_who_waited_loads(another: Others) -> None:
    one, two, three = another(), another(), another()
    assert one.take(name(1), b"holder-one--", BOOT, 10.0, 3.0)
    for now in (11.0, 12.0, 13.0, 14.0):
        assert not two.take(name(1), b"holder-two--", BOOT, now, 3.0)
        one.renew(name(1), b"holder-one--", BOOT, now, 3.0)
    assert not two.take(name(1), b"holder-two--", BOOT, 14.1, 3.0)
    assert one.give(name(1), b"holder-one--")
    assert three.take(name(1), b"holder-3----", BOOT, 14.2, 3.0)
    assert not two.take(name(1), b"holder-two--", BOOT, 14.3, 3.0)


def test_who_stands_still_after_it_noted_is_waited_for_one_lease(another: Others) -> None:
    one, two = another(), another()
    assert one.take(name(1), b"holder-one--", BOOT, 10.0, 3.0)
    one.renew(name(1), b"holder-one--", BOOT, 11.0, 3.0)
    assert not two.take(name(1), b"holder-two--", BOOT, 11.1, 3.0)
    assert not two.take(name(1), b"holder-two--", BOOT, 13.9, 3.0)
    assert two.take(name(1), b"holder-two--", BOOT, 14.1, 3.0)


def test_many_who_are_waited_for_are_each_waited_for_one_lease(
    another: Others, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leadtable, "_MOST_STUCK", 4)
    one, two = another(), another()
    for number in range(20):
        assert one.take(apart(number), b"holder-one--", BOOT, 10.0, 3.0)
    for now in (10.0, 12.0):
        assert not any(two.take(apart(number), b"holder-two--", BOOT, now, 3.0) for number in range(20))
    assert all(two.take(apart(number), b"holder-two--", BOOT, 13.0, 3.0) for number in range(20))
    for number in range(20, 90):  # nobody waits for the others any more
        assert one.take(apart(number), b"holder-one--", BOOT, 50.0, 3.0)
        assert not two.take(apart(number), b"holder-two--", BOOT, 50.0 + number * 10, 3.0) or not locks(another)
    assert len(two._stuck) <= 41


def test_a_thousand_loads_are_led_among_processes_and_more_among_threads(
    another: Others, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leadtable, "_MOST_LOCKS", 2)
    one, two = another(), another()
    for number in range(3):
        assert one.take(apart(number), b"holder-one--", BOOT, 10.0, 3.0)
    assert not one.take(apart(2), b"holder-1----", BOOT, 10.0, 3.0), "another thread"
    one.renew(apart(2), b"holder-one--", BOOT, 11.0, 3.0)
    had = [two.take(apart(number), b"holder-two--", BOOT, 11.0, 3.0) for number in range(3)]
    assert had == [False, False, locks(another)]
    assert one.give(apart(2), b"holder-one--")
    assert len(one) == 2
    assert one.give(apart(1), b"holder-one--")
    assert two.give(apart(2), b"holder-two--")
    assert one.take(apart(2), b"holder-one--", BOOT, 12.0, 3.0)
    assert not two.take(apart(2), b"holder-two--", BOOT, 12.0, 3.0), "there is room for a lock again"


def test_a_system_that_does_not_know_the_call_has_the_slots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leadtable, "_OF_A_TABLE", 9_999)
    another = Others(tmp_path / "leads")
    one, two = another(), another()
    assert one.take(name(1), b"holder-one--", BOOT, 10.0, 3.0)
    assert not two.take(name(1), b"holder-two--", BOOT, 12.9, 3.0)
    assert one.give(name(1), b"holder-one--")
    assert two.take(name(1), b"holder-two--", BOOT, 12.9, 3.0)
    one.close()
    two.close()


def test_a_table_that_nobody_closed_keeps_no_file_open(tmp_path: Path) -> None:
    table = LeadTable(str(tmp_path / "leads"))
    file = table._file
    os.fstat(file)
    del table
    gc.collect()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(file)


def test_a_signal_in_the_middle_of_it_leaves_nothing_taken(another: Others, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = another(), another()
    real = one._take

    def interrupted(*arguments: Any) -> bool:
        assert real(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(one, "_take", interrupted)
    with pytest.raises(KeyboardInterrupt):
        one.take(name(1), b"holder-one--", BOOT, 10.0, 3.0)
    assert len(one) == 0
    assert two.take(name(1), b"holder-two--", BOOT, 10.0 if locks(another) else 13.0, 3.0)


_LOCKING = """
import fcntl, os, sys
file = os.open(sys.argv[1], os.O_RDWR)
fcntl.lockf(file, fcntl.LOCK_EX, 512, 0)
print("locked", flush=True)
sys.stdin.readline()
"""


def test_who_was_stopped_while_noting_is_waited_for_one_lease(another: Others, tmp_path: Path) -> None:
    one, two, pipe = another(), another(), subprocess.PIPE
    assert one.take(name(1), b"holder-one--", BOOT, 10.0, 3.0)
    one.renew(name(1), b"holder-one--", BOOT, 10.0, 3.0)
    with subprocess.Popen(
        [sys.executable, "-c", _LOCKING, str(tmp_path / "leads")], stdin=pipe, stdout=pipe, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        assert not one.give(name(1), b"holder-one--"), "to be tried again"
        assert not two.take(name(1), b"holder-two--", BOOT, 10.0, 3.0)
        assert not two.take(name(1), b"holder-two--", BOOT, 12.9, 3.0)
        assert two.take(name(1), b"holder-two--", BOOT, 13.0, 3.0), "without writing it down"
        assert two.give(name(1), b"holder-two--")
        other.communicate("\n")
    assert one.give(name(1), b"holder-one--")
    assert two.take(name(1), b"holder-two--", BOOT, 10.0, 3.0)


def test_threads_exclude_each_other_with_one_table_and_with_several(another: Others) -> None:
    tables = [another(), another()] * 2
    had: list[int] = []
    start = threading.Barrier(4)

    def take(number: int) -> None:
        start.wait()
        for turn in range(200):
            if tables[number].take(apart(turn), b"holder-%05d" % number, BOOT, 10.0, 3.0):
                had.append(turn)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(had) == len(set(had)), "none is had twice"
    if locks(another):
        assert sorted(had) == list(range(200)), "and none by nobody"


# --------------------------------------------------------------------------------------------------- the lease


def held(talk: Talk) -> int:
    table = talk.sync._leads
    return 0 if table is None else len(table)


def test_a_lead_needs_no_commit_and_no_thread(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    talk = make()
    token = talk.look().token
    jobs: list[object] = []
    monkeypatch.setattr(talk.sync._writer, "submit", jobs.append)
    lead = talk.sync.lead(KEY, CART, token)
    assert not isinstance(lead, Taken)
    assert held(talk) == 1
    talk.sync.release(lead)
    assert held(talk) == 0
    assert jobs == []


def test_a_lead_is_had_until_its_fill_is_in_the_file(make: Make) -> None:
    one, two = make(), make()
    token = one.look().token
    lead = one.sync.lead(KEY, CART, token)
    with one.sync._writer.busy:  # the writer cannot write yet
        assert one.fill("v", token, lead=lead)
        taken = two.sync.lead(KEY, CART, token)
        assert isinstance(taken, Taken)
        assert not taken.again, "wait"
        assert two.value() == "-"
        here = one.sync.lead(KEY, CART, token)
        assert isinstance(here, Taken)
        assert here.again, "this process has it already"
    one.sync.flush()
    assert held(one) == 0
    taken = two.sync.lead(KEY, CART, token)
    assert isinstance(taken, Taken)
    assert taken.again
    assert held(two) == 0
    assert two.value() == "v"


@pytest.mark.parametrize("moved", [False, True])
def test_who_asks_late_is_told_to_look_again(make: Make, moved: bool) -> None:
    """Between its lookup and its turn, the entry was stored or the tag was moved, by another process."""
    one, two = make(), make()
    token = one.look().token
    assert token == two.look().token
    if moved:
        two.sync.move(WRITE, "other")
    else:
        assert two.fill("v", token)
        two.sync.flush()
    late = one.sync.lead(KEY, CART, token)
    assert isinstance(late, Taken)
    assert late.again
    assert held(one) == 0


def test_a_lead_after_an_expired_entry(make: Make, clock: FakeClock) -> None:
    one, two = make(), make()
    assert one.fill("v", ttl=5)
    one.sync.flush()
    clock.advance(6)
    found = two.look()
    assert isinstance(found, Missing)
    assert found.why == "expired"
    two.sync.set("elsewhere", 1)  # something was committed since
    assert not isinstance(two.sync.lead(KEY, CART, found.token), Taken)


def test_a_table_that_cannot_be_written_only_costs_loads(make: Make, path: Path) -> None:
    Path(f"{path}-leads").mkdir()
    talk = make()
    token = talk.look().token
    with pytest.raises(BackendError, match="make it writable"):
        talk.sync.lead(KEY, CART, token)
    assert talk.fill("v", token)
    assert talk.value() == "v"

    @AgentCache("cart:{user}", backend=talk.backend)
    async def get_cart(user: int) -> int:
        return user

    assert asyncio.run(_twice(get_cart)) == [7, 7]


async def _twice(get_cart: Any) -> list[int]:
    return [await get_cart(7), await get_cart(7)]


@pytest.mark.parametrize("where", ["_take", "_writer"])
def test_who_could_not_be_told_of_its_lead_does_not_have_it(
    make: Make, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    talk = make()
    token, real = talk.look().token, talk.sync._take

    def interrupted(*arguments: Any) -> None:
        if where == "_take":
            assert real(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        owner, called = (talk.sync, "_take") if where == "_take" else (talk.sync._writer, "wake_within")
        patch.setattr(owner, called, interrupted)
        with pytest.raises(KeyboardInterrupt) as raised:  # keeps the lead alive, as a traceback that is kept does
            talk.sync.lead(KEY, CART, token)
    assert held(talk) == 0
    assert not isinstance(talk.sync.lead(KEY, CART, token), Taken)
    assert raised.value is not None


@pytest.mark.parametrize("fails", [None, OSError(errno.ENOSPC, "full")])
def test_a_note_that_cannot_be_erased_ends_with_its_lease_and_the_lead_at_once(
    make: Make, monkeypatch: pytest.MonkeyPatch, fails: OSError | None
) -> None:
    """Somebody was stopped while it noted something beside it; or there is no room on the disk."""
    talk = make()
    token = talk.look().token
    table = talk.sync._leads
    assert table is not None
    tried: list[object] = []

    def give(*arguments: object) -> bool:
        tried.append(arguments)
        if fails is not None:
            raise fails
        return False

    lead = talk.sync.lead(KEY, CART, token)
    with monkeypatch.context() as patch:
        patch.setattr(table, "give", give)
        talk.sync.release(lead)
        talk.sync.flush()
    assert len(tried) == (2 if fails is None else 1)
    assert held(talk) == 0
    assert not isinstance(talk.sync.lead(KEY, CART, token), Taken)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_does_not_give_its_parents_lead_back(path: Path) -> None:
    talk = Talk(DiskBackend(path))
    token = talk.look().token
    lead = talk.sync.lead(KEY, CART, token)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        code = 1
        try:
            talk.sync.release(lead)
            mine = talk.sync.lead(KEY, CART, talk.look().token)
            code = 0 if isinstance(mine, Taken) and not mine.again else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert held(talk) == 1
    talk.sync.release(lead)
    assert not isinstance(talk.sync.lead(KEY, CART, token), Taken)
    talk.sync.close()


def test_the_writer_wakes_in_time_to_renew(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    talk = Talk(DiskBackend(path, lead_lease=0.2))
    renewed = threading.Event()
    talk.sync.connect()
    table = talk.sync._leads
    assert table is not None
    real = table.renew

    def renew(*arguments: Any) -> None:
        real(*arguments)
        renewed.set()

    monkeypatch.setattr(table, "renew", renew)
    lead = talk.sync.lead(KEY, CART, talk.look().token)
    assert renewed.wait(10)
    talk.sync.release(lead)
    talk.sync.close()


# -------------------------------------------------------------------------------------------- real processes

PROGRAM = textwrap.dedent("""
    import asyncio, os, sys
    from agent_cache import AgentCache
    from agent_cache.backends.disk import DiskBackend, leadtable

    path, hangs = sys.argv[1], sys.argv[2]
    backend = DiskBackend(path, lead_lease=2)
    loads = os.open(path + ".loads", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    @AgentCache("cart:{user}", backend=backend)
    async def get_cart(user: int) -> int:
        os.write(loads, b"x")
        number = os.stat(path + ".loads").st_size
        print("loading", number, flush=True)
        if hangs == "first" and number == 1:
            await asyncio.Event().wait()
        await asyncio.sleep(0.05)  # the others arrive meanwhile
        return number

    async def main() -> None:
        await backend.connect()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        values = await asyncio.gather(*(get_cart(42) for _ in range(100)))
        print("values", *values, flush=True)
        await backend.close()

    asyncio.run(main())
""")


class Herd:
    """Four processes with 100 callers each, on their marks."""

    def __init__(self, warm: Any, program: Path, path: Path, hangs: str) -> None:
        program.write_text(PROGRAM)
        self.loads = Path(f"{path}.loads")
        line = [str(program), str(path), hangs]
        # The first is killed or stopped: it is no fork, whose stand-in alone would stop.
        commands = [[sys.executable, *line], *[warm.command(*line, imports=["sqlite3"])] * 3]
        pipe = subprocess.PIPE
        self.processes = [
            subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1) for command in commands
        ]
        for process in self.processes:
            assert self.line(process) == "ready\n"

    @staticmethod
    def line(process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline()

    @staticmethod
    def go(processes: list[subprocess.Popen[str]]) -> None:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()


@pytest.fixture
def herd(path: Path, warm: Any, tmp_path: Path) -> Iterator[Callable[[str], Herd]]:
    made: list[Herd] = []

    def make(hangs: str) -> Herd:
        made.append(Herd(warm, tmp_path / "callers.py", path, hangs))
        return made[-1]

    yield make
    for each in made:
        each.close()


def answers(process: subprocess.Popen[str]) -> list[str]:
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    return next(line for line in said.splitlines() if line.startswith("values")).split()[1:]


def test_four_processes_with_a_hundred_callers_each_load_a_cold_key_once(herd: Callable[[str], Herd]) -> None:
    running = herd("nobody")
    running.go(running.processes)
    for process in running.processes:
        assert answers(process) == ["1"] * 100
    assert running.loads.read_bytes() == b"x"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_leader_that_is_killed_or_stopped_leaves_nobody_without_an_answer(
    herd: Callable[[str], Herd], how: signal.Signals
) -> None:
    """The lease is two seconds, the longest wait for another's load ten: who waited for that would load alone."""
    running = herd("first")
    first, *others = running.processes
    running.go([first])
    assert running.line(first) == "loading 1\n"
    running.go(others)
    first.send_signal(how)
    for process in others:
        assert answers(process) == ["2"] * 100
    assert running.loads.read_bytes() == b"xx"


def test_what_is_held_may_change_while_it_is_walked() -> None:
    leads: Those[DiskLead] = Those()
    first = [DiskLead(b"w", b"h") for _ in range(3)]
    for lead in first:
        leads.add(lead)
    more: list[DiskLead] = []
    for lead in leads:  # as the writer thread does, while others take and give back
        assert leads.discard(lead)
        more += [DiskLead(b"w", b"h") for _ in range(20)]
        list(map(leads.add, more))
    assert len(list(leads)) == 60
    assert not any(leads.discard(lead) for lead in first)
    more.clear()
    assert not list(leads)


def test_a_table_that_another_thread_has_closed_costs_a_lead_and_nothing_else(path: Path) -> None:
    talk = Talk(DiskBackend(path))
    token = talk.look().token
    lead = talk.sync.lead(KEY, CART, token)
    assert talk.sync._leads is not None
    talk.sync._leads.close()
    with pytest.raises(BackendError, match="leads"):
        talk.sync.lead(b"other", CART, token)
    talk.sync.release(lead)
    talk.sync.close()
    assert talk.fill("v")
    talk.sync.close()


def test_a_table_that_is_closed_while_a_lead_is_given_back_fails_nobody(
    another: Others, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = another()
    assert one.take(name(1), b"holder-one--", BOOT, 10.0, 3.0)
    real = one._set

    def late(what: bytes, kind: int) -> bool:
        one.close()  # by another thread, after it was seen to be open
        return real(what, kind)

    monkeypatch.setattr(one, "_set", late)
    one.drop(name(1), b"holder-one--")
    assert len(one) == 0


@pytest.mark.parametrize("how", ["deleted", "not to be opened at first"])
def test_a_table_that_was_lost_is_followed(make: Make, path: Path, how: str) -> None:
    """Else the processes that had it open would load beside those that came later, for as long as they live."""
    first = make()
    token = first.look().token
    if how == "deleted":
        Path(f"{path}-leads").unlink()
    else:
        first.sync._leads = None
    second = make()
    lead = second.sync.lead(KEY, CART, token)
    assert not isinstance(lead, Taken)
    first.sync._swept = -1e9  # it is time to look after what else there is
    first.sync.set("k", 1)
    first.sync.flush()
    assert isinstance(first.sync.lead(KEY, CART, token), Taken)
    second.sync.release(lead)
    assert not isinstance(first.sync.lead(KEY, CART, token), Taken)
