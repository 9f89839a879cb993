"""Prometheus: what a scrape gives, and a dashboard that asks for nothing else."""

from __future__ import annotations

import gc
import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from agent_cache import configure, get_metrics
from agent_cache.context import ROOT
from agent_cache.metrics import FIELDS
from agent_cache_telemetry.figures import OUTCOMES, TABLE
from agent_cache_telemetry.prometheus import AgentCacheCollector, DurationHistogram
from tests.telemetry.conftest import add_to_cart, get_cart

DASHBOARD = Path(__file__).parents[2] / "docs" / "grafana" / "agent_cache.json"


@pytest.fixture
def registry() -> CollectorRegistry:
    made = CollectorRegistry()
    made.register(AgentCacheCollector())
    return made


def scraped(registry: CollectorRegistry) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value for family in families for sample in family.samples
    }


async def test_a_scrape_has_the_figures(registry: CollectorRegistry) -> None:
    await get_cart("secret-user")
    await get_cart("secret-user")
    await add_to_cart("secret-user", "lamp")
    await get_cart("secret-user")
    gc.collect()  # backends of other tests go with their entries, and not between the two counts below
    found = scraped(registry)
    assert found["agent_cache_calls_total", "cart", "hit"] == 1
    assert found["agent_cache_calls_total", "cart", "miss"] == 2
    assert found["agent_cache_stale_total", "cart"] == 1
    assert found["agent_cache_invalidations_total", "cart"] == 1
    assert found["agent_cache_saved_cost_total", "cart"] == 2
    assert found["agent_cache_saved_time_seconds_total", "cart"] > 0
    assert found["agent_cache_entries",] == get_metrics()["entries"] >= 1
    assert found["agent_cache_size_bytes",] > 0
    await get_cart("secret-user")
    assert scraped(registry)["agent_cache_calls_total", "cart", "hit"] == 2


async def test_nothing_of_a_call_is_in_it(registry: CollectorRegistry) -> None:
    await get_cart("secret-user")
    text = generate_latest(registry).decode()
    assert "secret" not in text
    assert "tent" not in text
    assert get_cart.cache_key("secret-user").digest not in text


async def test_a_scrape_leaves_the_fast_path_alone(registry: CollectorRegistry) -> None:
    await get_cart("secret-user")
    await get_cart("secret-user")
    generate_latest(registry)
    logged = len(ROOT.log)
    await get_cart("secret-user")
    assert len(ROOT.log) == logged + 1  # answered by the stand-in itself


async def test_what_was_verified_has_its_interval(registry: CollectorRegistry, monkeypatch: Any) -> None:
    await get_cart("secret-user")
    assert not [name for name in scraped(registry) if name[0] == "agent_cache_wrong_rate"]
    ROOT.count("cart", "verified", 4)
    ROOT.count("cart", "wrong", 1)
    found = scraped(registry)
    assert found["agent_cache_wrong_rate", "cart"] == 0.25
    assert found["agent_cache_wrong_low", "cart"] < 0.25 < found["agent_cache_wrong_high", "cart"]


async def test_durations_need_an_observer() -> None:
    registry = CollectorRegistry()
    configure(observers=[DurationHistogram(registry, buckets=(0.1, 1))])
    await get_cart("secret-user")
    await get_cart("secret-user")
    found = scraped(registry)
    assert found["agent_cache_call_duration_seconds_count", "get_cart", "hit"] == 1
    assert found["agent_cache_call_duration_seconds_count", "get_cart", "miss"] == 1


def test_the_names_of_tools_are_bounded() -> None:
    histogram = DurationHistogram(CollectorRegistry())
    assert [histogram._known(f"tool{n}") for n in range(200)] == [f"tool{n}" for n in range(200)]
    assert histogram._known("one more") == "(other)"
    assert histogram._known("tool7") == "tool7"


def test_two_collectors_in_one_registry_are_refused(registry: CollectorRegistry) -> None:
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(AgentCacheCollector())


def test_every_figure_is_one_that_the_library_counts() -> None:
    fields = {figure.field for figure in TABLE} | set(OUTCOMES)
    known = {*FIELDS, "seconds_saved", "cost_saved", "rate", "low", "high", "entries", "bytes", ""}
    assert fields <= known
    assert len({figure.name for figure in TABLE}) == len(TABLE)
    assert all(figure.labels in {(), ("resource",), ("resource", "outcome"), ("reason",)} for figure in TABLE)


# -- the dashboard -------------------------------------------------------------------------------------------------------


def _queries(board: dict[str, Any]) -> list[str]:
    found = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return found + [each["query"] for each in board["templating"]["list"] if each["type"] == "query"]


async def test_the_dashboard_asks_for_what_there_is(registry: CollectorRegistry) -> None:
    board = json.loads(DASHBOARD.read_text())
    await get_cart("secret-user")
    ROOT.count("cart", "verified")
    ROOT.count("cart", "bypasses", reason="no_cache")
    there = {name[0] for name in scraped(registry)}
    labels = {"resource", "outcome", "reason"}
    asked: set[str] = set()
    for query in _queries(board):
        asked |= set(re.findall(r"\bagent_cache_\w+", query))
        assert set(re.findall(r"(\w+)=~?\"", query)) <= labels
        assert query.count("(") == query.count(")")
        assert query.count("{") == query.count("}")
    assert len(asked) > 10
    assert asked <= there


def test_the_dashboard_can_be_imported() -> None:
    board = json.loads(DASHBOARD.read_text())
    assert board["title"] == "agent_cache"
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["targets"]
        assert panel["datasource"]["uid"] == "${datasource}"
