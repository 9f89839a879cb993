"""Real processes on one backend, with faults: nobody gets a stale answer; and the checker that says so has teeth.

The short form takes seconds per backend; ``pytest -m soak`` makes 50,000 operations and more on each. To see one
again: ``python -m agent_cache.testing.litmus --backend … --server own --faults … --seed N --verbose``.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from agent_cache.testing.litmus import main
from agent_cache.testing.processes import desk
from agent_cache.testing.processes.faults import FAULTS, choose_faults
from agent_cache.testing.processes.runner import Options, Report, run
from agent_cache.testing.processes.shapes import SHAPES

BROKEN = Path(__file__).with_name("broken_caches.py")
REDIS = "kill,stop,client-kill,client-pause,script-flush,flushall,del-tag,evict,restart-empty,restart-old,demote"
WAY = "kill,stall-bus,slow,half-open,partition"
BACKENDS = {
    "disk": ("disk://", "kill,stop,replace-file,old-file,delete-file"),
    "strict": ("redis://", REDIS),
    "lease": ("redis://?coherence=lease", REDIS),
    "strict through proxies": ("redis://", WAY),
    "lease through proxies": ("redis://?coherence=lease", WAY),
    "cluster": ("redis+cluster://", "kill,stop,client-kill,script-flush,flushall,del-tag,restart-empty"),
}
SHORT = ("disk", "strict", "lease through proxies", "cluster")
SOAKED = ("disk://", "redis://", "redis://?coherence=lease", "redis+cluster://", "redis+sentinel://")


def _run(backend: str, seconds: float, faults: str = "", **more: object) -> Report:
    options = {"cache": "agent_cache", "seed": 1, **more}
    return run(Options(backend, seconds=seconds, own=True, faults=tuple(filter(None, faults.split(","))), **options))  # type: ignore[arg-type]


def _right(report: Report) -> None:
    assert report.ok, str(report)


# ------------------------------------------------------------------------------------------------------ agent_cache


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in SHORT else pytest.mark.soak) for name in BACKENDS]
)
def test_processes_and_faults(name: str) -> None:
    url, faults = BACKENDS[name]
    report = _run(url, 2, faults, every=0.2)
    _right(report)
    assert report.operations > 300, str(report)
    assert sum(report.faults.values()) >= 2, str(report)


@pytest.mark.usefixtures("warm_workers")
@pytest.mark.parametrize(
    "name", ["lease", *(pytest.param(name, marks=pytest.mark.soak) for name in ("disk", "strict"))]
)
def test_quiet_processes_and_hits(name: str) -> None:
    report = _run(BACKENDS[name][0], 2, mix="read-mostly")
    _right(report)
    assert report.hit_ratio is not None
    assert report.hit_ratio >= 0.75
    assert report.storms == 5
    assert report.excess == 0


@pytest.mark.soak
@pytest.mark.parametrize("backend", SOAKED)
@pytest.mark.parametrize("faults", ["", "all"])
def test_many_operations(backend: str, faults: str) -> None:
    report = _run(backend, 300, faults, operations=60_000, seed=11)
    _right(report)
    assert report.operations >= 50_000, str(report)


SHAPED: dict[str, dict[str, object]] = {
    "told": {"writes": "told"},
    **{shape: {"cache": f"agent_cache+{shape}"} for shape in SHAPES},
    "depends_on, stale": {"cache": "agent_cache+depends_on+all"},
    "nested, stale": {"cache": "agent_cache+nested+all"},
}


@pytest.mark.parametrize("shape", ["told", "nested", "lineage"])
def test_every_shape_of_calls(shape: str) -> None:
    report = _run("disk://", 1, "stop", processes=2, every=0.2, mix="adversarial", **SHAPED[shape])
    _right(report)
    assert report.operations > 50, str(report)
    assert report.writes_ended["no effect"], str(report)


@pytest.mark.soak
@pytest.mark.parametrize("seed", [21, 22])
@pytest.mark.parametrize("backend", SOAKED[:4])
@pytest.mark.parametrize("shape", SHAPED)
def test_every_shape_of_calls_for_long(shape: str, backend: str, seed: int) -> None:
    report = _run(backend, 300, "all", operations=21_000, every=0.2, **{**SHAPED[shape], "seed": seed})
    _right(report)
    assert report.operations >= 20_000, str(report)


# ------------------------------------------------------------------------------------------------------------ teeth


@pytest.mark.usefixtures("warm_workers")
@pytest.mark.parametrize(
    ("cache", "broken", "how"),
    [
        ("SaysNothingWasChanged", "C1", {}),
        pytest.param("NarrowsToAnother", "C1", {"writes": "told"}, marks=pytest.mark.soak),
        ("ForgetsWhatIsInside", "C1", {}),
        ("DeletesBefore", "C1", {}),
        ("ForgetsLinks", "C1", {}),
        pytest.param("ForgetsLinks", "P3", {}, marks=pytest.mark.soak),
        ("ForgetsWhereItBegan", "P3", {}),
    ],
)
def test_what_each_shape_can_do_wrong_is_caught(cache: str, broken: str, how: dict[str, object]) -> None:
    report = _run("disk://", 1, cache=f"{BROKEN}:{cache}", processes=2, mix="adversarial", **how)
    assert report.broken[broken], str(report)


@pytest.mark.usefixtures("warm_workers")
@pytest.mark.parametrize(
    ("backend", "cache"),
    [
        ("disk://", "after"),
        pytest.param("redis://", "before", marks=pytest.mark.soak),
        pytest.param("redis://", "get+set", marks=pytest.mark.soak),
    ],
)
def test_naive_caches_are_caught(backend: str, cache: str) -> None:
    report = _run(backend, 1, cache=cache, mix="adversarial")
    assert report.violations > 20, str(report)
    assert {"C1", "C2"} <= set(report.broken), str(report)
    assert report.excess > 50
    assert not report.spurious, str(report)


@pytest.mark.usefixtures("warm_workers")
def test_invalidation_on_success_only_is_caught() -> None:
    report = _run("redis://", 1.5, cache=f"{BROKEN}:OnSuccessOnly", mix="adversarial")
    assert report.broken["C4"], str(report)


@pytest.mark.usefixtures("warm_workers")
def test_another_ones_answer_is_caught() -> None:
    report = _run("disk://", 1, cache=f"{BROKEN}:OneForAll", processes=2, mix="adversarial")
    assert report.broken["P3"], str(report)


@pytest.mark.usefixtures("warm_workers")
def test_calls_that_never_end_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "HANG", 1.0)
    monkeypatch.setattr("agent_cache.testing.processes.runner.HANG", 1.0)
    report = _run("disk://", 1, cache=f"{BROKEN}:Sleepy", processes=2)
    assert report.hangs, str(report)


@pytest.mark.usefixtures("warm_workers")
def test_no_cache_is_right_and_does_not_cache() -> None:
    report = _run("disk://", 1, cache="never", processes=2)
    assert (report.violations, report.spurious, report.hangs, report.stuck) == (0, 0, 0, 0), str(report)
    assert report.hit_ratio is not None
    assert report.hit_ratio < 0.1
    assert not report.ok


# ------------------------------------------------------------------------------------------------------ command line


@pytest.mark.usefixtures("warm_workers")
def test_the_command_exits_with_1_for_violations(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--backend", "redis://", "--server", "own", "--processes", "2", "--seconds", "1", "--cache", "before"]
    assert main(arguments) == 1
    assert re.search(r"violations [1-9]\d* \(", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--backend", "http://x"], "scheme"),
        (["--backend", "redis://"], "give a host"),
        (["--backend", "disk://"], "give a path"),
        (["--backend", "disk:///tmp/x?near=0"], "?near=0"),
        (["--backend", "redis://x", "--faults", "nonsense"], "nonsense"),
        (["--backend", "disk:///tmp/x", "--faults", "flushall"], "does not fit"),
        (["--backend", "redis://x", "--faults", "restart-old"], "needs --server own"),
        (["--backend", "redis://x", "--cache", "nonsense"], "nonsense"),
        (["--backend", "redis://x", "--cache", "no_such_file.py:x"], "no_such_file"),
        (["--backend", "redis://x", "--mix", "nonsense"], "nonsense"),
        (["--backend", "redis://x", "--processes", "0"], "--processes"),
        (["--backend", "redis://x", "--writes", "nonsense"], "--writes"),
        (["--backend", "redis://x", "--cache", "before", "--reads", "nested"], "nested"),
        (["--backend", "redis://x", "--cache", "agent_cache+nonsense"], "nonsense"),
        (["--backend", "redis://x", "--reads", "keys", "--freshness", "ttl"], "--reads keys"),
        (["--backend", "redis://x", "--reads", "functions", "--freshness", "ttl"], "--reads functions"),
    ],
)
def test_nonsense_exits_with_2(arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert why in capsys.readouterr().err


def test_all_is_what_fits() -> None:
    everything = {
        f.name for kind in ("disk", "redis", "cluster", "sentinel") for f in choose_faults(["all"], kind, own=True)
    }
    assert everything == set(FAULTS)
    assert not {f.name for f in choose_faults(["all"], "redis", own=False)} & {
        "restart-old",
        "restart-empty",
        "failover",
    }


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_behind(how: signal.Signals) -> None:
    command = [sys.executable, "-m", "agent_cache.testing.litmus", "--backend", "disk://", "--server", "own"]
    command += ["--processes", "2", "--seconds", "60", "--cache", "never", "--faults", "stop", "--verbose"]
    # who runs the tests in the background of a shell has SIGINT ignored, and would hand that down
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    with started as litmus:
        assert litmus.stdout is not None
        workers = [int(re.findall(r"process (\d+)", litmus.stdout.readline())[0]) for _ in range(2)]
        litmus.stdout.readline()  # the first fault
        litmus.send_signal(how)
        litmus.communicate(timeout=20)
    patience = threading.Event()
    for _ in range(100):
        if not any(map(_alive, workers)):
            break
        patience.wait(0.1)
    assert not any(map(_alive, workers))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
