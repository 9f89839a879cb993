"""The canonical form: equal values equal, different values different, everything else refused by name."""

from __future__ import annotations

import array
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import gc
import itertools
import math
import os
import pathlib
import random
import struct
import subprocess
import sys
import threading
import time
import types
import unittest.mock
import uuid
import zoneinfo
from typing import Any, NamedTuple

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_cache import canonical
from agent_cache.canonical import MAX_DEPTH, alias, aliasable, encode, encoded
from agent_cache.errors import UnkeyableArgumentError

NAN_WITH_PAYLOAD = struct.unpack(">d", bytes.fromhex("fff8000000000123"))[0]


class Colour(enum.Enum):
    RED = 1
    GREEN = 2
    CRIMSON = 1  # noqa: PIE796 - an alias, on purpose


class Word(enum.StrEnum):
    A = "a"


class Number(enum.IntEnum):
    ONE = 1


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: int
    y: int


class Place(NamedTuple):
    x: int
    y: int


@dataclasses.dataclass
class Order:
    id: int
    note: str = ""


@dataclasses.dataclass
class Invoice:
    id: int
    note: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    id: int


class Query(pydantic.BaseModel):
    text: str = ""
    limit: int = 10
    _hidden: int = pydantic.PrivateAttr(default=0)


class Open(pydantic.BaseModel, extra="allow"):
    text: str = ""


class Site(pydantic.BaseModel):
    url: pydantic.HttpUrl
    token: pydantic.SecretStr
    at: dt.datetime


class Text(str):  # noqa: SLOT000 - with a __dict__, on purpose
    pass


class Count(int):
    pass


class Ratio(float):
    pass


class Rows(list[Any]):
    pass


class Row(dict[Any, Any]):
    pass


class Keyed:
    def __init__(self, key: object) -> None:
        self.key = key

    def __agent_cache_key__(self) -> object:
        return self.key


class KeyedByAttribute:
    def __init__(self, key: object) -> None:
        self.__agent_cache_key__ = key


def hidden(value: int) -> Query:
    query = Query()
    query._hidden = value
    return query


def local_class() -> type:
    class Local(enum.Enum):
        A = 1

    return Local


BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
PARIS = zoneinfo.ZoneInfo("Europe/Paris")
NAIVE = dt.datetime(2026, 10, 25, 2, 30)  # noqa: DTZ001 - naive, on purpose

#: Every two of these differ.
DISTINCT: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    255,
    256,
    2**31,
    2**63 - 1,
    2**63,
    -(2**63),
    -(2**63) - 1,
    2**64,
    10**5000,
    -(10**5000),
    0.0,
    -0.0,
    1.0,
    math.inf,
    -math.inf,
    math.nan,
    5e-324,
    1j,
    0j,
    complex(0.0, -0.0),
    complex(1, 0),
    "",
    "1",
    "True",
    "None",
    "N",
    "i1;",
    "s1:a",
    "a",
    "é",
    "e\u0301",
    "\ud800",
    "\udcff",
    "\ud800\udc00",
    "𐀀",
    "\0",
    "x" * 127,
    "x" * 128,
    "x" * 129,
    b"",
    b"1",
    b"a",
    bytearray(b""),
    bytearray(b"a"),
    Text("a"),
    Text(""),
    Word.A,
    Number.ONE,
    Count(1),
    Ratio(1.0),
    [],
    (),
    {},
    set(),
    frozenset(),
    [[]],
    [()],
    ([],),
    [1],
    (1,),
    [True],
    [1.0],
    ["1"],
    [None],
    [1, 2],
    [[1], 2],
    [[1, 2]],
    [2, 1],
    ["a", "b"],
    ["ab"],
    ["", "ab"],
    ["ab", ""],
    ["as1:b"],
    [[], []],
    [[[]]],
    {1},
    frozenset({1}),
    {True},
    {1.0},
    {"1"},
    {(1,)},
    {frozenset({1})},
    Rows([1]),
    Rows(),
    Row(),
    Row(a=1),
    {"a": 1},
    {"a": True},
    {"a": 1.0},
    {"a": "1"},
    {"a": None},
    {"a": [1]},
    {"a": (1,)},
    {"b": 1},
    {"a": 1, "b": 2},
    {"a": 2, "b": 1},
    {"a": {"b": 2}},
    {1: 1},
    {True: 1},
    {1.0: 1},
    {"1": 1},
    {None: 1},
    {"None": 1},
    {("a",): 1},
    {b"a": 1},
    [("a", 1)],
    [["a", 1]],
    ["a", 1],
    collections.OrderedDict(a=1),
    collections.OrderedDict(a=1, b=2),
    collections.OrderedDict(b=2, a=1),
    collections.defaultdict(list),
    collections.defaultdict(dict),
    collections.defaultdict(None),
    collections.Counter("a"),
    collections.deque([1]),
    collections.deque([1], 5),
    dt.date(2026, 10, 25),
    dt.datetime(2026, 10, 25),  # noqa: DTZ001
    NAIVE,
    NAIVE.replace(fold=1),
    NAIVE.replace(tzinfo=dt.UTC),
    NAIVE.replace(tzinfo=zoneinfo.ZoneInfo("UTC")),
    NAIVE.replace(tzinfo=BERLIN),
    NAIVE.replace(tzinfo=BERLIN, fold=1),
    NAIVE.replace(tzinfo=PARIS),
    NAIVE.replace(tzinfo=dt.timezone(dt.timedelta(hours=2))),
    NAIVE.replace(tzinfo=dt.timezone(dt.timedelta(0), "A")),
    dt.time(2, 30),
    dt.time(2, 30, fold=1),
    dt.time(2, 30, tzinfo=dt.UTC),
    dt.time(2, 30, tzinfo=BERLIN),
    dt.timedelta(0),
    dt.timedelta(1),
    dt.timedelta(microseconds=-1),
    dt.UTC,
    BERLIN,
    decimal.Decimal(1),
    decimal.Decimal("1.0"),
    decimal.Decimal("1.00"),
    decimal.Decimal("-0"),
    decimal.Decimal(0),
    decimal.Decimal("1E+2"),
    decimal.Decimal(100),
    decimal.Decimal("NaN"),
    decimal.Decimal("sNaN"),
    decimal.Decimal("NaN1"),
    decimal.Decimal("Infinity"),
    fractions.Fraction(1),
    fractions.Fraction(1, 2),
    uuid.UUID(int=1),
    uuid.UUID(int=2),
    range(0),
    range(1),
    range(0, 1, 2),
    range(1, 0, -1),
    Colour.RED,
    Colour.GREEN,
    Rights.READ,
    Rights.WRITE,
    Rights(0),
    Rights.READ | Rights.WRITE,
    pathlib.PurePosixPath("a"),
    pathlib.PureWindowsPath("a"),
    pathlib.Path("a"),
    pathlib.PurePosixPath("A"),
    pathlib.PurePosixPath("a/b"),
    Point(1, 2),
    Place(1, 2),
    Point(2, 1),
    (1, 2),
    {"x": 1, "y": 2},
    Order(1),
    Order(2),
    Order(1, "x"),
    Invoice(1),
    Frozen(1),
    {"id": 1, "note": ""},
    Query(),
    Query(limit=10),
    Query(text=""),
    Query(limit=11),
    hidden(1),
    Open(),
    Open.model_validate({"text": "", "more": 1}),
    Keyed(1),
    Keyed("1"),
    Keyed(None),
    Keyed(Keyed(1)),
    KeyedByAttribute(1),
    pydantic.SecretStr("a"),
    pydantic.SecretStr("b"),
    pydantic.SecretBytes(b"a"),
    local_class().A,
    local_class().A,
]


def test_different_values_have_different_forms() -> None:
    forms = [encoded(value) for value in DISTINCT]
    for (one, form), (other, other_form) in itertools.combinations(zip(DISTINCT, forms, strict=True), 2):
        assert form != other_form, (one, other)


def test_no_form_is_the_beginning_of_another() -> None:
    forms = sorted(encoded(value) for value in DISTINCT)
    for one, other in itertools.pairwise(forms):  # sorted: a prefix would stand right before what it begins
        assert not other.startswith(one)


@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: (v,), lambda v: {"k": v}, lambda v: {1: v}, Keyed, Order])
def test_types_count_inside_of_containers(wrap: Any) -> None:
    forms = {encoded(wrap(value)) for value in DISTINCT}
    assert len(forms) == len(DISTINCT)


def test_concatenations_are_injective() -> None:
    pieces = ["", "a", "s1:a", 1, 11, [1], [], (), {}, None, b"i1;", {"a": ""}]
    seen: dict[bytes, tuple[Any, ...]] = {}
    for size in range(4):
        for values in itertools.product(range(len(pieces)), repeat=size):
            out = bytearray()
            for index in values:
                encode(pieces[index], "p", out)
            assert seen.setdefault(bytes(out), values) == values


EQUAL: list[tuple[Any, Any]] = [
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ({1: "x", "1": "y", None: "z"}, {None: "z", "1": "y", 1: "x"}),
    ({"a": {"x": 1, "y": [2]}}, {"a": {"y": [2], "x": 1}}),
    ({"ab", "cd", "ef"}, {"ef", "cd", "ab"}),
    (frozenset(range(1000)), frozenset(reversed(range(1000)))),
    (math.nan, NAN_WITH_PAYLOAD),
    (math.nan, -math.nan),
    ([math.nan], [float("nan")]),
    (complex(math.nan, 1), complex(NAN_WITH_PAYLOAD, 1)),
    (Colour.RED, Colour.CRIMSON),
    (Order(1), Order(id=1, note="")),
    (Query(text="a", limit=1), Query(limit=1, text="a")),
    (fractions.Fraction(1, 2), fractions.Fraction(2, 4)),
    (pathlib.PurePosixPath("a//b/"), pathlib.PurePosixPath("a/b")),
    (Keyed({"a": 1, "b": 2}), Keyed({"b": 2, "a": 1})),
    ("ab", "".join(["a", "b"])),
    (10**400, 10**399 * 10),
    (collections.Counter("aab"), collections.Counter("baa")),
    (NAIVE.replace(tzinfo=BERLIN), NAIVE.replace(tzinfo=zoneinfo.ZoneInfo.no_cache("Europe/Berlin"))),
]


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_equal_values_have_one_form(one: Any, other: Any) -> None:
    assert encoded(one) == encoded(other)


def test_decimal_form_does_not_follow_the_context() -> None:
    value = decimal.Decimal("1E+30")
    with decimal.localcontext() as context:
        context.capitals = 0
        lower = encoded(value)
    assert lower == encoded(value)


# --- generated values -------------------------------------------------------------------------------

#: Random(seed), not st.randoms(): how often it is asked depends on the order of a set, which may vary.
seeded = st.integers(0, 2**32).map(random.Random)

json_atoms = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-2, 2)
    | st.floats()
    | st.sampled_from([0.0, -0.0, 1.0])
    | st.text(st.characters(codec=None), max_size=5)
    | st.sampled_from(["", "1", "a", "\ud800"])
)
hashable_json = st.recursive(json_atoms, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=4)
json_trees = st.recursive(
    json_atoms,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.sampled_from(["a", "b", ""]) | json_atoms, inner, max_size=4)
    ),
    max_leaves=12,
)
hashable = st.recursive(
    json_atoms
    | st.binary(max_size=3)
    | st.decimals(allow_nan=False)
    | st.dates()
    | st.datetimes()
    | st.timedeltas()
    | st.fractions(),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=5,
)
trees = st.recursive(
    hashable
    | st.binary(max_size=3).map(bytearray)
    | st.builds(Order, st.integers(-1, 1))
    | st.sampled_from(list(Colour)),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(hashable, inner, max_size=4)
        | st.sets(hashable, max_size=4)
        | st.builds(Order, inner)
    ),
    max_leaves=12,
)


def same(one: Any, other: Any) -> bool:
    """Equal in value and in type at every depth, NaN equal to NaN: written apart from the encoder."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        if math.isnan(one) or math.isnan(other):
            return math.isnan(one) and math.isnan(other)
        return one == other and math.copysign(1, one) == math.copysign(1, other)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return matched(list(one.items()), list(other.items()))
    if isinstance(one, (set, frozenset)):
        return matched(list(one), list(other))
    if isinstance(one, decimal.Decimal):
        return one.as_tuple() == other.as_tuple()
    if isinstance(one, dt.datetime):
        return bool(one == other) and one.fold == other.fold
    if isinstance(one, Order):
        return same(one.id, other.id) and same(one.note, other.note)
    return bool(one == other)


def matched(ones: list[Any], others: list[Any]) -> bool:
    for one in ones:
        for index, other in enumerate(others):
            if same(one, other):
                del others[index]
                break
        else:
            return False
    return not others


@settings(max_examples=500, deadline=None)
@given(trees, trees)
def test_forms_are_equal_exactly_when_values_are(one: Any, other: Any) -> None:
    assert (encoded(one) == encoded(other)) == same(one, other)


def shuffled(value: Any, rng: random.Random) -> Any:
    """An equal copy, built in another order."""
    if type(value) in (list, tuple):
        return type(value)(shuffled(item, rng) for item in value)
    if type(value) is dict:
        items = [(shuffled(key, rng), shuffled(item, rng)) for key, item in value.items()]
        rng.shuffle(items)
        return dict(items)
    if type(value) in (set, frozenset):
        members = [shuffled(item, rng) for item in value]
        rng.shuffle(members)
        return type(value)(members)
    if type(value) is Order:
        return Order(shuffled(value.id, rng), value.note)
    return value


def mutated(value: Any, rng: random.Random) -> Any:
    """A close neighbour, often one of another type that compares equal."""
    if type(value) in (list, tuple) and value and rng.random() < 0.7:
        items = list(value)
        index = rng.randrange(len(items))
        items[index] = mutated(items[index], rng)
        return type(value)(items)
    if type(value) is dict and value and rng.random() < 0.7:
        key = rng.choice(list(value))
        return {**value, key: mutated(value[key], rng)}
    near: dict[type, list[Any]] = {
        int: [lambda v: v + 1, float if type(value) is int and abs(value) < 2**53 else str, bool, lambda v: [v]],
        bool: [int, float, lambda v: not v],
        float: [lambda v: -v, str, lambda v: (v,)],
        str: [lambda v: v + "\0", lambda v: v.encode("utf-8", "surrogatepass"), lambda v: [v], lambda v: "s" + v],
        list: [tuple, lambda v: [*v, None], lambda v: [v]],
        tuple: [list, lambda v: (*v, None), lambda v: (v,)],
        bytes: [bytearray, lambda v: v + b"\0"],
        set: [frozenset],
        frozenset: [set],
        dict: [lambda v: list(v.items()), collections.OrderedDict, Row],
    }
    return rng.choice(near.get(type(value), [lambda v: [v]]))(value)


@settings(max_examples=500, deadline=None)
@given(trees, seeded)
def test_a_permutation_has_the_same_form_and_a_neighbour_another(value: Any, rng: random.Random) -> None:
    assert encoded(shuffled(value, rng)) == encoded(value)
    other = mutated(value, rng)
    assert (encoded(other) == encoded(value)) == same(value, other)


@settings(max_examples=300, deadline=None)
@given(trees, trees)
def test_no_generated_form_begins_another(one: Any, other: Any) -> None:
    first, second = encoded(one), encoded(other)
    assert first == second or not (first.startswith(second) or second.startswith(first))


# --- across processes -------------------------------------------------------------------------------

PROGRAM = """
import datetime, decimal, enum, pathlib, uuid, hashlib, ipaddress, fractions, collections
from zoneinfo import ZoneInfo
from agent_cache.canonical import encoded
values = [
    {"b": {1, 2, "x", None, (1, "y")}, "a": frozenset("hello world"), 3: {"q": 1.5, "p": [b"x", True]}},
    datetime.datetime(2026, 1, 2, tzinfo=ZoneInfo("Europe/Berlin")), decimal.Decimal("1.00"), uuid.UUID(int=7),
    pathlib.PurePosixPath("/x"), ipaddress.ip_address("10.0.0.1"), fractions.Fraction(1, 3), enum.Enum, 10**6000,
    collections.Counter("hello"), decimal.ROUND_UP, uuid.SafeUUID.safe,
]
values = [value for value in values if not isinstance(value, type)]
print(hashlib.sha256(b"".join(map(encoded, values))).hexdigest())
"""
LOCAL_PROGRAM = """
import enum
from agent_cache.canonical import encoded
def make():
    class Local(enum.Enum):
        A = 1
    return Local
print(encoded(make().A).hex())
"""


def run(program: str, seed: str) -> str:
    root = str(pathlib.Path(canonical.__file__).parents[1])
    env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": root}
    return subprocess.run([sys.executable, "-c", program], env=env, check=True, capture_output=True, text=True).stdout


def test_stable_across_processes_and_hash_seeds() -> None:
    assert len({run(PROGRAM, seed) for seed in ("0", "1", "4242")}) == 1


def test_local_classes_are_equal_in_no_two_processes() -> None:
    assert run(LOCAL_PROGRAM, "0") != run(LOCAL_PROGRAM, "0")


# --- classes ----------------------------------------------------------------------------------------


def test_a_local_class_is_equal_to_itself_only() -> None:
    one, other = local_class(), local_class()
    assert encoded(one.A) == encoded(one.A)  # type: ignore[attr-defined]
    assert encoded(one.A) != encoded(other.A)  # type: ignore[attr-defined]


def test_a_class_replaced_under_its_name_is_another_class(monkeypatch: pytest.MonkeyPatch) -> None:
    before = encoded(Order(1))

    @dataclasses.dataclass
    class Replacement:
        id: int
        note: str = ""

    Replacement.__qualname__ = Replacement.__name__ = "Order"
    module = sys.modules[__name__] if __name__ in sys.modules else types.ModuleType(__name__)
    monkeypatch.setitem(sys.modules, __name__, module)
    old = Order(1)
    monkeypatch.setattr(module, "Order", Replacement, raising=False)
    assert encoded(Replacement(1)) != encoded(old)
    monkeypatch.undo()
    assert encoded(Order(1)) == before


def test_a_metaclass_cannot_pass_one_class_off_as_another() -> None:
    class Liar(type):
        def __eq__(cls, other: object) -> bool:
            return True

        def __hash__(cls) -> int:
            return hash(int)

    class One(metaclass=Liar):
        def __init__(self) -> None:
            self.x = 1

    class Two(dict[str, int], metaclass=Liar):
        pass

    class Three(dict[str, int], metaclass=Liar):
        pass

    with pytest.raises(UnkeyableArgumentError):
        encoded(One())
    assert len({encoded(Two()), encoded(Three()), encoded({}), encoded(0)}) == 4
    assert not aliasable(Two())
    assert not aliasable([One()])


def test_what_is_remembered_of_a_class_goes_with_it() -> None:
    gc.collect()
    before = len(canonical._CLASSES)
    for _ in range(50):
        encoded(local_class().A)  # type: ignore[attr-defined]
    gc.collect()
    assert len(canonical._CLASSES) <= before + 5


# --- refusals ---------------------------------------------------------------------------------------


class Plain:
    pass


def cyclic() -> list[Any]:
    value: list[Any] = [1]
    value.append({"again": value})
    return value


def with_attribute(value: Any) -> Any:
    value.extra = 1
    return value


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


class SlottedList(list[Any]):
    __slots__ = ("more",)


def slotted() -> SlottedList:
    value = SlottedList()
    value.more = 1
    return value


class LyingDict(dict[str, int]):
    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        return {}


@dataclasses.dataclass
class DataDict(dict[str, int]):
    a: int = 1


class OptedOut(str):  # noqa: SLOT000 - with a __dict__, on purpose
    __agent_cache_key__ = None


class NamelessZone(dt.tzinfo):
    def utcoffset(self, when: dt.datetime | None) -> dt.timedelta:
        return dt.timedelta(0)


def generator() -> Any:
    yield 1


REFUSED: dict[str, Any] = {
    "object": object(),
    "instance": Plain(),
    "class": int,
    "function": run,
    "lambda": lambda: 1,
    "builtin": print,
    "method": [].append,
    "module": os,
    "ellipsis": ...,
    "notimplemented": NotImplemented,
    "memoryview": memoryview(b""),
    "generator": generator(),
    "iterator": iter([]),
    "lock": threading.Lock(),
    "exception": ValueError(),
    "array": array.array("i", [1]),
    "struct_time": time.gmtime(0),
    "mock": unittest.mock.MagicMock(),
    "mock with spec": unittest.mock.Mock(spec=str),
    "alias": list[int],
    "code": run.__code__,
    "view": {}.keys(),
    "str with attribute": with_attribute(Text("a")),
    "list with attribute": with_attribute(Rows()),
    "dict with attribute": with_attribute(Row()),
    "int with attribute": with_attribute(Count(1)),
    "dataclass with attribute": with_attribute(Order(1)),
    "slots": slotted(),
    "lying dict": with_attribute(LyingDict()),
    "dataclass on a dict": DataDict(),
    "opted out": OptedOut("a"),
    "nested too deep": nested(MAX_DEPTH + 1),
    "nested past the stack": nested(100_000),
    "cycle": cyclic(),
    "zone": NAIVE.replace(tzinfo=NamelessZone()),
    "factory": collections.defaultdict(lambda: 1),
    "weak": dataclasses.field(),
    "simple": types.SimpleNamespace(a=1),
    "proxy": types.MappingProxyType({}),
    "async key": Keyed(Plain()),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_path_with_the_fix(name: str) -> None:
    for value, path in [(REFUSED[name], "items"), ([0, {"name": REFUSED[name]}], "items[1].name")]:
        with pytest.raises(UnkeyableArgumentError) as caught:
            encoded(value, "items")
        assert caught.value.path.startswith(path)
        assert len(str(caught.value)) < 1000
        assert "__agent_cache_key__" in caught.value.why or "cycles" in caught.value.why
    assert not aliasable(REFUSED[name]) or name.startswith("nested")


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"items": [0, 0, 0, {"name": Plain()}]}, "v.items[3].name"),
        ({"a b": Plain()}, "v['a b']"),
        ({3: Plain()}, "v[3]"),
        ({(1,): Plain()}, "v[<tuple>]"),
        ({"s": {Plain()}}, "v.s{item}"),
        ({Plain(): 1}, "v[<"),
        (Order(Plain()), "v.id"),  # type: ignore[arg-type]
        (Point(1, Plain()), "v.y"),  # type: ignore[arg-type]
        (Open.model_validate({"more": Plain()}), "v.more"),
        ((1, collections.OrderedDict(a=Plain())), "v[1].a"),
        (Keyed([Plain()]), "v.__agent_cache_key__()[0]"),
        (cyclic(), "v[1].again"),
    ],
)
def test_the_path_leads_to_the_culprit(value: Any, path: str) -> None:
    with pytest.raises(UnkeyableArgumentError) as caught:
        encoded(value, "v")
    assert caught.value.path == path or (path.endswith("<") and caught.value.path.startswith(path))


def test_a_refusal_appends_nothing() -> None:
    array_out, list_out = bytearray(b"x"), [b"x"]
    for out in (array_out, list_out):
        with pytest.raises(UnkeyableArgumentError):
            encode([1, Plain()], "v", out)  # type: ignore[arg-type]
    assert array_out == b"x"
    assert list_out == [b"x"]
    encode(1, "v", array_out)
    encode(1, "v", list_out)
    assert array_out == b"".join(list_out) == b"x" + encoded(1)


def test_depth_is_allowed_up_to_the_limit() -> None:
    assert encoded(nested(MAX_DEPTH)) != encoded(nested(MAX_DEPTH - 1))


def test_shared_but_not_cyclic_is_fine() -> None:
    shared = [1]
    assert encoded([shared, shared]) == encoded([[1], [1]])


def test_blow_ups_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canonical, "MAX_NODES", 10_000)
    monkeypatch.setattr(canonical, "MAX_BYTES", 1_000_000)
    layers: Any = [1]
    for _ in range(60):
        layers = [layers, layers]
    frozen: Any = frozenset({1})
    for index in range(60):
        frozen = frozenset({(frozen, index), (frozen, -index - 1)})
    text = "x" * 100_000
    for value in (layers, frozen, text * 11, [text] * 100, [{"a": 1}] * 20_000, {"k": layers}):
        with pytest.raises(UnkeyableArgumentError, match="more than"):
            encoded(value)
    assert not aliasable(layers)


def test_secrets_count_by_their_value_and_never_show() -> None:
    with pytest.raises(UnkeyableArgumentError) as caught:
        encoded({"token": pydantic.SecretStr("hunter2"), "x": Plain()})
    assert "hunter2" not in str(caught.value)


def test_models_with_urls_secrets_and_parsed_times() -> None:
    def site(url: str, token: str) -> Site:
        return Site.model_validate({"url": url, "token": token, "at": "2026-01-01T00:00:00Z"})

    assert encoded(site("https://a.example/x", "t")) == encoded(site("https://a.example/x", "t"))
    assert encoded(site("https://a.example/x", "t")) != encoded(site("https://a.example/y", "t"))
    assert encoded(site("https://a.example/x", "t")) != encoded(site("https://a.example/x", "u"))


# --- hostile ----------------------------------------------------------------------------------------


class Raises:
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("no " + name)

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError

    def __hash__(self) -> int:
        return 1


class Impostor:
    @property
    def __class__(self) -> type:  # type: ignore[override]
        return int

    def __index__(self) -> int:
        return 1


class LyingStr(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "lie"

    def encode(self, *args: Any, **kwargs: Any) -> bytes:
        return b"lie"

    def __iter__(self) -> Any:
        return iter("lie")

    def __len__(self) -> int:
        return 3

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


class LyingInt(int):
    def __index__(self) -> int:
        return 7

    def __int__(self) -> int:
        return 7

    def __le__(self, other: object) -> bool:
        return True

    def to_bytes(self, *args: Any, **kwargs: Any) -> bytes:
        return b"lie"


class LyingList(list[Any]):
    def __iter__(self) -> Any:
        return iter([])

    def __len__(self) -> int:
        return 0


class LyingRow(dict[Any, Any]):
    def items(self) -> Any:
        return []

    def __iter__(self) -> Any:
        return iter([])


class Endless:
    def __agent_cache_key__(self) -> object:
        return Endless()


class RaisingKey:
    def __agent_cache_key__(self) -> object:
        raise KeyError("boom")


class RaisingProperty:
    @property
    def __agent_cache_key__(self) -> object:
        raise KeyError("boom")


class AsyncKey:
    async def __agent_cache_key__(self) -> object:
        return 1


@pytest.mark.parametrize("make", [Raises, Impostor, Endless, RaisingKey, RaisingProperty, AsyncKey])
def test_hostile_objects_are_refused(make: type) -> None:
    value = make()
    for wrapped in (value, [value], {"a": value}, (value,), {1: value}, Keyed(value)):
        with pytest.raises(UnkeyableArgumentError):
            encoded(wrapped)
        assert not aliasable(wrapped)


def test_a_raising_hook_is_named() -> None:
    with pytest.raises(UnkeyableArgumentError, match=r"RaisingKey\.__agent_cache_key__ raised KeyError: 'boom'"):
        encoded([RaisingKey()])


@pytest.mark.parametrize(
    "make", [LyingStr, lambda t: LyingInt(len(t)), lambda t: LyingList([t]), lambda t: LyingRow(a=t)]
)
def test_subclasses_are_read_by_their_base_class(make: Any) -> None:
    assert encoded(make("a")) == encoded(make("a"))
    assert encoded(make("a")) != encoded(make("bb"))


def test_a_short_stack_is_a_refusal() -> None:
    def deep(levels: int) -> None:
        if levels:
            deep(levels - 1)
        else:
            encoded(nested(150))

    limit = sys.getrecursionlimit()
    refusals = 0
    for levels in range(limit - 400, limit - 60, 10):
        try:
            deep(levels)
        except UnkeyableArgumentError:
            refusals += 1
        except RecursionError:
            pass  # no room to enter at all
    assert refusals


def test_values_mutated_meanwhile_are_encoded_or_refused() -> None:
    value: dict[Any, Any] = {index: {"a": index} for index in range(300)}
    stop = threading.Event()

    def churn() -> None:
        number = 0
        while not stop.is_set():
            value[number + 1000] = [number]
            value.pop(number + 999, None)
            number += 1

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(200):
            try:
                encoded([value])
            except UnkeyableArgumentError as refused:
                assert "changed while it was read" in refused.why  # noqa: PT017 - either outcome is right
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)


# --- the alias --------------------------------------------------------------------------------------


def strict(one: Any, other: Any) -> bool:
    """As ``same``, but NaNs by their bits and dicts in order: what an alias may tell apart."""
    if type(one) is not type(other):
        return False
    if type(one) is float:
        return struct.pack(">d", one) == struct.pack(">d", other)
    if type(one) in (list, tuple):
        return len(one) == len(other) and all(map(strict, one, other))
    if type(one) is dict:
        return strict(list(one.items()), list(other.items()))
    return bool(one == other)


@settings(max_examples=500, deadline=None)
@given(json_trees, json_trees, seeded)
def test_alias_is_injective_and_agrees_with_the_key(one: Any, other: Any, rng: random.Random) -> None:
    assert aliasable(one)
    for second in (other, mutated(one, rng), shuffled(one, rng)):
        same_alias = alias(one) == alias(second)
        assert same_alias == (aliasable(second) and strict(one, second))
        if same_alias:
            assert encoded(one) == encoded(second)


class Buffered(float):
    """As numpy.float64: a float whose bytes can be asked for."""


def lookalikes(value: Any) -> list[Any]:
    raw = alias(value) or b""
    return [
        raw,
        bytearray(raw),
        memoryview(raw),
        array.array("B", raw),
        Keyed(value),
        {0},
        frozenset(),
        1j,
        ...,
        StopIteration,
        run.__code__,
        Text("a"),
        Word.A,
        Number.ONE,
        Count(1),
        Ratio(1.0),
        Buffered(1.0),
        Rows([value]),
        Row(a=value),
        Point(1, 2),
        collections.OrderedDict(a=value),
        slice(1),
        range(3),
        b"",
        b"a",
        bytearray(b"a"),
    ]


@settings(max_examples=200, deadline=None)
@given(json_trees)
def test_nothing_else_ever_has_the_alias_of_a_plain_tree(value: Any) -> None:
    known = alias(value)
    assert known is not None
    for other in lookalikes(value):
        for wrapped in (other, [other], (other,), {"a": other}, [value, other], [other, value]):
            assert not aliasable(wrapped)
            found = alias(wrapped)
            assert found != known
            for plain in ([value], (value,), {"a": value}, [value, value]):
                assert found is None or found != alias(plain)


def test_alias_depends_on_content_alone() -> None:
    parts = ["some ", "words"]
    built, interned = "".join(parts), sys.intern("some words")
    assert built is not interned
    assert alias([built, built]) == alias([interned, "".join(parts)])
    shared = [1, 2]
    assert alias([shared, shared]) == alias([[1, 2], [1, 2]])
    numbers = [
        0,
        -0,
        1,
        2**15,
        2**30,
        2**31 - 1,
        2**31,
        -(2**31),
        -(2**31) - 1,
        2**62,
        2**63,
        2**64,
        10**400,
        -(10**400),
    ]
    aliases = {alias(number) for number in numbers}
    assert len(aliases) == len(set(numbers))
    assert len({alias(v) for v in (0.0, -0.0, 0, False, None, "", [], (), {}, math.nan, NAN_WITH_PAYLOAD)}) == 11


def test_alias_of_what_has_none_is_none() -> None:
    for value in (Plain(), [Plain()], cyclic(), Raises(), Colour.RED, nested(100_000)):
        assert alias(value) is None


@pytest.mark.parametrize("value", DISTINCT, ids=lambda value: type(value).__name__)
def test_alias_tells_the_tricky_values_apart(value: Any) -> None:
    plain = [other for other in DISTINCT if aliasable(other) and other is not value]
    assert alias(value) is None or alias(value) not in [alias(other) for other in plain]
