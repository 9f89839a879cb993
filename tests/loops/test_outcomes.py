"""When two outcomes are the same one."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_cache.loops import Outcome, is_error_result
from agent_cache.loops.outcomes import masked

UUID_A, UUID_B = str(uuid.UUID(int=7)), str(uuid.UUID(int=8 << 64))

SAME = [
    ("done at 2026-11-21T07:47:41Z", "done at 2026-11-21T07:48:02Z"),
    ("done at 2026-11-21 07:47:41.123 +0100", "done at 2026-11-22 07:48:02.001 +0100"),
    ("Sat Nov 21 07:47:41 UTC 2026 all quiet", "Sun Nov 22 09:01:00 UTC 2026 all quiet"),
    ("Date: Sat, 21 Nov 2026 07:47:41 GMT, empty", "Date: Sun, 22 Nov 2026 07:00:00 GMT, empty"),
    ("[07:47:41] nothing", "[07:47:55] nothing"),
    ("epoch 1763711000 none", "epoch 1763711999 none"),
    ("epoch 1763711000123 none", "epoch 1763711999456 none"),
    (f"no such thing ({UUID_A})", f"no such thing ({UUID_B})"),
    ("<Thing at 0x7f3a1c0d10>", "<Thing at 0x7f3a1c0e55>"),
    ("exited in 12 ms", "exited in 7 ms"),
    ("1 failed in 0.12s", "1 failed in 0.34s"),
    ("real 0m1.203s ok", "real 0m0.978s ok"),
    ("timed out after 30 seconds", "timed out after 31 seconds"),
    ("no output, waited 5s", "no output, waited 9s"),
    ("worker pid 4242 crashed", "worker pid 4243 crashed"),
    ("process 812 gone", "process 3111 gone"),
    ("sshd[311]: closed", "sshd[312]: closed"),
    ("request id: 8f3a2 failed", "request id: 91bc0 failed"),
    ("Request-Id=abc1 failed", "Request-Id=def2 failed"),
    ("failed [req_8fa3k1]", "failed [req_1c9d22]"),
    ("nothing in /tmp/run-x1/out", "nothing in /tmp/run-k9/out"),
    ("refused by localhost:43122", "refused by localhost:51933"),
    ('{"rows": [], "took_ms": 3}', '{"rows": [], "took_ms": 5}'),
    ('{"rows": [], "tookMs": 3}', '{"rows": [], "tookMs": 5}'),
    ('{"ok": true, "requestId": "a1"}', '{"ok": true, "requestId": "zz"}'),
    ('{"ok": true, "created_at": "yesterday"}', '{"ok": true, "created_at": "today 1"}'),
    ('{"text": "{\\"pid\\": 17, \\"out\\": \\"x\\"}"}', '{"text": "{\\"pid\\": 18, \\"out\\": \\"x\\"}"}'),
    ("{'state': 'idle', 'elapsed': 1.5}", "{'state': 'idle', 'elapsed': 2.5}"),
]

DIFFERENT = [
    ("10%", "20%"),
    ("3 of 10", "4 of 10"),
    ("page 1", "page 2"),
    ("rows 0-9", "rows 10-19"),
    ("version 1.2.3", "version 1.2.4"),
    ("due 2026-11-21", "due 2026-11-22"),
    ("order 5001", "order 5002"),
    ('{"order_id": 1, "state": "new"}', '{"order_id": 2, "state": "new"}'),
    ('{"id": "a1", "state": "new"}', '{"id": "a2", "state": "new"}'),
    ("commit 3f2a1bc", "commit 9d8e7f6"),
    ("sha256 " + "a1" * 32, "sha256 " + "b2" * 32),
    ("arrives in 12 minutes", "arrives in 11 minutes"),
    ("at gate 12:30", "at gate 12:45"),
    ("price 1.23", "price 1.24"),
    ("item-1 of the list", "item-2 of the list"),
    ("unit0 compiled", "unit1 compiled"),
    ("5 files", "6 files"),
    ("$10.50", "$11.50"),
    # nothing but what is volatile: it is the result
    ("2026-11-21T07:47:41Z", "2026-11-21T07:48:41Z"),
    ("1763711000", "1763711001"),
    (UUID_A, UUID_B),
    (f'["{UUID_A}"]', f'["{UUID_B}"]'),
    (f'{{"ids": ["{UUID_A}"]}}', f'{{"ids": ["{UUID_B}"]}}'),
    ('{"request_id": "a1"}', '{"request_id": "a2"}'),
]


def outcome(text: str, **rest: Any) -> Outcome:
    return Outcome(text, text, **rest)


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_but_for_what_tells_of_the_run(one: str, other: str) -> None:
    assert outcome(one).same_as(outcome(other))


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_what_may_be_the_result_is_not_masked(one: str, other: str) -> None:
    assert not outcome(one).same_as(outcome(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"id": 17}', '{"id": 18}'),
        ('{"ticket": {"ticketId": "T-1", "url": "/t/1"}}', '{"ticket": {"ticketId": "T-2", "url": "/t/2"}}'),
        ("created issue #17", "created issue #18"),
        (UUID_A, UUID_B),
    ],
)
def test_a_write_makes_a_fresh_id_each_time(one: str, other: str) -> None:
    assert outcome(one, write=True).same_as(outcome(other, write=True))
    assert not outcome(one).same_as(outcome(other))


def test_an_error_is_not_a_result() -> None:
    assert not outcome("down 1").same_as(Outcome(("error", 1), error="down 1"))
    assert Outcome(1, error=f"down ({UUID_A})").same_as(Outcome(2, error=f"down ({UUID_B})"))


def test_what_cannot_be_told_is_like_nothing() -> None:
    assert not Outcome(None).same_as(Outcome(None))


def test_without_a_sample_outcomes_are_compared_exactly() -> None:
    assert not Outcome(1).same_as(Outcome(2))
    assert Outcome(1).same_as(Outcome(1))


def test_a_sample_that_cannot_be_taken_is_none() -> None:
    def broken() -> object:
        raise ValueError("changed its mind")

    assert not Outcome(1, broken).same_as(Outcome(2, broken))
    assert Outcome(1, broken).shown() is None


def test_the_sample_is_read_only_when_outcomes_differ() -> None:
    def never() -> object:
        raise AssertionError("was read")

    assert Outcome(1, never).same_as(Outcome(1, never))


def test_a_value_is_masked_as_its_json() -> None:
    one, other = ({"rows": [], "took_ms": n} for n in (1, 2))
    assert Outcome(1, lambda: one).same_as(Outcome(2, lambda: other))


def test_of_a_long_text_the_ends_are_masked() -> None:
    body = "x" * 20_000
    one, other = f"took 1.5s\n{body}\nat 07:47:41", f"took 2.5s\n{body}\nat 07:48:00"
    assert masked(one) == masked(other)
    assert masked(one) != masked(f"{one[:-10]}y{one[-9:]}")


@given(st.text(alphabet="abc123 \"\\':={}[],.-_/#:", max_size=300))
def test_any_text_is_like_itself(text: str) -> None:
    assert masked(text) == masked(text)
    assert masked(text, write=True) == masked(text, write=True)


@given(st.dictionaries(st.sampled_from(["state", "count", "name"]), st.integers() | st.text(max_size=8), min_size=1))
def test_only_what_tells_of_the_run_is_masked(fields: dict[str, Any]) -> None:
    texts = [json.dumps({**fields, "elapsed_ms": n, "timestamp": 1763711000 + n, "left": True}) for n in (1, 2)]
    assert masked(texts[0]) == masked(texts[1])
    other = json.dumps({**fields, "elapsed_ms": 1, "timestamp": 1763711001, "left": True, "more": 1})
    assert masked(texts[0]) != masked(other)


@pytest.mark.parametrize(
    "value", ["Error: no", "error", "  ERROR 5", "Traceback (most recent call last)", "Exception: x"]
)
def test_texts_that_are_errors(value: str) -> None:
    assert is_error_result(value)


@pytest.mark.parametrize(
    "value", ["errors: 0", "no error", "Erroneous", "", None, 5, {"error": None}, {"error": ""}, []]
)
def test_values_that_are_none(value: object) -> None:
    assert not is_error_result(value)


@pytest.mark.parametrize("value", [{"error": "no"}, {"isError": True}, {"is_error": True, "text": "x"}])
def test_mappings_that_are_errors(value: object) -> None:
    assert is_error_result(value)
