"""The stand-in of a warm program (warm.py) is to its starter what the program would be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def program(warm: Any, tmp_path: Path) -> Any:
    """Starts a program of these lines."""

    def start(*lines: str, **options: Any) -> subprocess.Popen[str]:
        script = tmp_path / "program.py"
        script.write_text("\n".join(lines), encoding="utf-8")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(warm.command(str(script), "a", "b"), text=True, cwd=tmp_path, **pipes, **options)

    return start


def test_streams_arguments_folder_and_environment(program: Any, tmp_path: Path) -> None:
    lines = ["import os, sys", "print(sys.argv[1:], os.getcwd(), os.environ['X'], 'PATH' in os.environ)"]
    lines += ["print(sys.stdin.read(), file=sys.stderr)"]
    with program(*lines, env={"X": "1"}) as started:
        assert started.communicate("in", timeout=60) == (f"['a', 'b'] {tmp_path} 1 False\n", "in\n")
    assert started.returncode == 0


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("sys.exit(3)", 3),
        ("os._exit(4)", 4),
        ("1 / 0", 1),
        ("sys.exit('why')", 1),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("os.abort()", -signal.SIGABRT),
    ],
)
def test_it_ends_as_the_program_ends(line: str, code: int, program: Any) -> None:
    with program("import os, signal, sys", line) as started:
        started.communicate(timeout=60)
    assert started.returncode == code


def test_a_signal_is_passed_on(program: Any) -> None:
    lines = ["import signal, sys", "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))"]
    with program(*lines, "print('up', flush=True)", "signal.pause()") as started:
        assert started.stdout.readline() == "up\n"
        started.terminate()
        started.communicate(timeout=60)
    assert started.returncode == 7


def test_who_kills_the_stand_in_kills_the_program(program: Any) -> None:
    with program("import signal", "print('up', flush=True)", "signal.pause()") as started:
        assert started.stdout.readline() == "up\n"
        started.kill()
        assert started.communicate(timeout=60) == ("", "")  # its ends of the pipes are closed: it is gone


def test_only_what_a_program_imports_is_there(program: Any) -> None:
    """Of ours nothing that ``import agent_cache`` does not bring."""
    show = "import agent_cache, sys; print(sorted(name for name in sys.modules if name.startswith('agent_cache')))"
    with program(show) as started:
        warm, _ = started.communicate(timeout=60)
    cold = subprocess.run([sys.executable, "-c", show], env={**os.environ}, capture_output=True, text=True, check=True)
    assert warm == cold.stdout


def test_what_is_done_at_the_end_of_a_program_is_done(program: Any) -> None:
    lines = ["import atexit, threading", "atexit.register(print, 'at exit')", "go_on = threading.Event()"]
    lines += ["threading.Thread(target=lambda: (go_on.wait(), print('thread'))).start()", "async def f(): ..."]
    lines += ["kept = f()", "print('no newline', end=' ')", "threading.Timer(0, go_on.set).start()"]
    with program(*lines) as started:
        out, err = started.communicate(timeout=60)
    assert out == "no newline thread\nat exit\n"
    assert "'f' was never awaited" in err
    assert started.returncode == 0
