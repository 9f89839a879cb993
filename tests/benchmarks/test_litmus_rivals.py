"""The rivals that the litmus can be told to use."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent_cache.testing.processes.caches import Cache, load_cache

RIVALS = Path(__file__).parents[2] / "benchmarks" / "litmus_rivals.py"


@pytest.mark.parametrize("name", ["aiocache", "cashews", "cashews_lock"])
def test_a_rival_has_all_that_the_litmus_asks_of_a_cache(name: str) -> None:
    rival = load_cache(f"{RIVALS}:{name}")  # the class: making one takes the rival itself
    asked = [*Cache.__annotations__, *(one for one in vars(Cache) if one[0] != "_" and callable(vars(Cache)[one]))]
    assert [one for one in asked if not hasattr(rival, one)] == []
