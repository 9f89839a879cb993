"""Every expression of the dashboard against what a scrape really has: names, labels, kinds; and the form Grafana imports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from agent_cache.context import ROOT
from agent_cache_telemetry.prometheus import AgentCacheCollector
from tests.telemetry.conftest import get_cart

BOARD: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "docs" / "grafana" / "agent_cache.json").read_text(encoding="utf-8")
)
METRIC = r"agent_cache_\w+"
SELECTOR = re.compile(rf"({METRIC})(?:\{{([^}}]*)\}})?(\[[^\]]*\])?")
MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')
CALLED = re.compile(r"([a-z_]+)\s*(?:by\s*\(([^)]*)\)\s*)?\(")
AGGREGATIONS = {"sum", "max", "topk"}
OVER_TIME = {"rate", "increase"}
VARIABLES = {"resource", "__rate_interval", "__range"}
UNITS = {"percentunit", "s", "short", "cps", "ops", "reqps", "bytes", "decbytes", "none", None}


@dataclass(frozen=True)
class Query:
    """One target of a panel."""

    panel: str
    expression: str
    legend: str

    def __str__(self) -> str:
        return f"{self.panel}: {self.legend}"

    @property
    def selectors(self) -> list[tuple[str, dict[str, str], str | None]]:
        return [(name, {m[0]: m[2] for m in MATCHER.findall(said)}, over or None) for name, said, over in
                SELECTOR.findall(self.expression)]  # fmt: skip

    @property
    def grouped(self) -> set[str]:
        """The labels its series have beside those that every aggregation drops; of a plain selector, its own."""
        by = {label.strip() for _, labels in CALLED.findall(self.expression) for label in labels.split(",") if labels}
        return by if any(name in AGGREGATIONS for name, _ in CALLED.findall(self.expression)) else {"resource"}


QUERIES = [Query(p["title"], t["expr"], t["legendFormat"]) for p in BOARD["panels"] for t in p["targets"]]


@dataclass(frozen=True)
class Scraped:
    """A metric as it is exported."""

    kind: str
    labels: frozenset[str]


@pytest.fixture
async def scraped() -> dict[str, Scraped]:
    registry = CollectorRegistry()
    registry.register(AgentCacheCollector())
    await get_cart("secret-user")
    ROOT.count("cart", "verified")
    ROOT.count("cart", "bypasses", reason="no_cache")
    families = list(text_string_to_metric_families(generate_latest(registry).decode()))
    return {
        sample.name: Scraped(family.type, frozenset(sample.labels)) for family in families for sample in family.samples
    }


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_it_asks_for_metrics_and_labels_that_are_exported(query: Query, scraped: dict[str, Scraped]) -> None:
    assert query.selectors
    for name, matchers, _ in query.selectors:
        assert name in scraped, name
        assert set(matchers) <= scraped[name].labels, name
        assert query.grouped <= scraped[name].labels or query.grouped == set(), name


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_counters_are_asked_for_their_growth_and_gauges_for_what_they_are(
    query: Query, scraped: dict[str, Scraped]
) -> None:
    for name, _, over in query.selectors:
        is_counter = scraped[name].kind == "counter"
        assert is_counter == name.endswith("_total")
        assert is_counter == (over is not None), f"{name} is a {scraped[name].kind}"
    ranges = len([over for _, _, over in query.selectors if over])
    assert len([name for name, _ in CALLED.findall(query.expression) if name in OVER_TIME]) == ranges


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_it_is_put_together_as_it_should_be(query: Query, scraped: dict[str, Scraped]) -> None:
    for opened, closed in ("()", "{}", "[]"):
        assert query.expression.count(opened) == query.expression.count(closed)
    used = set(re.findall(r"\$(\w+)", query.expression))
    assert used <= VARIABLES
    for name, matchers, _ in query.selectors:  # the choice of resources holds for all that has the label
        assert ("resource" in scraped[name].labels) == (matchers.get("resource") == "$resource"), name
    names = {name for name, _ in CALLED.findall(re.sub(r'"[^"]*"|\{[^}]*\}', "", query.expression))}
    assert names <= AGGREGATIONS | OVER_TIME | {"by"}
    assert set(re.findall(r"\{\{(\w+)\}\}", query.legend)) <= query.grouped


async def test_it_asks_for_outcomes_that_there_are(scraped: dict[str, Scraped]) -> None:
    registry = CollectorRegistry()
    registry.register(AgentCacheCollector())
    await get_cart("secret-user")
    calls = [f for f in text_string_to_metric_families(generate_latest(registry).decode()) if "calls" in f.name]
    there = {sample.labels["outcome"] for family in calls for sample in family.samples}
    asked = {v for q in QUERIES for _, m, _ in q.selectors if "outcome" in m for v in m["outcome"].split("|")}
    assert asked == {"hit", "miss"} <= there


def test_the_variables_ask_for_what_is_exported(scraped: dict[str, Scraped]) -> None:
    kinds = {each["name"]: each["type"] for each in BOARD["templating"]["list"]}
    assert kinds == {"datasource": "datasource", "resource": "query"}
    (query,) = [each["query"] for each in BOARD["templating"]["list"] if each["type"] == "query"]
    found = re.fullmatch(r"label_values\((\w+), (\w+)\)", query)
    assert found is not None
    assert found[2] in scraped[found[1]].labels


def _objects(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from _objects(value)
    elif isinstance(node, list):
        for value in node:
            yield from _objects(value)


def test_it_has_the_form_of_a_classic_dashboard() -> None:
    """The fields that Grafana's documentation of the classic JSON model names, and what its panels are made of."""
    assert {"uid", "title", "tags", "timezone", "editable", "panels", "time", "templating", "annotations", "refresh",
            "schemaVersion", "version", "links"} <= BOARD.keys()  # fmt: skip
    assert re.fullmatch(r"[\w-]{8,40}", BOARD["uid"])
    assert set(BOARD["time"]) == {"from", "to"}
    assert "id" not in BOARD  # that of somebody's database
    for panel in BOARD["panels"]:
        assert panel["type"] in {"stat", "timeseries"}
        assert panel["fieldConfig"].keys() == {"defaults", "overrides"}
        assert panel["fieldConfig"]["defaults"].get("unit") in UNITS
        assert panel["gridPos"].keys() == {"x", "y", "w", "h"}
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs)
        if panel["type"] == "stat":
            assert panel["options"]["reduceOptions"]["calcs"] == ["lastNotNull"]
    sources = [each["datasource"] for each in _objects(BOARD) if "datasource" in each]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)


def test_these_checks_see_what_is_wrong(scraped: dict[str, Scraped]) -> None:
    wrong = Query("", 'sum by (tool) (rate(agent_cache_calls_total{tool="x"}[5m]))', "{{tool}}")
    with pytest.raises(AssertionError):
        test_it_asks_for_metrics_and_labels_that_are_exported(wrong, scraped)
    for expression in (
        "agent_cache_calls_total",
        "rate(agent_cache_entries[5m])",
        "rate(agent_cache_nothing_total[5m])",
    ):
        with pytest.raises((AssertionError, KeyError)):
            test_counters_are_asked_for_their_growth_and_gauges_for_what_they_are(Query("", expression, ""), scraped)
