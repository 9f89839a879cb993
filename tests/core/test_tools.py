"""A decorated tool is the tool: every form of it, every spelling of a call, a value of one's own."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest

from agent_cache import AgentCache, AgentCacheInvalidator, CacheKey, ConfigurationError, get_metrics


def _forms() -> list[Any]:
    async def one(a: int, b: str = "x", *, c: float = 1.0) -> dict[str, int]:
        """Reads one."""
        return {}

    def two(a: int, /, b: int = 2, *rest: int, c: int, **more: int) -> list[int]:
        """Reads two."""
        return []

    def bare():  # type: ignore[no-untyped-def]
        return 1

    return [one, two, bare]


@pytest.mark.parametrize("decorate", [AgentCache("x"), AgentCacheInvalidator("x")], ids=["read", "write"])
@pytest.mark.parametrize("tool", _forms(), ids=lambda tool: tool.__name__)
def test_it_looks_like_the_tool_itself(decorate: Any, tool: Any) -> None:
    made = decorate(tool)
    assert inspect.signature(made) == inspect.signature(tool)
    assert inspect.signature(made, follow_wrapped=False).parameters == inspect.signature(tool).parameters
    assert inspect.iscoroutinefunction(made) is inspect.iscoroutinefunction(tool)
    assert inspect.isfunction(made)
    for name in (
        "__name__",
        "__qualname__",
        "__module__",
        "__doc__",
        "__annotations__",
        "__defaults__",
        "__kwdefaults__",
    ):
        assert getattr(made, name) == getattr(tool, name)
    assert made.__wrapped__ is tool


async def test_an_async_tool_runs_once() -> None:
    runs = []

    @AgentCache("x")
    async def get(n: int) -> int:
        runs.append(n)
        return n

    assert [await get(n) for n in (1, 1, 2, 1)] == [1, 1, 2, 1]
    assert runs == [1, 2]


def test_a_def_tool_runs_once_and_its_attributes_are_plain_calls() -> None:
    runs = []

    @AgentCache("x")
    def get(n: int) -> int:
        runs.append(n)
        return n

    assert get(1) == get(1) == 1
    assert get.explain(1).status == "hit"
    get.invalidate(1)
    assert get.explain(1).status == "stale"
    assert get(1) == 1
    get.invalidate_all()
    assert get.uncached(1) == get(1) == 1
    assert runs == [1, 1, 1, 1]


def test_every_spelling_of_a_call_is_one_call() -> None:
    runs = []

    @AgentCache("x")
    def get(a: int, b: int = 2, *, c: int = 3) -> int:
        runs.append((a, b, c))
        return a

    for args, kwargs in (
        ((1,), {}), ((1, 2), {}), ((), {"a": 1}), ((), {"b": 2, "a": 1}), ((1,), {"c": 3}), ((1,), {"c": 3, "b": 2}),
    ):  # fmt: skip
        assert get(*args, **kwargs) == 1
        assert get.cache_key(*args, **kwargs) == get.cache_key(1)
    assert runs == [(1, 2, 3)]


def test_variadic_and_positional_only_arguments() -> None:
    runs = []

    @AgentCache("x")
    def get(a: int, /, *rest: Any, k: int = 0, **more: Any) -> str:
        runs.append((a, rest, k, more))
        return repr((a, rest, k, sorted(more.items())))

    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((1,), {}), ((1, 2), {}), ((1, (2,)), {}), ((1, 2, 3), {}), ((1,), {"k": 2}), ((1,), {"a": 2}),
        ((1,), {"rest": 2}), ((1,), {"x": 1, "y": 2}), ((1,), {"more": {"x": 1}}),
    ]  # fmt: skip
    for _ in range(3):
        for args, kwargs in calls:
            assert get(*args, **kwargs) == get.uncached(*args, **kwargs)
    assert get(1, y=2, x=1) == get(1, x=1, y=2)
    assert len(runs) - 3 * len(calls) == len(calls)


def test_calls_of_different_types_are_different_calls() -> None:
    runs = []

    @AgentCache("x")
    def get(value: Any) -> str:
        runs.append(value)
        return repr(value)

    values = [1, True, 1.0, "1", None, "", 0, False, 0.0, -0.0, [1], (1,), {"a": 1}, b"1", {1}, frozenset({1})]
    for _ in range(3):
        for value in values:
            assert get(value) == repr(value)
    assert len(runs) == len(values)


def test_annotated_parameters_keep_types_apart() -> None:
    @AgentCache("x")
    def get(value: int) -> str:
        return repr(value)

    for _ in range(3):
        assert [get(v) for v in (1, True, 1.0)] == ["1", "True", "1.0"]  # type: ignore[arg-type]


def test_mappings_are_equal_by_content() -> None:
    @AgentCache("x")
    def get(value: dict[str, int]) -> int:
        return len(value)

    assert get.cache_key({"a": 1, "b": 2}) == get.cache_key({"b": 2, "a": 1})
    assert get.cache_key({"a": 1}) != get.cache_key({"a": 2})


@pytest.mark.parametrize(
    "name", ["_v", "_r", "_e", "_s", "_l", "x_v", "len", "type", "tool", "_ac_", "_ac_view", "values"]
)
def test_any_parameter_name_is_taken(name: str) -> None:
    scope: dict[str, Any] = {}
    also = "_e" if name == "_s" else "_s"
    exec(f"def get({name}, {also}=None):\n    return [{name}]", scope)  # noqa: S102 - our own source
    get = AgentCache("x")(scope["get"])
    for _ in range(3):
        assert get(5) == [5]
    assert get_metrics()["hits"] == 2


@pytest.mark.parametrize("decorate", [AgentCache("x"), AgentCacheInvalidator("x")], ids=["read", "write"])
def test_a_lambda_is_a_tool(decorate: Any) -> None:
    made = decorate(lambda n: [n])
    assert made(1) == made(1) == [1]
    assert made.__name__ == "<lambda>"


async def test_methods_share_or_keep_apart_their_objects() -> None:
    runs = []

    class Shop:
        def __init__(self, name: str) -> None:
            self.name = name

        def __agent_cache_key__(self) -> str:
            return self.name

        @AgentCache("shared", skip_args=1)
        async def shared(self, n: int) -> str:
            runs.append(self.name)
            return f"{self.name}{n}"

        @AgentCache("also", ignore=("self",))
        async def also(self, n: int) -> int:
            return n

        @AgentCache("own:{n}")
        async def own(self, n: int) -> str:
            return f"{self.name}{n}"

        @classmethod
        @AgentCache("cls", ignore="cls")
        async def of_class(cls, n: int) -> int:
            return n

        @staticmethod
        @AgentCache("static")
        async def static(n: int) -> int:
            return n

        @AgentCacheInvalidator("own:{n}")
        async def put(self, n: int) -> str:
            return self.name

    a, b = Shop("a"), Shop("b")
    for _ in range(2):
        assert await a.shared(1) == await b.shared(1) == "a1"
        assert (await a.own(1), await b.own(1)) == ("a1", "b1")
        assert await a.also(2) == await Shop.of_class(2) == await a.static(2) == 2
    assert runs == ["a"]
    assert await a.put(1) == "a"
    assert not await a.own.explain(a, 1)
    assert await Shop("a").shared.explain(1)
    await a.shared.invalidate(1)
    assert await b.shared(1) == "b1"
    assert str(inspect.signature(a.shared)) == "(n: 'int') -> 'str'"


async def test_skip_args_and_ignore_leave_arguments_out() -> None:
    @AgentCache("x", skip_args=1, ignore=("trace",))
    async def get(ctx: object, n: int, trace: object = None) -> int:
        return n

    assert await get(object(), 1) == await get(object(), 1, trace=object()) == 1
    assert get.cache_key(None, 1) != get.cache_key(None, 2)
    assert get_metrics()["misses"] == 1


def test_a_cache_key_shows_no_argument() -> None:
    @AgentCache("x")
    def get(card: str) -> int:
        return 1

    @AgentCache("x")
    def other(card: str) -> int:
        return 1

    key = get.cache_key("4111-1111")
    assert isinstance(key, CacheKey)
    assert key == get.cache_key(card="4111-1111")
    assert key != other.cache_key("4111-1111")
    assert "4111" not in repr(key) + str(key)
    assert len({key, get.cache_key("4111-1111")}) == 1


@dataclasses.dataclass
class Line:
    name: str
    tags: list[str]


@pytest.mark.parametrize(
    "value",
    [[1, [2]], {"a": {"b": [1]}}, {1, 2}, (1, [2]), Line("x", ["y"]), b"x", None, 1.0, True, "x", 10**30, {1: "x"}],
)
async def test_a_hit_equals_a_miss(value: Any) -> None:
    @AgentCache("x")
    async def get() -> Any:
        return value

    @AgentCache("x")
    async def line() -> Line:
        return Line("x", ["y"])

    read: Any = line if isinstance(value, Line) else get
    first, second, third = await read(), await read(), await read()
    assert first == second == third == value
    assert type(first) is type(second) is type(third) is type(value)
    assert get_metrics()["hits"] == 2


async def test_changing_a_result_changes_nothing_for_anyone() -> None:
    inside = {"items": [1]}

    @AgentCache("x")
    async def get() -> dict[str, list[int]]:
        return inside

    for _ in range(4):
        got = await get()
        assert got == {"items": [1]}
        if got is not inside:
            got["items"].append(2)
    inside["items"].append(3)
    assert await get() == {"items": [1]}


async def test_an_unkeyable_argument_is_named_counted_and_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    runs = []

    @AgentCache("x")
    async def get(client: object, n: int) -> int:
        runs.append(n)
        return n

    for _ in range(3):
        assert await get(object(), 1) == 1
    assert runs == [1, 1, 1]
    metrics = get_metrics()
    assert metrics["bypasses"] == metrics["reasons"]["unkeyable_argument"] == 3
    (record,) = [r for r in caplog.records if "unkeyable" in r.getMessage()]
    assert "client" in record.getMessage()
    assert "ignore" in record.getMessage()
    assert "client" in (await get.explain(object(), 1)).reason


async def test_an_unstorable_result_is_returned_counted_and_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    @AgentCache("x")
    async def get() -> Any:
        return iter([1])

    for _ in range(3):
        assert list(await get()) == [1]
    metrics = get_metrics()
    assert metrics["unstorable"] == metrics["misses"] == 3
    (record,) = [r for r in caplog.records if "not stored" in r.getMessage()]
    assert "stream: list_iterator" in record.getMessage()
    assert "give a list" in record.getMessage()  # what to do about it


def test_a_parameter_may_be_called_what_python_allows() -> None:
    names: dict[str, Any] = {}
    # the way of a module of theirs; Python keeps the ligature's name as "file", and so may the template
    exec("def read(größe: int, नाम: str, \ufb01le: object) -> int: return größe", names)  # noqa: S102
    read = AgentCache(["konto:{größe}", "name:{नाम}", "file:{\ufb01le.größe}"])(names["read"])
    file = Account()
    assert (read(1, "a", file), read(1, "a", file)) == (1, 1)
    assert {"any(konto:1)", "any(name:a)", "any(file:7)"} <= set(read.explain(1, "a", file).tags)
    with pytest.raises(ConfigurationError, match="is not a placeholder"):
        AgentCache("konto:{1größe}")(names["read"])


class Account:
    def __init__(self) -> None:
        vars(self)["größe"] = 7

    def __agent_cache_key__(self) -> int:
        return 1


async def test_the_attributes_say_whose_arguments_are_missing() -> None:
    class Shop:
        def __agent_cache_key__(self) -> int:
            return 1

        @AgentCache("price:{sku}")
        async def price(self, sku: str) -> int:
            return 1

    for attribute in (Shop().price.explain, Shop().price.invalidate):  # self belongs to the key: it is asked for too
        with pytest.raises(TypeError, match=r"Shop\.price\(\) missing 1 required positional argument: 'sku'"):
            await attribute("tent")
