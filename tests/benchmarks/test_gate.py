"""A near hit does not become much slower unnoticed: its ratio to FLOOR, measured now, beside the one in the committed figures.

Ratios only, each within a round of its own, with a wide margin: machines differ.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
MARGIN = 2.0


def measured(section: str) -> dict[str, dict[str, Any]]:
    command = [sys.executable, str(BENCHMARKS / "hit.py"), "--quick", "--only", section, "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return {row["name"]: row for row in json.loads(done.stdout)["rows"] if row["ratio"]}


def recorded(section: str) -> dict[str, dict[str, Any]]:
    document = json.loads((BENCHMARKS / "results" / "bench.json").read_text("utf-8"))
    rows = document["parts"]["hit"]["rows"]
    return {row["name"]: row for row in rows if row["section"] == section and row["ratio"]}


@pytest.mark.parametrize("section", ["hit", "json"])
def test_a_hit_costs_what_it_did(section: str) -> None:
    before, now = recorded(section), measured(section)
    ours = [name for name in now if name.startswith("agent_cache") and name in before]
    assert ours
    for name in ours:
        bound = before[name]["ratio"]["median"] * MARGIN
        # the lower quartile: what the machine is busy with otherwise makes rounds slower, never faster
        assert now[name]["ratio"]["low"] <= bound, (
            f"{name}: {now[name]['ratio']} x FLOOR, recorded {before[name]['ratio']}"
        )
