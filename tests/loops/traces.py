"""Traces of our own: every kind of loop and of honest work, with other tools, orders and texts than the labelled cases."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Step:
    """One call with its outcome; or, without a tool, a message of the user."""

    tool: str | None
    args: dict[str, Any]
    result: Any = None
    error: str | None = None
    write: bool = False
    poll: bool = False


Trace = list[Step]


def call(tool: str, result: Any = "ok", /, *, error: str | None = None, write: bool = False, **args: Any) -> Step:
    return Step(tool, args, None if error else result, error, write)


def every(count: int, *steps: Step | Callable[[int], Step]) -> Trace:
    """The steps, `count` times over."""
    return [step(turn) if callable(step) else step for turn in range(count) for step in steps]


def polled(trace: Iterable[Step]) -> Trace:
    return [replace(step, poll=True) for step in trace]


USER = Step(None, {})
_uuid = uuid.UUID(int=0x1234567890ABCDEF1234567890ABCDEF)


def _id(turn: int) -> str:
    return str(uuid.UUID(int=(_uuid.int + turn * 0x9E3779B97F4A7C15F39CC0605CEDC835) % 2**128))


# -- loops: the trace, and the step at which it has to be found at the latest ------------------------------------------------

LOOPS: dict[str, tuple[Trace, int]] = {
    "one call": (every(9, call("get_weather", {"sky": "grey"}, city="Oslo")), 6),
    "one call without arguments": (every(9, call("whoami", "root")), 6),
    "an empty result": (every(9, call("grep", "", pattern="TODO")), 6),
    "None": (every(9, call("next_task", None)), 6),
    "an error by itself": (every(9, call("fetch", error="503 upstream", url="http://a")), 6),
    "a returned error": (every(9, call("fetch", "Error: 503 upstream", url="http://a")), 6),
    "after other work": (
        [*every(6, lambda i: call("read", f"text {i}", path=f"f{i}")), *every(9, call("ls", "a b"))],
        12,
    ),
    "after the user spoke": ([*every(4, call("ls", "a b")), USER, *every(9, call("ls", "a b"))], 10),
    "two in turn": (every(8, call("open", "opened", door=1), call("close", "closed", door=1)), 9),
    "three in turn": (every(8, call("a", 1), call("b", 2), call("c", 3)), 13),
    "four in turn": (every(8, call("a", 1), call("b", 2), call("c", 3), call("d", 4)), 17),
    "five in turn": (every(8, *(call("go", n, to=n) for n in range(5))), 21),
    "a cycle with one call twice": (every(8, call("a", 1), call("a", 1), call("b", 2)), 13),
    "a cycle after work": (
        [*every(3, lambda i: call("read", i, n=i)), *every(8, call("x", "1"), call("y", "2"), call("z", "3"))],
        16,
    ),
    "seven in turn": (every(8, *(call("go", n, to=n) for n in range(7))), 36),
    "one other call after every two": (
        every(9, call("stuck", "s"), call("stuck", "s"), lambda i: call("free", "f", n=i % 2)),
        14,
    ),
    "another call each time, always answered alike": (
        every(14, call("stuck", "s", q="x"), lambda i: call("try", "no", n=i)),
        20,
    ),
    "with thoughts in between": (
        every(14, call("stuck", "s", q="x"), lambda i: call("think", "", thought=f"I see {i}")),
        20,
    ),
    "words in another order": (
        [
            call("search", "none", q=q)
            for q in (
                "big red fox",
                "red fox big",
                "Fox red big",
                "fox big red",
                "red  big fox",
                "fox red  big",
                "big fox red",
                "red big Fox",
            )
        ],
        6,
    ),
    "time stamps": (every(9, lambda i: call("status", f"2026-11-21T07:4{i}:0{i}.12{i}Z worker idle")), 6),
    "a log line with a clock": (
        every(9, lambda i: call("tail", f"Nov 21 07:4{i}:11 host sshd[{700 + i}]: refused")),
        6,
    ),
    "seconds since 1970": (every(9, lambda i: call("status", f"idle since boot, now {1763711000 + i}")), 6),
    "durations": (every(9, lambda i: call("pytest", f"1 failed, 3 passed in {1.2 + i / 10:.2f}s", path="t")), 6),
    "milliseconds": (every(9, lambda i: call("query", {"rows": [], "took_ms": 12 + i}, sql="select")), 6),
    "a camel-cased duration": (every(9, lambda i: call("query", {"rows": [], "elapsedMs": 12 + i}, sql="select")), 6),
    "process ids": (every(9, lambda i: call("start", f"started worker, pid {4000 + 7 * i}", name="w")), 6),
    "process ids in a field": (
        every(9, lambda i: call("start", {"state": "crashed", "pid": 4000 + 7 * i}, name="w")),
        6,
    ),
    "request ids": (every(9, lambda i: call("get", f"404 Not Found (request id: {_id(i)})", path="/x")), 6),
    "request ids with a prefix": (every(9, lambda i: call("get", f"not found [req_{i}8fa3{i}c]", path="/x")), 6),
    "trace ids in a field": (every(9, lambda i: call("get", {"items": [1], "traceId": f"{i}ab{i}ff"}, path="/x")), 6),
    "addresses": (every(9, lambda i: call("show", f"<Conn open at 0x7f3a{i}c0d10{i}0>", n=1)), 6),
    "temporary paths": (every(9, lambda i: call("dump", f"nothing new, wrote /tmp/dump-x{i}k2.txt", n=1)), 6),
    "ports": (every(9, lambda i: call("dial", f"refused by 127.0.0.1:{40000 + 31 * i}", n=1)), 6),
    "volatile JSON text": (
        every(9, lambda i: call("api", f'{{"ok": false, "generated_at": "{1763711000 + i}", "data": []}}')),
        6,
    ),
    "volatile errors": (every(9, lambda i: call("api", error=f"timeout after 30.0{i}s (request_id={_id(i)})", n=1)), 6),
    "a cycle of volatile results": (
        every(8, lambda i: call("a", f"none at 10:11:{10 + i}"), lambda i: call("b", f"fail in {i + 3} ms")),
        9,
    ),
    "a write with a fresh id": (
        every(9, lambda i: Step("create_ticket", {"title": "x"}, {"id": 100 + i, "url": f"/t/{100 + i}"}, write=True)),
        6,
    ),
    "a write with a fresh number": (
        every(9, lambda i: Step("open_issue", {"title": "x"}, f"created issue #{100 + i}", write=True)),
        6,
    ),
    "the same write and its check": (
        every(8, Step("put", {"v": 1}, "done", write=True), call("get", {"v": 1}, key="v")),
        11,
    ),
    "the same error, changing arguments": (every(12, lambda i: call("book", error="no seats left", day=i)), 7),
    "the same error with a thought in between": (
        every(12, lambda i: call("book", error="no seats", day=i), lambda i: call("think", "", thought=str(i))),
        14,
    ),
    "the same error, two ways in turn": (every(9, lambda i: call("book", error="no seats", day=i % 2)), 7),
    "the same returned error": (every(12, lambda i: call("book", "Error: no seats left", day=i)), 7),
    "the same error with volatile text": (
        every(12, lambda i: call("book", error=f"500 (trace id {_id(i)})", day=i)),
        7,
    ),
    "a frozen poll, declared": (polled(every(60, call("job", "running", id=1))), 51),
}

# -- honest work --------------------------------------------------------------------------------------------------------

HONEST: dict[str, Trace] = {
    "five equal calls": every(5, call("ls", "a")),
    "five, the user, five": [*every(5, call("ls", "a")), USER, *every(5, call("ls", "a"))],
    "a poll that moves": every(40, lambda i: call("progress", f"{i}%", job=1)),
    "a poll that moves now and then": every(40, lambda i: call("progress", f"{i // 4} of 10 done", job=1)),
    "a poll in fields": every(40, lambda i: call("job", {"state": "running", "done": i, "total": 40}, id=7)),
    "a poll between two states": every(40, lambda i: call("light", "red" if i % 2 else "green")),
    "a poll and a sleep": every(24, lambda i: call("tail", f"compiled unit{i}"), call("sleep", "", seconds=5)),
    "a sleep that answers": every(
        24, lambda i: call("tail", f"compiled unit{i}"), call("wait", "waited 5 s", seconds=5)
    ),
    "a poll, a sleep and a think": every(
        12, lambda i: call("tail", f"step {i}"), call("sleep", None, s=1), lambda i: call("think", "", t=f"wait {i}")
    ),
    "a poll with a time stamp and progress": every(30, lambda i: call("job", f"10:11:{10 + i} copied {i} files")),
    "the clock": every(12, lambda i: call("date", f"Sat Nov 21 07:47:{10 + i} UTC 2026")),
    "a generator of ids": every(12, lambda i: call("new_id", _id(i))),
    "a queue of ids": every(12, lambda i: call("take", {"request_id": _id(i)})),
    "a page of ids": every(12, lambda i: call("next_page", [_id(3 * i), _id(3 * i + 1)])),
    "a counter": every(20, lambda i: call("count", i)),
    "pages by number": every(45, lambda i: call("list", {"page": i, "items": [i * 2, i * 2 + 1]}, page=i)),
    "pages by cursor": every(45, lambda i: call("list", {"next": f"c{i + 1}"}, cursor=f"c{i}")),
    "pages that end empty": [*every(20, lambda i: call("list", [i], page=i)), *every(3, call("list", [], page=20))],
    "pages without arguments": every(30, lambda i: call("scroll", f"rows {10 * i} to {10 * i + 9}")),
    "click and read": every(24, call("click", "ok", on="next"), lambda i: call("read_page", f"page {i}")),
    "click and read by number": every(16, call("click", "ok", on="next"), lambda i: call("extract", f"page {i}", n=i)),
    "a batch with one acknowledgement": every(45, lambda i: call("mkdir", "ok", path=f"d{i}")),
    "a batch of writes": every(45, lambda i: Step("put", {"k": i}, "stored", write=True)),
    "a batch with a lock": every(
        15, call("lock", "locked"), lambda i: call("work", f"did {i}", n=i), call("unlock", "unlocked")
    ),
    "a batch with some failures": every(
        40, lambda i: call("get", f"v{i}", id=i) if i % 3 else call("get", error="not found", id=i)
    ),
    "a few missing ones": every(5, lambda i: call("get", error="not found", id=i)),
    "errors that change": every(20, lambda i: call("compile", error=f"line {i}: unexpected token")),
    "errors with words in between": every(
        8,
        lambda i: call("run", error=f"missing module m{i}"),
        lambda i: call("install", f"installed m{i}", name=f"m{i}"),
    ),
    "write and check": every(
        20, lambda i: Step("set", {"k": i}, "done", write=True), lambda i: call("get_all", {"n": i + 1})
    ),
    "write and an equal check": every(
        16, lambda i: Step("edit", {"file": f"f{i}"}, "saved", write=True), call("lint", "no problems")
    ),
    "retry until it works": [*every(4, call("connect", error="refused", port=1)), call("connect", "connected", port=1)],
    "read, fix, read": every(
        10,
        lambda i: call("test", f"{10 - i} failed"),
        lambda i: call("edit", "ok", line=i),
        lambda i: call("see", i, n=i),
    ),
    "calls that differ by a number in a text": every(20, lambda i: call("find", "0 rows", q=f"rows with n = {i}")),
    "sums": every(20, lambda i: call("calculate", str(i + 2), expression=f"{i} + 2")),
    "thoughts": every(45, lambda i: call("think", "", thought=f"now step {i}")),
    "a declared poll that stands for long": polled(every(45, call("job", "running", id=1))),
    "content hashes": every(20, lambda i: call("fetch", f"object {(i + 1) * 0x9E3779B97F4A7C15:040x}", ref="main")),
    "order ids": every(20, lambda i: call("next_order", {"order_id": 5000 + i, "state": "new"})),
    "an arrival that comes nearer": every(12, lambda i: call("eta", f"your parcel arrives in {30 - i} minutes")),
    "flight times": every(12, lambda i: call("departure", {"gate": "B2", "departs": f"1{i % 10}:30"}, flight="X")),
    "a price": every(12, lambda i: call("price", {"pair": "EURUSD", "bid": 1.1 + i / 1000}, pair="EURUSD")),
}
