"""Programs that start at once: forked from an interpreter that has imported what many of them begin with.

A test that starts a program of ours many times pays for the imports each time, and frameworks take a second and more.
Here one process imports them, and each program is a fork of it, with the arguments, folder, environment and the three
streams of a small process that stands in for it: signals to that one are passed on, it ends as the program ended, and
if it is killed, so is the program. What a program's own start is about (the console script, what is imported when) is
for a test with an interpreter of its own.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys

# What is only for one side is imported there: the stand-in is to cost as little as it can.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from types import FrameType
    from typing import NoReturn

# ------------------------------------------------------------------------------------------------------- in the tests


class Warm:
    """The process that has imported ``names``, those of them that there are, and forks."""

    def __init__(self, folder: Path, *names: str) -> None:
        import subprocess

        self._path = str(folder / "warm")
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, "serve", self._path, *names],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def command(self, *arguments: str, imports: Iterable[str] = ()) -> list[str]:
        """In place of ``[sys.executable, *arguments]``: a script or ``-m module``, and its arguments.

        ``imports`` are imported before the fork too, if they can be.
        """
        return [sys.executable, "-I", "-S", __file__, "run", self._path, ",".join(imports), *arguments]

    def close(self) -> None:
        """Ends it, and what still runs."""
        self._process.communicate(timeout=60)


# ------------------------------------------------------------------------------------------------------- the stand-in


def stand_in(path: str, imports: str, arguments: list[str]) -> None:
    """Have the program run, and end as it ends."""
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(path)
        asked = {"arguments": arguments, "folder": os.getcwd(), "environment": {**os.environ}, "imports": imports}  # noqa: PTH109 - pathlib would cost it most of its time
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        told = json.dumps(asked).encode() + b"\n"
        sent = socket.send_fds(line, [told], [0, 1, 2])
        line.sendall(told[sent:])
        answers = line.makefile("r")
        pid = int(answers.readline())

        def pass_on(number: int, frame: FrameType | None) -> None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, pass_on)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        code = int(answers.readline())
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


# ------------------------------------------------------------------------------------------------- the one that forks


def _import(names: Iterable[str]) -> None:
    import threading

    for name in names:
        with contextlib.suppress(ImportError):  # not there, or the program will say it
            importlib.import_module(name)
    assert threading.active_count() == 1, "a thread of an import would not be there after a fork"
    gc.freeze()  # no fork's collector looks through, and thereby copies, what all share


def serve(path: str, names: list[str]) -> None:
    """Fork for each that asks, until stdin ends."""
    _import(["runpy", *names])
    ended, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    programs: dict[int, socket.socket] = {}
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(100)
        print("ready", flush=True)
        while True:
            ready, _, _ = select.select([0, ended, listening, *programs.values()], [], [])
            if ended in ready:
                os.read(ended, 100)
                _tell_who_ended(programs)
            for pid, line in list(programs.items()):
                if line in ready and _is_over(line):  # who stood in for it is gone
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    programs.pop(pid).close()
            if 0 in ready:
                for pid in programs:
                    os.kill(pid, signal.SIGKILL)
                return
            if listening in ready:
                line, _ = listening.accept()
                asked, streams = _receive(line)
                _import(filter(None, str(asked["imports"]).split(",")))
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    for each in (line, *programs.values()):
                        each.close()
                    os.close(ended)
                    os.close(wakes)
                    _become(asked, streams)
                    _run_and_end(asked)
                for stream in streams:
                    os.close(stream)
                programs[pid] = line
                line.sendall(b"%d\n" % pid)


def _tell_who_ended(programs: dict[int, socket.socket]) -> None:
    while programs:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with programs.pop(pid) as line, contextlib.suppress(OSError):
            line.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def _is_over(line: socket.socket) -> bool:
    try:
        return not line.recv(1)
    except ConnectionResetError:
        return True


def _receive(line: socket.socket) -> tuple[dict[str, object], list[int]]:
    told, streams, _, _ = socket.recv_fds(line, 1 << 16, 3)
    while not told.endswith(b"\n"):
        told += line.recv(1 << 16)
    return json.loads(told), streams


def _become(asked: dict[str, object], streams: list[int]) -> None:
    os.setsid()
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
        os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = (open(number, mode) for number, mode in enumerate("rww"))  # noqa: SIM115, PTH123
    sys.stderr.reconfigure(errors="backslashreplace", line_buffering=True)  # type: ignore[attr-defined]
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]
    os.chdir(str(asked["folder"]))
    os.environ.clear()
    os.environ.update(asked["environment"])  # type: ignore[call-overload]


def run(asked: dict[str, object]) -> None:
    """What the interpreter does with its arguments."""
    import runpy

    arguments = list(asked["arguments"])  # type: ignore[call-overload]
    if arguments[0] == "-m":
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, os.path.dirname(os.path.abspath(arguments[0])))  # noqa: PTH100, PTH120
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


def _run_and_end(asked: dict[str, object]) -> NoReturn:
    """Ends as the interpreter does, but takes apart only what the program made: all that was imported takes half a second.

    Threads are waited for, exit handlers run, what nobody awaited or closed is found, the streams are flushed.
    """
    import atexit
    import threading
    import traceback

    shared = set(sys.modules)
    code: object = 0
    try:
        run(asked)
    except SystemExit as ended:
        code = ended.code
        if code is not None and not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:  # noqa: BLE001 - the end of a program
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for name in set(sys.modules) - shared:
        del sys.modules[name]
    gc.collect()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            traceback.print_exc()
            code = 120
    os._exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    if sys.argv[1] == "run":
        stand_in(sys.argv[2], sys.argv[3], sys.argv[4:])
    else:
        serve(sys.argv[2], sys.argv[3:])
