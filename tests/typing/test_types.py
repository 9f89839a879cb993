"""The types users see, as two checkers see them, and the signatures as `inspect` sees them."""

from __future__ import annotations

import asyncio
import inspect
import json
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from agent_cache import AgentCache, AgentCacheInvalidator

HERE = Path(__file__).parent
CASES = sorted((HERE / "cases").glob("*.py"))


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *command], cwd=HERE, capture_output=True, text=True, check=False)


def test_mypy_agrees_with_the_cases() -> None:
    done = _run("mypy", "--config-file", "mypy.ini", "--no-error-summary", *(str(case) for case in CASES))
    assert done.returncode == 0, f"\n{done.stdout}{done.stderr}"


def test_pyright_agrees_with_the_cases() -> None:
    done = _run("basedpyright", "--project", "pyrightconfig.json", "--pythonpath", sys.executable, "--outputjson")
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    found = [
        f"{Path(item['file']).name}:{item['range']['start']['line'] + 1}: {item['message']} [{item.get('rule')}]"
        for item in report["generalDiagnostics"]
        if item["severity"] in {"error", "warning"}
    ]
    assert not found, "\n" + "\n".join(found)
    assert report["summary"]["filesAnalyzed"] >= len(CASES)


# --- at run time ------------------------------------------------------------------------------------------------------


async def plain_async(user_id: str, limit: int = 10, *, currency: str = "EUR") -> list[str]:
    """Look a thing up."""
    return [user_id, str(limit), currency]


def plain_sync(user_id: str, limit: int = 10, *, currency: str = "EUR") -> list[str]:
    """Look a thing up."""
    return [user_id, str(limit), currency]


@pytest.fixture(params=[AgentCache, AgentCacheInvalidator], ids=["read", "write"])
def decorate(request: pytest.FixtureRequest) -> typing.Any:
    return request.param("thing:{user_id}")


@pytest.mark.parametrize("tool", [plain_async, plain_sync])
def test_a_decorated_tool_looks_like_the_tool(decorate: typing.Any, tool: typing.Any) -> None:
    decorated = decorate(tool)
    assert inspect.signature(decorated) == inspect.signature(tool)
    assert typing.get_type_hints(decorated) == typing.get_type_hints(tool)
    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        assert getattr(decorated, name) == getattr(tool, name), name
    assert inspect.unwrap(decorated) is tool
    assert callable(decorated)
    assert inspect.getdoc(decorated) == "Look a thing up."


@pytest.mark.parametrize("tool", [plain_async, plain_sync])
def test_a_decorated_tool_is_async_exactly_when_the_tool_is(decorate: typing.Any, tool: typing.Any) -> None:
    decorated = decorate(tool)
    assert inspect.iscoroutinefunction(decorated) is inspect.iscoroutinefunction(tool)
    # Frameworks ask this way too, deprecated as it is.
    assert asyncio.coroutines.iscoroutinefunction(decorated) is (tool is plain_async)
    assert inspect.isasyncgenfunction(decorated) is False


class Shop:
    @AgentCache("stock:{sku}", skip_args=1)
    async def stock(self, sku: str) -> list[str]:
        """How many are left."""
        return [sku]

    @AgentCache("name:{sku}", ignore=("self",))
    def name(self, sku: str) -> str:
        """What it is called."""
        return sku.upper()

    @staticmethod
    @AgentCache("rate:{pair}")
    async def rate(pair: str) -> float:
        return float(len(pair))


async def test_methods_bind() -> None:
    shop = Shop()
    assert list(inspect.signature(shop.stock).parameters) == ["sku"]
    assert list(inspect.signature(shop.name).parameters) == ["sku"]
    assert list(inspect.signature(Shop.stock).parameters) == ["self", "sku"]
    assert inspect.iscoroutinefunction(shop.stock)
    assert not inspect.iscoroutinefunction(shop.name)
    assert shop.stock.__name__ == "stock"
    assert inspect.getdoc(shop.stock) == "How many are left."
    assert await shop.stock("a") == ["a"]
    assert await Shop.stock(shop, "a") == ["a"]
    assert shop.name("a") == "A"
    assert await Shop.rate("EURUSD") == 6.0
    assert await shop.rate("EURUSD") == 6.0


async def test_bound_methods_have_the_attributes() -> None:
    shop = Shop()
    await shop.stock.invalidate_all()
    assert shop.stock.cache_key("a") == shop.stock.cache_key(sku="a")
    assert shop.stock.cache_key("a") != shop.stock.cache_key("b")
    assert not await shop.stock.explain("a")
    await shop.stock("a")
    assert await shop.stock.explain("a")
    await shop.stock.invalidate("a")
    assert not await shop.stock.explain("a")
    # The function itself: the object it is called on comes first.
    assert await shop.stock.uncached(shop, "a") == ["a"]
    assert not await shop.stock.explain("a")
    await shop.stock.invalidate_all()


@pytest.mark.parametrize("name", ["cache_key", "invalidate", "invalidate_all", "uncached", "explain"])
@pytest.mark.parametrize("tool", [plain_async, plain_sync])
def test_a_decorated_read_has_the_attributes(tool: typing.Any, name: str) -> None:
    assert callable(getattr(AgentCache("thing:{user_id}")(tool), name))
