"""All benchmarks in one command: a table, a JSON file, charts, and the section of the README that shows them.

    python benchmarks/suite.py [--quick] [--out FOLDER] [--parts PART ...] [--readme FILE]

Runs the other scripts one after the other, each in a process of its own, and puts their figures together: `bench.json` has
everything, `bench.svg` and `scale.svg` the charts, `bench.md` the scoreboard. With `--readme` the scoreboard replaces what
stands between the markers in that file. How a figure is measured is said in the script it comes from and in README.md
here. Nothing passes or fails, but a part that cannot run at all.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PARTS: dict[str, Callable[[bool, Path], list[str]]] = {
    "hit": lambda quick, file: ["hit.py", "--json", str(file), *(["--quick"] if quick else [])],
    "backends": lambda quick, file: ["backends.py", "--json", str(file), *(["--quick"] if quick else [])],
    "eviction": lambda quick, file: ["eviction.py", "--json", str(file), *(["--quick"] if quick else [])],
    "scale": lambda quick, file: ["scale.py", "--json", str(file), *(["--quick"] if quick else [])],
}
QUICKLY: dict[str, list[str]] = {
    "hit": ["--only", "hit", "json", "miss", "crowd"],
    "backends": ["--only", "disk_hit", "redis_serial", "redis_50", "--rounds", "2"],
    "scale": ["--only", "entries", "tags", "payload"],
}
"""What `--quick` leaves of a part, so that all of it takes less than two minutes."""
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


# ------------------------------------------------------------------ the scoreboard


@dataclass(frozen=True)
class Line:
    """One line of the scoreboard: which rows of which case stand for us and for the others."""

    what: str
    goal: str
    part: str
    section: str
    case: str
    ours: str
    baseline: str
    more_is_better: bool = False


LINES = (
    Line("hit, small arguments, everything on", "≤ 2.5", "hit", "hit", "near hit, small", "scope=session, entity tag", "FLOOR"),
    Line("hit, nested JSON argument", "≤ 5.5", "hit", "json", "near hit, nested", "scope=session", "FLOOR"),
    Line("a value of one's own, 200 B", "≥ 4 plain, ≥ 9 with a library", "hit", "own", "mutable result of 200 B", "agent_cache", "deepcopy", True),
    Line("a value of one's own, 10 KB", "≥ 4 plain, ≥ 9 with a library", "hit", "own", "mutable result of 10 KB", "agent_cache", "deepcopy", True),
    Line("a value of one's own, 1 MB", "≥ 4 plain, ≥ 9 with a library", "hit", "own", "mutable result of 1 MB", "agent_cache", "deepcopy", True),
    Line("a miss of a trivial tool", "≤ 0.4", "hit", "miss", "miss overhead", "scope=session", "cachebox"),
    Line("callers on one cold key", "≤ 2, 1 load", "hit", "crowd", "immutable", "scope=session", "one Task"),
    Line("the same, a 1 KB JSON result", "≤ 2, 1 load", "hit", "crowd", "1 KB JSON", "scope=session", "one Task"),
    Line("bytes per entry", "≤ 2.5", "hit", "bytes", "bytes per entry", "scope=session", "cachebox"),
    Line("disk hit, memory before the file", "≤ 1.2", "backends", "disk_hit", "", "decorated, memory before disk", "bare SELECT"),
    Line("disk hit, `DiskBackend` alone", "≤ 1.2", "backends", "disk_hit", "", "decorated, DiskBackend", "bare SELECT"),
    Line("disk fill, as the caller sees it", "≤ 0.25", "backends", "disk_fill", "fill of 1 KB", "DiskBackend.fill", "a bare commit"),
    Line("event-loop lag p99, 20 tasks fill disk, 200 a second", "≤ 4", "backends", "disk_fill", "of 100 ms on select", "decorated, DiskBackend", "idle"),
    Line("the same on a loop with timers of 1 ms (epoll)", "≤ 4", "backends", "disk_fill", "of 100 ms on epoll, sleeps of any", "decorated, DiskBackend", "idle"),
    Line("that of sleeps of whole milliseconds (on epoll punctual while idle)", "≤ 4", "backends", "disk_fill", "of 100 ms on epoll, sleeps of whole", "decorated, DiskBackend", "idle"),
    Line("event-loop lag p99, 20 tasks fill disk, all the loop can do", "≤ 4", "backends", "disk_fill", "of 10 ms on select", "decorated, DiskBackend", "idle"),
    Line("the same on epoll", "≤ 4", "backends", "disk_fill", "of 10 ms on epoll, sleeps of any", "decorated, DiskBackend", "idle"),
    Line("that of sleeps of whole milliseconds", "≤ 4", "backends", "disk_fill", "of 10 ms on epoll, sleeps of whole", "decorated, DiskBackend", "idle"),
    Line("Redis read, serial, strict", "≤ 1.5", "backends", "redis_serial", "", "decorated, RedisBackend", "redis-py GET"),
    Line("lease-mode near hit", "≤ 1.2", "backends", "redis_serial", "near hit in lease", "near tier, lease", "a memory hit"),
    Line("Redis reads per second, 50 tasks, one hot key", "≥ 4", "backends", "redis_50", "hot", "decorated", "redis-py GET", True),
    Line("Redis reads per second, 50 tasks, 500 keys", "≥ 4", "backends", "redis_50", "500", "decorated", "redis-py GET", True),
    Line("invalidating a tag of 1,000,000 entries", "≤ 2", "backends", "redis_invalidate", "invalidate a tag", "1,000,000 entries", "one of 10"),
)  # fmt: skip


def fitting(line: Line, rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows of the first case that fits and was measured for us."""
    mine = [row for row in rows if row["section"] == line.section and line.case in row["case"] and row.get("ratio")]
    for case in dict.fromkeys(row["case"] for row in mine):
        of_case = [row for row in mine if row["case"] == case]
        if any(line.ours in row["name"] for row in of_case):
            return of_case
    return []


def is_ours(row: Mapping[str, Any]) -> bool:
    return any(name in row["name"] for name in ("agent_cache", "decorated", "DiskBackend", "RedisBackend", "Tiered"))


def figure(ratio: Mapping[str, float]) -> str:
    return f"{ratio['median']:,.2f}" if ratio["median"] < 10 else f"{ratio['median']:,.0f}"


def scoreboard(parts: Mapping[str, Any]) -> list[dict[str, str]]:
    """The lines that were measured: ours with its spread, and each rival with what it leaves out."""
    board = []
    for line in LINES:
        rows = fitting(line, parts.get(line.part, {}).get("rows", ()))
        ours = next((row for row in rows if line.ours in row["name"]), None)
        if ours is None:
            continue
        if line.ours.endswith(" entries"):  # the same job of the same size
            rows = [row for row in rows if line.ours in row["name"]]
        others = [
            f"{row['name']} {figure(row['ratio'])}" + (f" ({row['leaves_out']})" if row.get("leaves_out") else "")
            for row in rows
            if not is_ours(row) and not row["ratio"]["median"] == row["ratio"]["low"] == row["ratio"]["high"] == 1
        ]
        board.append(
            {
                "what": line.what,
                "case": ours["case"],
                "unit": f"\u00d7 {line.baseline}" + (", more is better" if line.more_is_better else ""),
                "goal": line.goal,
                "ours": figure(ours["ratio"]),
                "spread": f"{ours['ratio']['low']:,.2f} to {ours['ratio']['high']:,.2f}",
                "others": "; ".join(others),
            }
        )
    return board


def markdown(document: Mapping[str, Any]) -> str:
    about = document["environment"]
    how = "`make bench`" + (", a quick look" if document["quick"] else "")
    where = f"CPython {about['python']}, {about['system']}, {about['cpus']} shared cores"
    lines = [
        f"{document['date']}, {where}, agent_cache {about['agent_cache']}; medians of interleaved rounds, as ratios ({how}).",
        "",
        "| | goal | agent_cache | middle half | rivals (and what they leave out) |",
        "|---|---|---|---|---|",
    ]
    for row in document["scoreboard"]:
        lines.append(
            f"| {row['what']}, {row['unit']} | {row['goal']} | **{row['ours']}** | {row['spread']} | {row['others']} |"
        )
    return "\n".join(lines) + "\n"


# ------------------------------------------------------------------ charts


def charts(document: Mapping[str, Any], folder: Path) -> bool:
    """Bars for the comparisons in the process and on the stores; False without matplotlib."""
    try:
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot as plt
        from matplotlib.ticker import NullFormatter
    except ImportError:
        return False
    panels = []
    for line in LINES:
        rows = fitting(line, document["parts"].get(line.part, {}).get("rows", ()))
        ours = next((row for row in rows if line.ours in row["name"]), None)
        if ours is None:
            continue
        if line.ours.endswith(" entries"):  # as in the scoreboard
            rows = [row for row in rows if line.ours in row["name"]]
        shown = [ours, *(row for row in rows if not is_ours(row))]
        panels.append((line, [(row["name"].split(",")[0], row["ratio"]["median"]) for row in shown]))
    if not panels:
        return True
    columns = 3
    height = -(-len(panels) // columns)
    figure_, axes = plt.subplots(height, columns, figsize=(15, 2.3 * height), squeeze=False)
    for at, axis in enumerate(axes.flat):
        if at >= len(panels):
            axis.axis("off")
            continue
        line, bars = panels[at]
        names = ["agent_cache", *(name for name, _ in bars[1:])]
        values = [value for _, value in bars]
        axis.barh(range(len(bars)), values, color=["#1f6f54", *["#b9c0c7"] * (len(bars) - 1)])
        axis.set_yticks(range(len(bars)), names, fontsize=8)
        axis.invert_yaxis()
        axis.set_xscale("log")
        axis.set_title(
            f"{line.what}\n\u00d7 {line.baseline}{' (more is better)' if line.more_is_better else ''}", fontsize=9
        )
        for position, value in enumerate(values):
            axis.text(value, position, f" {value:,.2g}" if value < 10 else f" {value:,.0f}", va="center", fontsize=8)
        axis.margins(x=0.25)
        axis.xaxis.set_minor_formatter(NullFormatter())
    about = document["environment"]
    figure_.suptitle(f"agent_cache, {document['date']}, CPython {about['python']}, {about['system']}", fontsize=10)
    figure_.tight_layout()
    mpl.rcParams["svg.hashsalt"] = "agent_cache"  # the same figures give the same file
    figure_.savefig(folder / "bench.svg", metadata={"Date": None})
    plt.close(figure_)
    if "scale" in document["parts"]:
        import scale

        points = [scale.Point(**point) for point in document["parts"]["scale"]["points"]]
        scale.chart(points, str(folder / "scale.svg"))
    return True


# ------------------------------------------------------------------ running


def run(part: str, quick: bool) -> dict[str, Any]:
    """One part's figures; ``failed`` says what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.json"
        script, *arguments = PARTS[part](quick, file)
        command = [sys.executable, str(HERE / script), *arguments, *(QUICKLY.get(part, []) if quick else [])]
        print(f"== {part}: {script} {' '.join(arguments[2:])}", file=sys.stderr)
        done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        if not file.exists():
            return {"failed": f"exit code {done.returncode}"}
        found: dict[str, Any] = json.loads(file.read_text("utf-8"))
        return found


def environment(parts: Mapping[str, Any]) -> dict[str, str]:
    about: dict[str, str] = {}
    for part in parts.values():
        about |= {k: v for k, v in part.get("environment", {}).items() if k not in about}
    about.setdefault("python", platform.python_version())
    about.setdefault("system", f"{platform.system()} {platform.machine()}")
    about.setdefault("cpus", str(os.cpu_count()))
    about.setdefault("agent_cache", "?")
    return about


def into_readme(text: str, readme: Path) -> None:
    whole = readme.read_text("utf-8")
    if BEGIN not in whole or END not in whole:
        raise SystemExit(f"--readme {readme}: it has no lines {BEGIN} and {END}")
    head, rest = whole.split(BEGIN, 1)
    tail = rest.split(END, 1)[1]
    readme.write_text(f"{head}{BEGIN}\n{text}{END}{tail}", "utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="All benchmarks: table, JSON, charts.")
    parser.add_argument("--quick", action="store_true", help="a look in under two minutes, not a measurement")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where the files go (default: nowhere)")
    parser.add_argument("--readme", type=Path, metavar="FILE", help="put the scoreboard between the markers in FILE")
    parser.add_argument(
        "--from", dest="source", type=Path, metavar="FILE", help="an earlier bench.json, not measured anew"
    )
    options = parser.parse_args(argv)
    if options.source:
        document = json.loads(options.source.read_text("utf-8"))
    else:
        parts = {part: run(part, options.quick) for part in options.parts}
        date = dt.datetime.now(tz=dt.UTC).date().isoformat()
        document = {"date": date, "quick": options.quick, "environment": environment(parts), "parts": parts}
    document["scoreboard"] = scoreboard(document["parts"])
    text = markdown(document)
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "bench.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")
        (options.out / "bench.md").write_text(text, "utf-8")
        if not charts(document, options.out):
            print("no charts: matplotlib is missing (pip install matplotlib)", file=sys.stderr)
    if options.readme:
        into_readme(text, options.readme)
    failed = {part: found["failed"] for part, found in document["parts"].items() if "failed" in found}
    if failed:
        print(f"could not run: {failed}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
