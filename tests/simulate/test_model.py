"""The model of a cache, its bounds, the policy's words, the loops and the proposal."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import pytest

from agent_cache import ConfigurationError
from agent_cache.simulate import Options, Report, Rules, simulate, suggest
from agent_cache.simulate.ledger import Versions
from agent_cache.tags import read_tags, write_tags


def _trace(path: Path, lines: Iterable[dict[str, Any]]) -> Path:
    with path.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line) + "\n")
    return path


def _call(tool: str, args: dict[str, Any], result: object, session: str = "s", **more: Any) -> dict[str, Any]:
    return {"session": session, "tool": tool, "args": args, "result": result, **more}


READ, WRITE = ["get_*:user:{id}"], ["set_*:user:{id}"]


def _run(tmp_path: Path, lines: Iterable[dict[str, Any]], rules: Rules | None = None, **options: Any) -> Report:
    return simulate([_trace(tmp_path / "t.jsonl", lines)], rules or Rules.from_flags(READ, WRITE), Options(**options))


def test_hits_misses_and_writes(tmp_path: Path) -> None:
    lines = [
        _call("get_user", {"id": 1}, "a", seconds=0.5),
        _call("get_user", {"id": 1}, "a", seconds=0.5),  # hit
        _call("set_user", {"id": "1", "name": "b"}, "ok", seconds=1),
        _call("get_user", {"id": 1}, "b", seconds=0.5),  # dropped
        _call("get_user", {"id": 1}, "b", "other", seconds=0.25),  # hit, by another session
        _call("set_user", {"id": 2}, "ok", seconds=1),
        _call("get_user", {"id": 1}, "b", seconds=0.5),  # another entity was written
        _call("get_user", {"id": None}, "?", seconds=0.5),
    ]
    report = _run(tmp_path, lines)
    tally = report.tools["get_user"]
    assert (tally.calls, tally.hits, tally.stale, tally.uncached) == (6, 3, 0, 1)
    assert (tally.repeats_within, tally.repeats_across) == (3, 1)
    assert (tally.ttl_hits, tally.ttl_stale, tally.best) == (4, 3, 3)
    assert tally.saved == pytest.approx(1.25)
    assert report.sessions == 2
    assert report.hit_rate == pytest.approx(0.5)


def test_a_write_tagged_too_narrowly_is_seen_as_stale(tmp_path: Path) -> None:
    lines = [_call("get_user", {"id": 1}, "a"), _call("rename", {"id": 1}, "ok"), _call("get_user", {"id": 1}, "b")]
    assert _run(tmp_path, lines).total.stale == 1


def test_ttl_counts_where_the_trace_says_when(tmp_path: Path) -> None:
    lines = [_call("get_user", {"id": 1}, "a", ts=at) for at in (0, 9, 10, 19)]
    assert _run(tmp_path, lines, ttl=10).total.hits == 2
    assert _run(tmp_path, lines).total.hits == 3
    untimed = [_call("get_user", {"id": 1}, "a") for _ in range(3)]
    report = _run(tmp_path, untimed, ttl=10)
    assert report.total.hits == 2
    assert any("ttl is not applied" in note for note in report.notes)


def test_scopes_keep_apart(tmp_path: Path) -> None:
    lines = [
        _call("get_user", {"id": 1}, "a", "s1", identity={"tenant": "acme", "user": "u1"}),
        _call("get_user", {"id": 1}, "a", "s2", identity={"tenant": "acme", "user": "u1"}),
        _call("get_user", {"id": 1}, "a", "s3", identity={"tenant": "acme", "user": "u2"}),
        _call("get_user", {"id": 1}, "a", "s3", identity={"tenant": "other", "user": "u1"}),
        _call("get_user", {"id": 1}, "a", "s3"),
    ]
    for scope, hits, uncached in (("global", 4, 0), ("session", 2, 0), ("tenant", 2, 1), ("user", 1, 1)):
        total = _run(tmp_path, lines, Rules.from_flags(READ, WRITE, scope=scope)).total
        assert (total.hits, total.uncached) == (hits, uncached), scope


def test_errors_that_were_raised_are_not_kept_and_refused_writes_may_drop_nothing(tmp_path: Path) -> None:
    raised = [{"session": "s", "tool": "get_user", "args": {"id": 1}, "error": "down"} for _ in range(3)]
    assert _run(tmp_path, raised).total.hits == 0
    lines = [
        _call("get_user", {"id": 1}, "a"),
        {"tool": "set_user", "args": {"id": 1}, "error": "no"},
        _call("get_user", {"id": 1}, "a"),
    ]
    assert _run(tmp_path, lines).total.hits == 0
    assert _run(tmp_path, lines, Rules.from_flags(READ, WRITE, refused_writes="keep")).total.hits == 1


def test_a_resource_named_by_the_answer(tmp_path: Path) -> None:
    lines = [
        _call("get_user", {"id": 1}, "a"),
        _call("get_user", {"id": 2}, "b"),
        _call("set_mail", {"mail": "m"}, {"id": 1}),
        _call("get_user", {"id": 2}, "b"),
        _call("get_user", {"id": 1}, "c"),
    ]
    total = _run(tmp_path, lines, Rules.from_flags(READ, ["set_*:user:{result.id}"])).total
    assert (total.hits, total.stale) == (1, 0)


def test_loops_are_found_at_the_step_the_detector_says(tmp_path: Path) -> None:
    lines = [_call("get_user", {"id": 1}, "same") for _ in range(9)] + [_call("get_user", {"id": 1}, "x", "honest")]
    report = _run(tmp_path, lines)
    (loop,) = report.loops
    assert (loop.session, loop.step, loop.kind, loop.calls_after) == ("s", 6, "repeat", 4)
    assert report.loop_calls == 4
    assert not _run(tmp_path, lines, detect_loops=False).loops
    assert not _run(tmp_path, lines, max_tool_repeats=20).loops
    at_once = [_call("get_user", {"id": 1}, "same", batch=1) for _ in range(9)]
    assert not _run(tmp_path, at_once).loops


def test_only_sessions_that_come_back_are_said_to_be_interleaved_too_widely(tmp_path: Path) -> None:
    ended = [_call("get_user", {"id": n}, "x", f"s{n}") for n in range(400)]
    assert not any("interleaved" in note for note in _run(tmp_path, ended).notes)
    again = [*ended, _call("get_user", {"id": 1}, "x", "s1")]
    assert any("1 sessions were interleaved" in note for note in _run(tmp_path, again).notes)


def test_past_the_limit_figures_are_estimates_and_say_so(tmp_path: Path) -> None:
    rng = random.Random(7)
    lines = [_call("get_user", {"id": rng.randrange(3_000)}, "same", f"s{n}") for n in range(9_000)]
    exact = _run(tmp_path, lines, limit=100_000, detect_loops=False)
    guess = _run(tmp_path, lines, limit=1_000, detect_loops=False)
    assert exact.sampled == 1
    assert guess.sampled < 0.5
    assert guess.total.hits == pytest.approx(exact.total.hits, rel=0.15)
    assert any("estimates" in note for note in guess.notes)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def peak(calls: int) -> int:
        lines = (_call("get_user" if n % 3 else "set_user", {"id": n}, "x" * 50, f"s{n // 20}") for n in range(calls))
        path = _trace(tmp_path / f"{calls}.jsonl", lines)
        tracemalloc.start()
        simulate([path], Rules.from_flags(READ, WRITE), Options(limit=1_000))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(9_000) < 2 * peak(3_000)


def test_forgotten_tags_drop_what_is_older() -> None:
    versions = Versions(limit=4)
    for number in range(1, 20):
        versions.move(write_tags([("user", str(number))], ()), number)
    assert versions.floor > 0
    assert versions.newest(read_tags([("user", "1")], ())) >= 1


def test_a_proposal_is_judged_by_the_trace(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = []
    names = dict.fromkeys(range(3), "a")
    rng = random.Random(3)
    for n in range(300):
        who = rng.randrange(3)
        if n % 10 == 9:
            names[who] = f"name{n}"
            lines.append(_call("update_user", {"user_id": who, "name": names[who]}, "ok"))
        elif n % 10 in (5, 6):
            lines.append(_call("get_weather", {"city": "Rome"}, f"sunny {n}"))
        elif n % 10 == 3:
            lines.append(_call("rename_all", {"suffix": "x"}, "ok"))
            names = {who: name + "x" for who, name in names.items()}
        else:
            lines.append(_call("get_user", {"user_id": who}, names[who]))
    found = suggest([_trace(tmp_path / "t.jsonl", lines)])
    by_tool = {each.tool: each for each in found.tools}
    assert (by_tool["get_user"].kind, by_tool["get_user"].resources) == ("read", ("user:{user_id}",))
    assert by_tool["get_user"].sure == "high"
    assert by_tool["update_user"].resources == ("user:{user_id}",)
    assert by_tool["rename_all"].kind == "write"
    assert "user" in by_tool["rename_all"].resources
    assert by_tool["get_weather"].kind == "other"
    assert by_tool["get_weather"].sure == "none"
    assert found.report.total.stale == 0
    assert found.report.total.hits > 50
    path = tmp_path / "policy.toml"
    path.write_text(found.as_toml(), "utf-8")
    again = simulate([tmp_path / "t.jsonl"], Rules.from_toml(path))
    assert (again.total.hits, again.total.stale) == (found.report.total.hits, 0)


@pytest.mark.parametrize(
    ("make", "parameter"),
    [
        (lambda: Rules(drops=cast("Any", "all")), "drops"),
        (lambda: Rules(scope="a b"), "scope"),
        (lambda: Rules(refused_writes=cast("Any", "?")), "refused_writes"),
        (lambda: Rules.from_flags(["get_user"]), "read"),
        (lambda: Rules.from_flags(["x:y"], ["x:y"]), "write"),
        (lambda: Options(ttl=0), "ttl"),
        (lambda: Options(limit=10), "limit"),
    ],
)
def test_bad_input_names_the_parameter(make: Any, parameter: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        make()
    assert raised.value.parameter == parameter
