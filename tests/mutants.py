"""Mutants: take one rule of the protocol out of the package, and the tests must notice. ``python tests/mutants.py [name…]``

Each mutation is a change to a copy of the package, never to the tree; the tests named beside it are run against the
copy, and one of them must fail. First all of them are run against a copy that is as it is: they must pass. Names may be
parts of names. ``--list`` prints the table, ``--jobs N`` runs so many at a time. The exit code is 1 if a mutant
survives, 2 if the table no longer fits the code.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 180.0  # seconds for the tests of one mutant: one that hangs is caught

SCRIPTS = "backends/redis/scripts.py"
BACKEND = "backends/redis/backend.py"
WIRE = "backends/redis/wire.py"
BUS = "backends/redis/bus.py"
TIERED = "backends/tiered.py"
MEMORY = "backends/memory/store.py"
FLIGHT = "flight.py"
TAGS = "tags.py"
LOADS = "engine/loads.py"
READS = "engine/reads.py"
ASKING = "engine/asking.py"
OUTBOX = "engine/outbox.py"
OUTAGES = "engine/outages.py"
COURIERS = "engine/couriers.py"
EFFECTS = "engine/effects.py"
WRITES = "engine/writes.py"
LINKS = "backends/redis/links.py"
LOOKS = "backends/redis/looks.py"
OPENED = "backends/redis/opened.py"
KEEPER = "backends/redis/keeper.py"

RULES = "tests/redis/test_rules.py"
LEADS = "tests/redis/test_leads.py"
BACKPLANE = "tests/redis/test_backplane.py"
DEBTS = "tests/redis/test_outbox.py"
LEDGER = "tests/redis/test_ledger.py"
TOLD = "tests/core/test_outages.py"
KEPT = "tests/tiered/test_kept_copies.py"
REVIEW = "tests/redis/test_review.py"
ENTRIES = "tests/redis/test_entries.py"
SHARED_LINE = "tests/redis/test_wire.py"
CANCELLED = "tests/core/test_cancelled_invalidations.py"
DISK = "tests/disk"
CONTRACT = "tests/core/test_contract_memory.py"


@dataclass(frozen=True)
class Mutant:
    """``edits`` are (old, new) in ``file``, each old text there exactly once; ``tests``: a file and words for ``-k``."""

    name: str
    file: str
    edits: tuple[tuple[str, str], ...]
    tests: str
    words: str = ""


def mutant(name: str, file: str, old: str, new: str, tests: str, words: str = "") -> Mutant:
    return Mutant(name, file, ((old, new),), tests, words)


MUTANTS = [
    # -- the write window, on Redis
    mutant(
        "no begin",
        SCRIPTS,
        "  r.v, r.f, r.by = ARGV[3], ARGV[3], ARGV[4]\n  r.m[#r.m + 1] = {ARGV[3], now + tonumber(ARGV[7])}\n",
        "",
        RULES,
        "its_begin",
    ),
    mutant(
        "begin only marks",
        SCRIPTS,
        "  r.v, r.f, r.by = ARGV[3], ARGV[3], ARGV[4]\n  r.m[#r.m + 1]",
        "  r.m[#r.m + 1]",
        RULES,
        "its_begin",
    ),
    mutant("no marker", SCRIPTS, "  r.m[#r.m + 1] = {ARGV[3], now + tonumber(ARGV[7])}\n", "", RULES, "marker_blocks"),
    mutant(
        "a marker without a lease",
        SCRIPTS,
        "r.m[#r.m + 1] = {ARGV[3], now + tonumber(ARGV[7])}",
        "r.m[#r.m + 1] = {ARGV[3], now + 9999999999}",
        RULES,
        "marker_blocks",
    ),
    Mutant(
        "no end",
        SCRIPTS,
        (
            ("    r.v, r.by = ARGV[7], ARGV[4]\n    moved", "    moved"),
            ("  r.f = ARGV[7]\n  if tonumber", "  if tonumber"),
        ),
        RULES,
        "marker_was_lost_moves",
    ),
    mutant(
        "a lost marker forgotten",
        SCRIPTS,
        "    r.v, r.f, r.by = ARGV[8], ARGV[8], ARGV[4]\n",
        "",
        RULES,
        "renewal_that_finds",
    ),
    mutant("nothing is renewed", BACKEND, "        self._keeper.keep(window)\n", "", RULES, "outlives_its_first_lease"),
    mutant(
        "settle 0 with late commits",
        SCRIPTS,
        "if tonumber(ARGV[8]) > 0 then",
        "if false then",
        RULES,
        "unknown_outcome or after_the_timeout",
    ),
    mutant(
        "restore without compare-and-set",
        SCRIPTS,
        "if marked and r.v == nonce and #before == 12",
        "if marked and #before == 12",
        RULES,
        "restore_takes_back",
    ),
    mutant(
        "restore after the lease",
        SCRIPTS,
        "if marked and r.v == nonce and #before == 12",
        "if r.v == nonce and #before == 12",
        RULES,
        "whose_lease_has_ended",
    ),
    Mutant(
        "restore without the fence",
        SCRIPTS,
        (
            (
                "r.v, r.f, r.by = ARGV[3], ARGV[3], ARGV[4]\n  r.m[#r.m + 1]",
                "r.v, r.by = ARGV[3], ARGV[4]\n  r.m[#r.m + 1]",
            ),
            ("r.v, r.by = ARGV[7], ARGV[4]\n    moved", "r.v, r.f, r.by = ARGV[7], ARGV[7], ARGV[4]\n    moved"),
            ("  r.f = ARGV[7]\n  if tonumber", "  if tonumber"),
        ),
        RULES,
        "restore_moves_the_fence",
    ),
    mutant(
        "one attempt to begin is all that is closed",
        BACKEND,
        'beside), b"".join(window.nonces[group])',
        "beside), window.nonces[group][-1]",
        RULES,
        "carried_out_unheard",
    ),
    mutant(
        "a failed begin is left open",
        BACKEND,
        "self._close(window, undone), self._write_lease)",
        "self._close(window, undone), 0 * self._write_lease)",
        RULES,
        "background or closes_the_others",
    ),
    mutant(
        "an end is tried once",
        BACKEND,
        "self._close(mine, how), 2 * self._write_lease)\n            raise",
        "self._close(mine, how), 0 * self._write_lease)\n            raise",
        RULES,
        "not_delivered",
    ),
    # -- entries and tokens, on Redis
    Mutant(
        "no check at fill",
        SCRIPTS,
        (
            ("  if not r or #r.m > 0 or r.v ~= expected:sub(12 * i - 11, 12 * i) then return 0 end\n", ""),
            ("  if r.f ~= expected:sub(12 * (n + i) - 11, 12 * (n + i)) then return 0 end\n", ""),
        ),
        RULES,
        "loaded_before_a_write",
    ),
    mutant(
        "a token without fences",
        SCRIPTS,
        "  if r.f ~= expected:sub(12 * (n + i) - 11, 12 * (n + i)) then return 0 end\n",
        "",
        RULES,
        "restore_moves_the_fence or loaded_before_a_write",
    ),
    mutant(
        "an end that is tried again has the nonce of before",
        BACKEND,
        "        replies = await self._change(window, group, commands, patience)\n        if replies.values[0] != 0:",
        "        once = commands()\n        replies = await self._change(window, group, lambda: once, patience)\n"
        "        if replies.values[0] != 0:",
        RULES,
        "unheard_brings_nothing_back",
    ),
    mutant(
        "a tag that is minted again has the nonce of before",
        BACKEND,
        "partial(self._minting, group)",
        "lambda once=self._minting(group): once",
        RULES,
        "minted_unheard",
    ),
    mutant(
        "constant for a lost version",
        SCRIPTS,
        "if not r then r = fresh(ARGV[3]); write(key, r) end",
        "if not r then r = fresh('000000000000'); write(key, r) end",
        RULES,
        "never_minted_the_same",
    ),
    mutant(
        "no epoch",
        WIRE,
        'return epoch_bytes(field_of(reply, b"master_replid"))',
        'return epoch_bytes(b"ever the same")',
        RULES,
        "snapshot or lagged",
    ),
    mutant(
        "an epoch for ever", WIRE, "if reply == self._known_info:", "if self._known_info:", RULES, "snapshot or demoted"
    ),
    mutant("an opened entry for ever", OPENED, " or held.raw != raw", "", ENTRIES, "opened_again"),
    mutant("an opened entry of any stamp", OPENED, " or held.stamp != stamp", "", ENTRIES, "opened_before"),
    mutant(
        "a read joins a batch that has been sent",
        WIRE,
        "        batch = self._next.popleft()\n        if not self._next:\n            self._room = 0\n",
        "        batch = self._next[0]\n",
        SHARED_LINE,
        "comes_while_a_batch",
    ),
    mutant(
        "a reply to nothing is passed over",
        WIRE,
        "        if len(replies) > self.missing:\n",
        "        if len(replies) > 1_000_000:\n",
        SHARED_LINE,
        "more_replies",
    ),
    mutant(
        "tags shared by place",
        LOOKS,
        "places = [tags.setdefault(key, len(tags)) for key in group.bulks]",
        "places = [tags.setdefault(key, len(tags)) - len(tags) + at + 1 for at, key in enumerate(group.bulks)]",
        SHARED_LINE,
        "names_every_key_once",
    ),
    mutant("no role check", WIRE, 'if role != b"master":', "if not role:", RULES, "demoted"),
    mutant(
        "a scope reads its own chain only",
        TAGS,
        "return (EVERYONE, chain) if chain else (EVERYONE,)",
        "return (chain,)",
        RULES,
        "second_chain",
    ),
    mutant(
        "a scope reads everyone's chain only",
        TAGS,
        "return (EVERYONE, chain) if chain else (EVERYONE,)",
        "return (EVERYONE,)",
        RULES,
        "second_chain",
    ),
    mutant(
        "a fill checks its own slot only",
        BACKEND,
        "others = [group for group in plan.groups if group.slot != plan.home]",
        "others: list[Any] = []",
        RULES,
        "two_slots",
    ),
    # -- leads
    mutant(
        "lead never released",
        LOADS,
        "            backend.release(lead)\n",
        "            pass\n",
        LEADS,
        "given_back_however",
    ),
    mutant(
        "a fill keeps the lead",
        SCRIPTS,
        "if ARGV[3] ~= '' and redis.pcall('GET', KEYS[2]) == ARGV[3] then redis.call('DEL', KEYS[2]) end\n",
        "",
        LEADS,
        "given_back_by_its_fill",
    ),
    mutant("a lead without a lease", SCRIPTS, "'NX', 'PX', ARGV[4])", "'NX')", LEADS, "dead_leader"),
    mutant(
        "a lead is not renewed",
        SCRIPTS,
        "then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0",
        "then return 0 end return 0",
        LEADS,
        "for_as_long_as",
    ),
    mutant(
        "releasing whoever leads",
        SCRIPTS,
        "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0",
        "return redis.call('DEL', KEYS[1])",
        LEADS,
        "takes_nothing_from",
    ),
    mutant(
        "leading under a dead token",
        SCRIPTS,
        "  if r.f ~= expected:sub(12 * (n + i) - 11, 12 * (n + i)) then return 2 end\n",
        "",
        LEADS,
        "no_longer_current",
    ),
    mutant(
        "no lead at all",
        LOADS,
        "    if call is not None and token is not None and not alone and is_leading(call.backend):\n",
        "    if False:\n",
        LEADS,
        "hundred_callers or of_its_own",
    ),
    # -- the near tier
    mutant(
        "near tier without local generations",
        TIERED,
        "self._keep_near(snapshot, new)",
        "self._keep_near(self._store.token(self._near_tags(tags)), new)",
        BACKPLANE,
        "fetched_while",
    ),
    mutant(
        "own loads near without local generations",
        TIERED,
        "                mine.near,\n",
        "                type(mine.near)(type(mine.near.base)(mine.near.base.records, mine.near.base.epoch, mine.near.base.tags), (), 0, 0, 0),\n",
        BACKPLANE,
        "loaded_while",
    ),
    mutant(
        "near tier without liveness",
        TIERED,
        "return ear is not None and uptime() < ear.proven + ear.lease",
        "return ear is not None",
        BACKPLANE,
        "without_proof or stalled or after_a_write_has_returned",
    ),
    mutant(
        "warm hits without liveness",
        TIERED,
        "return self._store.clock() if self._is_proven() else math.inf",
        "return self._store.clock()",
        BACKPLANE,
        "warm",
    ),
    mutant(
        "near tier without flush on reconnect",
        BUS,
        "        for _, lost in list(self._listeners):\n            lost()",
        "        return",
        BACKPLANE,
        "killed_connection",
    ),
    mutant(
        "begin tells nobody",
        SCRIPTS,
        "redis.call('PUBLISH', ARGV[5], ARGV[6])\nreturn reply",
        "return reply",
        BACKPLANE,
        "version_is_told and begin",
    ),
    mutant(
        "an invalidation by hand tells nobody",
        SCRIPTS,
        "redis.call('PUBLISH', ARGV[5], ARGV[6])\nreturn ARGV[7]",
        "return ARGV[7]",
        BACKPLANE,
        "version_is_told and hand",
    ),
    mutant(
        "a renewal that moved tells nobody",
        SCRIPTS,
        "if lost == 1 then redis.call('PUBLISH', ARGV[5], ARGV[6]) end\n",
        "",
        BACKPLANE,
        "version_is_told and renewal",
    ),
    mutant(
        "end tells nobody",
        SCRIPTS,
        "if #moved > 0 then redis.call('PUBLISH', ARGV[5], table.concat(moved)) end\n",
        "",
        BACKPLANE,
        "version_is_told and end",
    ),
    mutant("any server proves", BUS, "now != server)", "False)", BACKPLANE, "same_primary"),
    mutant(
        "proof read after the fetch",
        TIERED,
        """            if key is not None and self._is_proven():
                proven = self._store.lookup(key, near_tags, codec)
                if isinstance(proven, Found):
""",
        """            if key is not None:
                proven = self._store.lookup(key, near_tags, codec)
                if isinstance(proven, Found) and self._is_proven():
""",
        BACKPLANE,
        "proof_is_read_before",
    ),
    mutant(
        "own writes are heard of on the bus only",
        TIERED,
        "        self._store.move_known(self._near_tags(tags), writer)",
        "        return",
        BACKPLANE,
        "own_write",
    ),
    mutant(
        "a forked child keeps the proof",
        TIERED,
        "        tier._ear = None  # a child",
        "        pass  # a child",
        BACKPLANE,
        "forked",
    ),
    mutant("no wait in lease mode", BACKEND, "if left > 0 and longest:", "if left < 0:", BACKPLANE, "no_earlier"),
    mutant(
        "no wait before",
        BACKEND,
        "        if self._waits_before:\n            await self._wait_out(window)\n",
        "",
        BACKPLANE,
        "wait_before",
    ),
    mutant(
        "strict writers do not wait for lease readers",
        BACKEND,
        "longest = max(window.announced, ",
        "longest = max(0.0, ",
        BACKPLANE,
        "strict_writer or after_a_write_has_returned",
    ),
    mutant(
        "a marker found lost at a renewal is not waited for",
        BACKEND,
        "                window.since = uptime()\n                window.before.clear()",
        "                window.before.clear()",
        BACKPLANE,
        "from_when_that_was_found",
    ),
    mutant(
        "a marker found lost at the end is not waited for",
        BACKEND,
        "        if replies.values[0] != 0:\n            window.since = uptime()\n",
        "",
        BACKPLANE,
        "from_when_that_was_found",
    ),
    mutant(
        "deaf alarm again and again",
        BUS,
        "                alarmed = True\n",
        "",
        BACKPLANE,
        "told_once",
    ),
    mutant(
        "kept copies without asking",
        TIERED,
        "answer = await self.far.revalidate(key, tags, codec, stamp)",
        "answer: Any = Same()",
        KEPT,
        "before_a_write",
    ),
    # -- what reviews found
    mutant(
        "copies of before the subscription stands",
        BUS,
        "                    if server is None and not subscribed:\n                        self._tell_lost()",
        "                    if server is None and not subscribed:\n                        pass",
        REVIEW,
        "subscription_stands",
    ),
    mutant(
        "a cancelled begin runs the tool",
        EFFECTS,
        "            stop = stop or cancelled\n",
        "            stop = None\n",
        CANCELLED,
    ),
    mutant(
        "a cancelled end owes nothing",
        WRITES,
        "        if not no_effect:\n            for backend in call.backends:",
        "        if not no_effect and ended.cancelled is None:\n            for backend in call.backends:",
        CANCELLED,
    ),
    mutant(
        "a torn tool goes on",
        EFFECTS,
        "        except GeneratorExit:\n            raise  #",
        "        except ZeroDivisionError:\n            raise  #",
        CANCELLED,
    ),
    mutant("windows are left open", WRITES, "            backend.abandon(window)", "            pass", CANCELLED),
    mutant(
        "a late renewal leaves its marker",
        BACKEND,
        "        if window.closed:  # ended meanwhile",
        "        if window.closed is None:  # ended meanwhile",
        REVIEW,
        "renewal_that_arrives",
    ),
    mutant(
        "a full Redis forgets nothing",
        BACKEND,
        'if error.kind != "OutOfMemoryError":',
        "if error.kind:",
        REVIEW,
        "full_redis",
    ),
    mutant(
        "near copies outlive max_ttl",
        TIERED,
        "ttl = entry.ttl if cap is None else cap if entry.ttl is None else min(entry.ttl, cap)",
        "ttl = entry.ttl",
        REVIEW,
        "near_copy_lives",
    ),
    mutant(
        "a cancelled lead is kept",
        BACKEND,
        "            self.release(lead)  # it may have been granted\n",
        "",
        REVIEW,
        "caller_who_has_left",
    ),
    mutant(
        "one breaker for all shards",
        LINKS,
        "return self._owner(key_slot(slot)) if self.sharded else None",
        "return None",
        REVIEW,
        "dead_shard",
    ),
    mutant(
        "a moving slot opens the breaker",
        LINKS,
        '{kind}: {text[:200]}", is_outage=False)',
        '{kind}: {text[:200]}")',
        REVIEW,
        "slot_that_is_moving",
    ),
    mutant(
        "a child collects its parent's connections",
        LINKS,
        "            _inherited.append(dict(self._loops))\n",
        "            pass\n",
        REVIEW,
        "child_collects",
    ),
    mutant(
        "closing opens the breaker",
        WIRE,
        "set_exception(WireDownError(text, is_outage=False))",
        "set_exception(WireDownError(text))",
        REVIEW,
        "closing_under_reads",
    ),
    mutant(
        "the keeper oversleeps",
        KEEPER,
        "            loop.call_soon_threadsafe(self._wake.set)\n",
        "            pass\n",
        REVIEW,
        "short_lease",
    ),
    mutant(
        "loads of before are joined while Redis is away",
        READS,
        "local = isinstance(found, Down) and call.backend.in_process",
        "local = isinstance(found, Down)",
        REVIEW,
        "joins_no_load",
    ),
    # -- the outbox
    mutant(
        "outbox not delivered",
        OUTBOX,
        "        if self.has_courier(backend):\n            self.send_courier(backend)\n",
        "",
        DEBTS,
        "nobody_reads_here",
    ),
    mutant(
        "reads while something is owed",
        ASKING,
        "if OUTBOX and (owed :=",
        "if not OUTBOX and (owed :=",
        DEBTS,
        "something_is_owed",
    ),
    mutant(
        "replies counted after they were given away",
        WIRE,
        "            at = end\n",
        "            at += looks.replies\n",
        "tests/redis/test_round_trips.py",
        "told_apart",
    ),
    mutant(
        "a value that was refused is sent again",
        "backends/redis/sizes.py",
        "if size >= self._refused > 0 and",
        "if size < 0 and",
        "tests/redis/test_outages.py",
        "keeps_nobody_else",
    ),
    mutant(
        "many tags in one script",
        "backends/redis/plans.py",
        "MOST_AT_ONCE = 500",
        "MOST_AT_ONCE = 50_000",
        RULES,
        "thousands_of_resources",
    ),
    mutant("looks without end", LOADS, "if looks > _MOST_LOOKS:", "if looks > 1_000:", TOLD, "not_asked_for_ever"),
    mutant(
        "what comes and goes is always told",
        "notices.py",
        "tells = len(times) <",
        "tells = 0 <",
        TOLD,
        "comes_and_goes",
    ),
    mutant(
        "a near copy ends an outage", ASKING, "elif not _is_near_copy(call.backend, found):", "else:", TOLD, "near_copy"
    ),
    mutant(
        "one outage for all kinds of work",
        OUTAGES,
        "return work.what, id(backend)",
        "return id(backend)",
        TOLD,
        "stores_nothing",
    ),
    mutant(
        "an outage of a backend that is gone",
        "notices.py",
        "weakref.ref(of, ",
        "weakref.ref(of) or (",
        TOLD,
        "ends_with",
    ),
    mutant("one courier for all backends", COURIERS, "MOST = 32", "MOST = 1", DEBTS, "hangs_in_a_delivery"),
    mutant(
        "a courier that never makes room",
        COURIERS,
        "if owed and (well or not self._waiting):",
        "if owed:",
        DEBTS,
        "has_its_turn",
    ),
    mutant(
        "a child without couriers",
        COURIERS,
        "known is not None and known.thread.is_alive()",
        "known is not None",
        DEBTS,
        "forked_child",
    ),
    mutant("an older delivery settles all", OUTBOX, "if owed.get(tag) is debt:", "if tag in owed:", DEBTS, "older_one"),
    mutant(
        "a file of debts that the next process does not read",
        BACKEND,
        "inherit(self)",
        "pass",
        LEDGER,
        "killed_process",
    ),
    mutant(
        "debts are noted after the tool",
        EFFECTS,
        "return await _noted(backend, self.tags, error) if self.goes_on else Down(error)",
        "return Down(error)",
        LEDGER,
        "before_the_tool",
    ),
    mutant(
        "a killed write counts as ended",
        OUTBOX,
        "        if awaited:\n",
        "        if False:\n",
        LEDGER,
        "for_ever",
    ),
    mutant(
        "writes of others are waited for without an end",
        OUTBOX,
        "        if awaited:\n",
        "        if running:\n",
        LEDGER,
        "for_ever",
    ),
    mutant(
        "a write that is torn away owes nothing",
        WRITES,
        "        for backend in missed:  # interrupted while the tool ran\n",
        "        for backend in ():\n",
        LEDGER,
        "torn_away",
    ),
    mutant("an outbox without an end", OUTBOX, "if len(owed) > _MAX_TAGS:", "if not owed:", DEBTS, "ten_thousand"),
    # -- in memory and in the process
    mutant(
        "join any flight",
        FLIGHT,
        "            return flight.token == token\n",
        "            return True\n",
        "tests/core/test_single_flight.py",
    ),
    mutant(
        "no check at fill (memory)",
        MEMORY,
        "            if not self._accepts(mine, now):\n                return False\n",
        "",
        CONTRACT,
    ),
    mutant(
        "no marker (memory)",
        MEMORY,
        "                record.open(window, now, now + self.write_lease)\n",
        "                pass\n",
        CONTRACT,
    ),
    mutant(
        "restore without compare-and-set (memory)",
        MEMORY,
        " and marked and record.version is mine.mine",
        " and marked",
        CONTRACT,
    ),
    mutant(
        "restore after the lease (memory)",
        MEMORY,
        " and marked and record.version is mine.mine",
        " and record.version is mine.mine",
        "tests/core/test_told_writes.py",
    ),
    mutant(
        "restore without the fence (memory)",
        MEMORY,
        "                    record.version = before\n",
        "                    record.version = record.fence = before\n",
        CONTRACT,
    ),
    # -- what only the result says was written
    mutant(
        "told: children not moved (memory)",
        MEMORY,
        "            if children:\n                self._move(children, fresh, mine.writer)\n",
        "",
        CONTRACT,
    ),
    mutant(
        "told: children not moved (Redis)",
        SCRIPTS,
        "for i = n + 1, #KEYS do\n",
        "for i = #KEYS + 1, #KEYS do\n",
        "tests/redis/test_contract_redis.py",
        "narrowed and Resp3",
    ),
    mutant(
        "told: children move versions only (Redis)",
        SCRIPTS,
        "  r.v, r.f, r.by = ARGV[7], ARGV[7], ARGV[4]\n  write(KEYS[i], r)",
        "  r.v, r.by = ARGV[7], ARGV[4]\n  write(KEYS[i], r)",
        RULES,
        "children",
    ),
    mutant(
        "told: children are not published (Redis)",
        SCRIPTS,
        "  moved[#moved + 1] = ARGV[6]:sub(16 * i - 15, 16 * i)\nend\nfor i = 1, n do",
        "end\nfor i = 1, n do",
        RULES,
        "children",
    ),
    mutant(
        "told: everything of the window goes back (Redis)",
        "backends/redis/endings.py",
        "NO_VERSION if plan.ids[at] in self.written else version",
        "version",
        "tests/redis/test_contract_redis.py",
        "narrowed and Resp3",
    ),
    mutant(
        "told: what is in another slot is left out (Redis)",
        "backends/redis/endings.py",
        "        if slot not in slots:\n            return Ending(settle)\n",
        "        if slot not in slots:\n            continue\n",
        RULES,
        "children",
    ),
    mutant(
        "told: children not moved (disk)",
        "backends/disk/tagrows.py",
        "    move(db, [name for name in written or () if name not in window.ids], window.writer, tick)\n",
        "",
        "tests/disk/test_contract_disk.py",
        "narrowed",
    ),
    mutant(
        "told: restore without compare-and-set (disk)",
        "backends/disk/tagrows.py",
        "not in written and alive and untouched and",
        "not in written and alive and",
        "tests/disk/test_contract_disk.py",
        "narrowed",
    ),
    mutant(
        "told: the result may lack a part",
        TAGS,
        "part.text(said) is None:\n                return None\n",
        "part.text(said) is None:\n                pass\n",
        "tests/core/test_told_writes.py",
    ),
    mutant("settle 0 (memory)", MEMORY, "if unknown and self.settle:", "if unknown and not self.settle:", CONTRACT),
    # -- disk
    mutant(
        "disk: hot hits without a look",
        "backends/disk/watch.py",
        "            self.look()\n        except (Replaced, V",
        "            pass\n        except (Replaced, V",
        DISK,
    ),
    mutant(
        "disk: the header of the log taken after the select",
        "backends/disk/watch.py",
        "            state = self._state = State(header, known)",
        "            state = self._state = State(head[:_HEADER] if head is not None else self._version(), known)",
        DISK,
    ),
    mutant(
        "disk: a look without asking which file it is",
        "backends/disk/watch.py",
        "        if (found.st_dev, found.st_ino) != self._handle.identity:",
        "        if False:",
        DISK,
    ),
    mutant(
        "disk: a decoded entry whatever was committed",
        "backends/disk/reading.py",
        "        if near.state is not state or now >= near.deadline:",
        "        if now >= near.deadline:",
        DISK,
    ),
    mutant(
        "disk: a decoded entry whatever its row says",
        "backends/disk/reading.py",
        " and near.home is watch and near.row == row:",
        " and near.home is watch:",
        DISK,
    ),
    mutant(
        "disk: no check when a fill is written",
        "backends/disk/store.py",
        "            or tagrows.holds(db, row.token, now, self._boot_text)",
        "            or True",
        DISK,
    ),
    mutant(
        "disk: hot hits outlive a commit",
        "backends/disk/watch.py",
        "                self.generation = known  # before",
        "                pass  # before",
        DISK,
    ),
]


def package_with(edited: Mutant | None, folder: Path) -> str | None:
    """A copy of the package in ``folder``, mutated; why the mutation does not fit, if it does not."""
    shutil.copytree(SOURCE, folder / "agent_cache", ignore=shutil.ignore_patterns("__pycache__"))
    if edited is None:
        return None
    path = folder / "agent_cache" / edited.file
    text = path.read_text()
    for old, new in edited.edits:
        if text.count(old) != 1:
            return f"{text.count(old)} times in {edited.file}: {old.strip()[:60]!r}"
        text = text.replace(old, new)
    try:
        compile(text, edited.file, "exec")
    except SyntaxError as error:
        return f"no Python any more: {error}"
    path.write_text(text)
    return None


def pytest(folder: Path, arguments: Sequence[str]) -> tuple[int | None, str]:
    """Run tests with the package that is in ``folder``; the exit code (None: the time was over) and what was printed."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", *arguments]
    running = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = running.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, 9)
        said, _ = running.communicate()
        return None, said
    return running.returncode, said


def arguments_of(each: Mutant) -> list[str]:
    return [each.tests, *(["-k", each.words] if each.words else [])]


def verdict(each: Mutant) -> tuple[str, bool | None]:
    """Who caught it, and whether that is so; None: it could not be tried."""
    with tempfile.TemporaryDirectory(prefix="agent-cache-mutant-") as name:
        unfit = package_with(each, Path(name))
        if unfit:
            return f"DOES NOT FIT: {unfit}", None
        code, said = pytest(Path(name), arguments_of(each))
    if code == 0:
        return "SURVIVES", False
    if code is None:
        return f"the time limit of {LIMIT:.0f} s", True
    caught = re.search(r"^(?:FAILED|ERROR) \S*?::(\S+)", said, re.MULTILINE)
    if code != 1 or caught is None:
        return f"NOT RUN (exit code {code}): {said.strip().splitlines()[-1][:80]}", None
    return caught[1], True


def unmutated(chosen: Iterable[Mutant]) -> str | None:
    """What fails without any mutation."""
    with tempfile.TemporaryDirectory(prefix="agent-cache-mutant-") as name:
        package_with(None, Path(name))
        where = [sys.executable, "-P", "-c", "import agent_cache; print(agent_cache.__file__)"]
        environment = {**os.environ, "PYTHONPATH": name}
        found = subprocess.run(where, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout
        if not found.startswith(name):
            return f"the copy is not what is imported, but {found.strip()}"
        for tests in sorted({each.tests for each in chosen}):
            code, said = pytest(Path(name), [tests])
            if code != 0:
                return f"{tests}: exit code {code}\n{said[-2000:]}"
    return None


SOURCE = ROOT / "agent_cache"


def main() -> int:
    global SOURCE
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", help="mutants whose names contain one of these; all if none is given")
    parser.add_argument("--list", action="store_true", help="print the names and end")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    given = parser.parse_args()
    chosen = [each for each in MUTANTS if not given.names or any(name in each.name for name in given.names)]
    if given.list or not chosen:
        print("\n".join(each.name for each in MUTANTS))
        return 0 if given.list else 2
    with tempfile.TemporaryDirectory(prefix="agent-cache-source-") as name:
        SOURCE = Path(name) / "agent_cache"  # as it is now, whatever is changed in the tree meanwhile
        shutil.copytree(ROOT / "agent_cache", SOURCE, ignore=shutil.ignore_patterns("__pycache__"))
        failing = unmutated(chosen)
        if failing:
            print(f"without a mutation already: {failing}")
            return 2
        width = max(len(each.name) for each in chosen)
        print(f"{'mutation':<{width}} | caught by\n{'-' * width}-+-{'-' * 60}", flush=True)
        results: list[bool | None] = []
        with ThreadPoolExecutor(given.jobs) as pool:
            for each, (by, caught) in zip(chosen, pool.map(verdict, chosen), strict=True):
                print(f"{each.name:<{width}} | {by}", flush=True)
                results.append(caught)
    print(f"{results.count(True)} of {len(results)} caught, {results.count(False)} survive")
    return 1 if False in results else 2 if None in results else 0


if __name__ == "__main__":
    sys.exit(main())
