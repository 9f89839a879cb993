"""A hit equals a miss: round trips, isolation, type exactness, refusals."""

from __future__ import annotations

import contextlib
import copy
import enum
import io
import json
import marshal  # noqa: TID251 - to show that it is refused
import os
import subprocess
import sys
import tempfile
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from functools import cached_property
from inspect import Parameter
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Literal, NamedTuple, NewType, Optional, TypedDict, Union
from uuid import UUID, uuid1, uuid4
from zlib import crc32
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    RootModel,
    SecretStr,
    computed_field,
    field_validator,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic_core import TzInfo

from agent_cache.codecs import Codec, Stored, ToolCodec, codec_for, near, same, with_user_codec
from agent_cache.errors import UnstorableResultError

ANY = codec_for(Any)
NAN = float("nan")


def round_trips(codec: ToolCodec, value: Any, *, written: bool = True) -> Stored:
    """Every promise about one value that can be kept; returns its stored form."""
    pristine = copy.deepcopy(value)
    stored = codec.freeze(value)
    assert stored.size > 0
    assert same(stored.fresh(), value)
    assert stored.fingerprint() == codec.freeze(value).fingerprint()
    spoil(stored.fresh())
    assert same(stored.fresh(), pristine), "a caller's change reached another"
    if written:
        payload = stored.payload()
        assert stored.payload() is payload
        again = codec.thaw_payload(payload)
        assert same(again.fresh(), pristine)
        assert again.fingerprint() == stored.fingerprint()
        spoil(again.fresh())
        assert same(again.fresh(), pristine)
        assert same(codec.thaw_payload(again.payload()).fresh(), pristine)
    spoil(value)
    assert same(stored.fresh(), pristine), "the tool's change reached the store"
    return stored


def spoil(value: Any) -> None:
    """Change every mutable part that can be reached."""
    if isinstance(value, (tuple, frozenset)):
        for item in value:
            spoil(item)
    elif isinstance(value, dict):
        for item in value.values():
            spoil(item)
        value["spoiled"] = True
    elif isinstance(value, (list, deque)):
        for item in value:
            spoil(item)
        value.append("spoiled")
    elif isinstance(value, set):
        value.add("spoiled")
    elif isinstance(value, bytearray):
        value += b"spoiled"
    elif not isinstance(value, enum.Enum):
        for name, item in list(getattr(value, "__dict__", {}).items()):
            spoil(item)
            params = getattr(value, "__dataclass_params__", None)
            if params is None or not params.frozen:
                object.__setattr__(value, name, "spoiled")


def refused(codec: ToolCodec, value: Any, reason: str, **options: Any) -> None:
    with pytest.raises(UnstorableResultError) as caught:
        codec.freeze(value, **options)
    assert caught.value.reason == reason, caught.value


# -- values

atoms = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.text(st.characters(), max_size=8)
    | st.text(st.characters(categories=["Cs", "Lu"]), max_size=4)
    | st.binary(max_size=8)
)
zones = st.none() | st.timezones() | st.sampled_from([UTC, timezone(timedelta(hours=1), "X")])
rich = (
    atoms
    | st.decimals().filter(lambda number: not number.is_snan())
    | st.dates()
    | st.datetimes(timezones=zones)
    | st.times(timezones=zones)
    | st.timedeltas()
    | st.uuids()
    | st.builds(range, st.integers(-9, 9), st.integers(-9, 9))
    | st.builds(PurePosixPath, st.text("ab/.", max_size=5))
)


def trees(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    flat = leaves | st.tuples(leaves, leaves) | st.frozensets(leaves, max_size=2)
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.text(max_size=4), inner, max_size=4)
            | st.dictionaries(flat, inner, max_size=3)
            | st.tuples(inner, inner)
            | st.sets(flat, max_size=3)
            | st.frozensets(flat, max_size=3)
        ),
        max_leaves=12,
    )


@settings(max_examples=300, deadline=None)
@given(trees(atoms))
def test_plain_trees_come_back(value: Any) -> None:
    round_trips(ANY, value)


@settings(max_examples=300, deadline=None)
@given(trees(rich))
def test_rich_trees_come_back(value: Any) -> None:
    round_trips(ANY, value)


@settings(max_examples=200, deadline=None)
@given(trees(rich), trees(rich))
def test_same_is_what_repr_says(a: Any, b: Any) -> None:
    assert same(a, a)
    assert same(a, b) == same(b, a)
    if same(a, b):
        assert a is b or type(a) is type(b)
        assert ANY.freeze(a).fingerprint() == ANY.freeze(b).fingerprint()


@pytest.mark.parametrize(
    "value",
    [
        0.0,
        -0.0,
        NAN,
        [NAN, -0.0, float("inf"), -float("inf")],
        {NAN: 1},
        {1: "int", "1": "text", (1,): [2], None: {}, 2.5: set()},
        {"d": {"t": [1]}, "t": [], "S": "x"},
        "\ud83d\ude00",
        ["\ud800", {"\udfff": "\ud83d\ude00"}],
        10**5000,
        [-(10**5000)],
        bytearray(b"abc"),
        [bytearray(b"abc")],
        Decimal("1.10"),
        [Decimal("-0"), Decimal("NaN12"), Decimal("1E+9000")],
        datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Paris")),
        [datetime(2024, 1, 1, tzinfo=TzInfo(3600)), time(2, fold=1), UTC],
        [timezone(timedelta(0), "UTC"), timezone(timedelta(seconds=-90), "odd")],
        [uuid4(), uuid1(), date(1, 1, 1), timedelta(-1, 5, 7), range(3, 9, 2)],
        {"p": PurePosixPath("a/b"), "w": PureWindowsPath("C:\\x")},
        {frozenset({(1, "a")}), frozenset()},
        [[], {}, (), set(), frozenset(), ""],
        [1, True, 1.0, "1", b"1", 1 + 0j],
        {"z": 1, "a": 2},
    ],
    ids=lambda value: type(value).__name__,
)
def test_corners_come_back(value: Any) -> None:
    round_trips(ANY, value)


def test_a_signalling_nan_comes_back() -> None:
    value = [Decimal("sNaN12")]
    stored = ANY.freeze(value)
    assert same(stored.fresh(), value)
    assert same(ANY.thaw_payload(stored.payload()).fresh(), value)


def test_order_of_a_dict_is_kept() -> None:
    stored = ANY.freeze({"z": 1, "a": 2})
    assert list(stored.fresh()) == ["z", "a"]
    assert list(ANY.thaw_payload(stored.payload()).fresh()) == ["z", "a"]


def test_immutable_values_are_shared() -> None:
    for value in (12345678, "text", (1, ("a", frozenset({2}))), Decimal("1.5"), (date(2024, 1, 1),)):
        assert ANY.freeze(value).fresh() is value
        assert ANY.freeze(value).thaw is None
    assert ANY.freeze((1, [])).fresh() is not ANY.freeze((1, [])).value


def test_aliases_inside_a_value_become_separate_parts() -> None:
    part: list[int] = [1]
    assert same(ANY.freeze([part, part]).fresh(), [[1], [1]])


# -- same


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (1, 1.0),
        (1, True),
        (0.0, -0.0),
        ([1], (1,)),
        ([1], [True]),
        ({1}, {True}),
        ({1}, frozenset({1})),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({1: 0}, {1.0: 0}),
        (Decimal("1.0"), Decimal("1.00")),
        (b"a", bytearray(b"a")),
        (datetime(2024, 1, 1, fold=0), datetime(2024, 1, 1, fold=1)),  # noqa: DTZ001
        (datetime(2024, 1, 1), datetime(2024, 1, 1, tzinfo=UTC)),  # noqa: DTZ001
        (range(0), range(1, 1)),
        ({}, OrderedDict()),
        (defaultdict(int), defaultdict(list)),
        (deque([1], 2), deque([1], 3)),
        (object(), object()),
    ],
)
def test_same_tells_apart(a: Any, b: Any) -> None:
    assert not same(a, b)
    assert not same([a], [b])
    assert not same({"k": a}, {"k": b})


def test_same_is_safe_on_cycles_and_hostile_values() -> None:
    a: list[Any] = []
    b: list[Any] = []
    a.append(a)
    b.append(b)
    assert same(a, b)
    assert not same(a, [[1]])

    class Hostile:
        def __eq__(self, other: object) -> bool:
            raise RuntimeError

        __hash__ = None  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]

    assert not same(Hostile(), Hostile())
    assert same({NAN, 1}, {float("nan"), 1})
    assert not same({float("nan"), NAN}, {NAN, 2})


# -- classes an annotation reaches


class Colour(enum.Enum):
    RED = "red"
    BLUE = ["mutable"]  # noqa: RUF012


class Level(enum.IntEnum):
    LOW = 1


class Name(enum.StrEnum):
    ADA = "ada"


class Perm(enum.Flag):
    R = 1
    W = 2


class Point(NamedTuple):
    x: int
    y: Any = None


class Movie(TypedDict, total=False):
    title: str
    at: datetime
    tone: Colour


@dataclass(frozen=True)
class Frozen:
    a: int
    b: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class FrozenSlots:
    a: int
    b: list[int] = field(default_factory=list)


@dataclass
class Loose:
    a: int
    b: list[Any] = field(default_factory=list)
    c: Frozen | None = None


@dataclass(slots=True)
class Slotted:
    a: float
    b: dict[str, Any] = field(default_factory=dict)


@pydantic_dataclass
class Checked:
    a: int
    when: datetime | None = None


class Item(BaseModel):
    id: int
    name: str = "x"
    tags: list[str] = Field(default_factory=list)
    score: float | None = None


class Aliased(BaseModel):
    user_id: int = Field(alias="userId")
    both: int = Field(0, validation_alias="in", serialization_alias="out")


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int


class Private(BaseModel):
    a: int
    _notes: list[str] = PrivateAttr(default_factory=list)
    _made: int = PrivateAttr(default=0)


class Computed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    side: float

    @computed_field  # type: ignore[prop-decorator]
    @property
    def area(self) -> float:
        return self.side**2

    @cached_property
    def label(self) -> str:
        return f"side {self.side}"


class Doubling(BaseModel):
    a: int
    calls: int = 0

    @field_validator("a")
    @classmethod
    def twice(cls, value: int) -> int:
        return value * 2


class Secret(BaseModel):
    token: SecretStr


class Node(BaseModel):
    value: Any = None
    children: list[Node] = []


class Hidden(BaseModel):
    a: int
    b: int = Field(5, exclude=True)


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    tone: Colour = Colour.RED


class Numbers(RootModel[list[int]]):
    pass


class Derived(Item):
    more: int = 0


def with_private() -> Private:
    made = Private(a=1)
    made._notes.append("n")
    return made


def with_label() -> Computed:
    made = Computed(side=2)
    assert made.label
    return made


def late(made: Any, **changes: Any) -> Any:
    for name, value in changes.items():
        object.__setattr__(made, name, value)
    return made


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]
UserId = NewType("UserId", int)
MODELS: list[tuple[Any, Callable[[], Any]]] = [
    (Colour, lambda: Colour.BLUE),
    (list[Colour], lambda: [Colour.RED, Colour.BLUE]),
    (dict[str, Level], lambda: {"a": Level.LOW, "b": 1}),
    (list[Name], lambda: [Name.ADA, "ada"]),
    (list[Perm], lambda: [Perm.R | Perm.W, Perm.R, Perm(0)]),
    (Literal[Colour.RED], lambda: [Colour.RED]),
    (Point, lambda: Point(1, [2])),
    (list[Point], lambda: [Point(1), Point(2, "y")]),
    (Movie, lambda: {"title": "M", "at": datetime(2024, 1, 1, tzinfo=UTC), "tone": Colour.RED}),
    (Frozen, lambda: Frozen(1, (2, 3))),
    (FrozenSlots, lambda: FrozenSlots(1, [2])),
    (Loose, lambda: Loose(1, [2, (3,)], Frozen(4))),
    (Loose, lambda: late(Loose(1), extra=[1])),
    (Slotted, lambda: Slotted(float("inf"), {"a": {1}})),
    (Slotted, lambda: Slotted(1, {})),  # an int where the annotation says float
    (Checked, lambda: Checked(1, datetime(2024, 1, 1, tzinfo=UTC))),
    (Item, lambda: Item(id=1)),
    (Item, lambda: Item(id=1, name="n", tags=["a"], score=NAN)),
    (Item, lambda: Item(id=1, score=-0.0, tags=[])),
    (Item, lambda: Item.model_construct(id="not an int")),
    (Item, lambda: Item(id=10**400)),
    (list[Item], lambda: [Item(id=i, name="\ud800" * (i % 2)) for i in range(3)]),
    (Optional[Item], lambda: Item(id=1)),  # noqa: UP045
    (Optional[Item], lambda: None),  # noqa: UP045
    (dict[str, tuple[Item, ...]], lambda: {"a": (Item(id=1), Item(id=2, tags=["t"]))}),
    (Aliased, lambda: Aliased.model_validate({"userId": 1, "in": 2})),
    (Open, lambda: Open.model_validate({"a": 1, "b": [1], "c": {"d": None}})),
    (Private, with_private),
    (Private, lambda: Private(a=2)),
    (Computed, lambda: Computed(side=1.5)),
    (Computed, with_label),
    (Doubling, lambda: Doubling(a=3)),
    (Node, lambda: Node(value=(1, {2}), children=[Node(children=[Node(value=1)])])),
    (Hidden, lambda: Hidden(a=1, b=6)),
    (Pet, lambda: Dog(tone=Colour.BLUE)),
    (list[Pet], lambda: [Cat(), Dog(), Cat(lives=3)]),
    (Union[int, Item], lambda: Item(id=1)),  # noqa: UP007
    (Numbers, lambda: Numbers([1, 2])),
    (Annotated[Item, AfterValidator(lambda item: item)], lambda: Item(id=1)),
    (UserId, lambda: 5),
    (deque[int], lambda: deque([1, 2])),
]


@pytest.mark.parametrize(("annotation", "make"), MODELS, ids=lambda part: getattr(part, "__name__", ""))
def test_reachable_classes_come_back(annotation: Any, make: Callable[[], Any]) -> None:
    codec = codec_for(annotation)
    round_trips(codec, make())
    round_trips(codec, make())  # with the form that worked remembered
    fresh_process = codec_for(annotation)
    assert same(fresh_process.thaw_payload(codec.freeze(make()).payload()).fresh(), make())


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.builds(
            Loose,
            trees(rich),
            st.lists(trees(rich), max_size=2),
            st.none() | st.builds(Frozen, st.integers()),
        )
        | st.builds(Node, value=trees(rich))
        | st.builds(Item, id=st.integers(), name=st.text(), score=st.none() | st.floats())
        | st.sampled_from([Colour.RED, Perm.R | Perm.W, Level.LOW]),
        max_size=3,
    )
)
def test_any_mixture_comes_back(value: list[Any]) -> None:
    codec = codec_for(list[Loose | Node | Item | Colour | Perm | Level])
    round_trips(codec, value)


def test_a_frozen_dataclass_of_immutables_is_shared() -> None:
    value = Frozen(1, (2,))
    assert codec_for(Frozen).freeze(value).fresh() is value
    mutable = FrozenSlots(1, [2])
    assert codec_for(FrozenSlots).freeze(mutable).fresh() is not mutable


def test_fields_set_extra_and_private_survive() -> None:
    item = codec_for(Item).freeze(Item(id=1)).fresh()
    assert item.model_fields_set == {"id"}
    opened = codec_for(Open).freeze(Open.model_validate({"a": 1, "b": 2})).fresh()
    assert opened.model_extra == {"b": 2}
    assert codec_for(Private).freeze(with_private()).fresh()._notes == ["n"]


def test_no_validator_runs_on_a_hit() -> None:
    calls: list[int] = []

    class Watched(BaseModel):
        a: int

        @field_validator("a")
        @classmethod
        def seen(cls, value: int) -> int:
            calls.append(value)
            return value

    codec = codec_for(Watched)
    stored = codec.freeze(Watched(a=1))
    calls.clear()
    assert stored.fresh().a == 1
    codec.thaw_payload(stored.payload()).fresh()
    assert calls == []


def test_a_default_factory_is_not_run_again_on_a_hit() -> None:
    ticks = iter(range(1000))

    class Ticket(BaseModel):
        a: int = 0
        n: int = Field(default_factory=lambda: next(ticks))

    stored = codec_for(Ticket).freeze(Ticket(a=1))
    assert stored.fresh().n == stored.fresh().n == 0
    assert stored.fresh().model_fields_set == {"a"}


# -- refusals


def generator() -> Any:
    yield 1


async def coroutine() -> None: ...


async def async_generator() -> Any:
    yield 1


@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [v], lambda v: {"k": (v,)}, lambda v: Node(value=v)])
@pytest.mark.parametrize("annotation", [Any, Node, list[Any]])
def test_streams_are_refused(wrap: Callable[[Any], Any], annotation: Any) -> None:
    codec = codec_for(annotation)
    running = coroutine()
    with tempfile.NamedTemporaryFile() as wrapped, Path(os.devnull).open() as file:
        for stream in (
            generator(),
            running,
            async_generator(),
            iter([1]),
            map(str, []),
            io.BytesIO(),
            wrapped,
            file,
        ):
            refused(codec, wrap(stream), "stream")
    running.close()


class MyStr(str):  # noqa: SLOT000
    pass


class MyList(list[Any]):
    pass


@pytest.mark.parametrize(
    "value",
    [
        Item(id=1),
        [Item(id=1)],
        {"k": Loose(1)},
        MyStr("a"),
        [MyStr("a")],
        MyList([1]),
        {MyStr("k"): 1},
        object(),
        lambda: 1,
        Item,
        memoryview(b"ab"),
        OrderedDict(a=1),
        deque([1]),
        ValueError("x"),
        [datetime(2024, 1, 1, tzinfo=type("Odd", (type(ZoneInfo("UTC")),), {})("UTC"))],
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("annotation", [Any, Parameter.empty, "Item", dict, 5, Frozen])
def test_unknown_types_are_refused(annotation: Any, value: Any) -> None:
    refused(codec_for(annotation), value, "unknown_type")


def test_subclasses_the_annotation_does_not_name_are_refused() -> None:
    refused(codec_for(Item), Derived(id=1), "unknown_type")
    refused(codec_for(list[Item]), [Item(id=1), Derived(id=1)], "unknown_type")
    refused(codec_for(str), MyStr("a"), "unknown_type")


def test_a_secret_is_never_written() -> None:
    with pytest.raises(UnstorableResultError) as caught:
        codec_for(Secret).freeze(Secret(token=SecretStr("hunter2")))
    assert "hunter2" not in str(caught.value)


def test_in_process_only_values_say_so_when_written() -> None:
    stored = ANY.freeze([Colour.RED, Point(1, 2), Frozen(1)])
    assert same(stored.fresh(), [Colour.RED, Point(1, 2), Frozen(1)])
    with pytest.raises(UnstorableResultError, match="unknown_type"):
        stored.payload()


def nest(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def test_depth_cycles_and_blow_ups_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "MAX_NODES", 20_000)
    round_trips(ANY, nest(150))
    cycle: dict[str, Any] = {}
    cycle["self"] = [cycle]
    diamond: Any = []
    for _ in range(60):
        diamond = [diamond, diamond]
    tuples: Any = (Decimal(1),)
    for _ in range(60):
        tuples = (tuples, tuples)
    own: Any = Node()
    for _ in range(40):
        own = Node.model_construct(value=None, children=[own, own])
    loop = Node()
    loop.children.append(loop)
    for codec in (ANY, codec_for(Node), codec_for(list[Any]), with_user_codec(Json(), Any)):
        refused(codec, nest(100_000), "too_deep")
        refused(codec, cycle, "too_deep")
        refused(codec, diamond, "too_large")
        refused(codec, tuples, "too_large")
        refused(codec, own, "too_large")
        refused(codec, loop, "too_deep")
    refused(ANY, ["x" * 10_000_000] * 1000, "too_large")
    refused(ANY, [[1 << 80_000_000] * 1000], "too_large")


def test_limits() -> None:
    refused(ANY, "x" * 2000, "too_large", max_bytes=1000)
    refused(ANY, ["x" * 2000], "too_large", max_bytes=1000)
    refused(ANY, ("x" * 2000,), "too_large", max_bytes=1000)
    refused(ANY, [Decimal(1), "x" * 2000], "too_large", max_bytes=1000)
    refused(codec_for(Item), Item(id=1, name="x" * 2000), "too_large", max_bytes=1000)
    refused(ANY, list(range(5000)), "too_large", max_bytes=1000)
    assert ANY.freeze(["x" * 500], max_bytes=1000).size < 1000


def test_only_one_kind_of_error() -> None:
    class Rude:
        @property  # type: ignore[misc]
        def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
            raise RuntimeError

        def __sizeof__(self) -> int:
            raise RuntimeError

    refused(ANY, Rude(), "codec_error")

    def deep(left: int) -> None:
        if left:
            return deep(left - 1)
        for value in (nest(150), Node(children=[Node()]), (nest(20), Decimal(1))):
            with contextlib.suppress(UnstorableResultError):
                stored = codec_for(Node).freeze(value)
                stored.fresh()
                stored.payload()
        return None

    for left in range(800, sys.getrecursionlimit(), 5):
        try:
            deep(left)
        except RecursionError:  # the frames of this test itself
            break


# -- payloads from elsewhere


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(UnstorableResultError):
        codec_for(Node).thaw_payload(noise)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_payload_is_refused(data: st.DataObject) -> None:
    payload = bytearray(codec_for(Node).freeze(Node(value=[1, "two"])).payload())
    at = data.draw(st.integers(0, len(payload) - 1))
    payload[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(UnstorableResultError, match="codec_error"):
        codec_for(Node).thaw_payload(bytes(payload))


TAGS = "d m t s z b B c D dt ti da td tz zi pz u r p e E n k S i f J".split()  # noqa: SIM905
NAMES = [f"{__name__}:{name}" for name in ("Node", "Loose", "Colour", "Point", "Movie")]
texts = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from(NAMES),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(TAGS), inner, min_size=1, max_size=2),
    max_leaves=10,
)


NONSENSE = codec_for(Node | Loose | Colour | Point | Movie)


@settings(max_examples=1500, deadline=None)
@given(st.sampled_from([b"J", b"T", b"P", b"U", b"X"]), texts)
def test_well_sealed_nonsense_is_refused_or_kept(form: bytes, tree: Any) -> None:
    body = json.dumps(tree).encode()
    payload = form + crc32(body, form[0]).to_bytes(4, "big") + body
    with contextlib.suppress(UnstorableResultError):
        NONSENSE.thaw_payload(payload).fresh()


def test_marshal_and_pickle_are_never_read_from_a_payload() -> None:
    for body in (marshal.dumps([1]), b"\x80\x04K\x01."):
        for form in (b"J", b"T", b"P", b"M", b"U", b"\x80"):
            with pytest.raises(UnstorableResultError):
                ANY.thaw_payload(form + crc32(body, form[0]).to_bytes(4, "big") + body)


def test_a_class_not_in_the_annotation_is_not_built() -> None:
    payload = codec_for(Private).freeze(with_private()).payload()
    for other in (Any, Item, list[Node]):
        with pytest.raises(UnstorableResultError):
            codec_for(other).thaw_payload(payload)


# -- a user's own codec


class Json:
    def encode(self, value: Any) -> bytes:
        return json.dumps(value).encode()

    def decode(self, payload: bytes) -> Any:
        return json.loads(payload)


def test_user_codec() -> None:
    user: Codec = Json()
    codec = with_user_codec(user, dict)
    round_trips(codec, {"a": [1, None]})
    round_trips(codec, "text")
    refused(codec, {"a": (1,)}, "not_faithful")
    refused(codec, {1: 2}, "not_faithful")
    refused(codec, {"a": {1}}, "codec_error")
    refused(codec, generator(), "stream")
    refused(codec, "x" * 50, "too_large", max_bytes=40)
    for bad in (b"", b"U1234{", ANY.freeze({"a": 1}).payload()):
        with pytest.raises(UnstorableResultError):
            codec.thaw_payload(bad)
    assert codec.schema != codec_for(dict).schema


def test_user_codec_that_misbehaves() -> None:
    class Shares:
        kept: Any = None

        def encode(self, value: Any) -> bytes:
            self.kept = copy.deepcopy(value)
            return b""

        def decode(self, payload: bytes) -> Any:
            return self.kept

    class Text:
        def encode(self, value: Any) -> Any:
            return "text"

        def decode(self, payload: bytes) -> Any:
            raise KeyError

    refused(with_user_codec(Shares(), Any), [1], "not_faithful")
    refused(with_user_codec(Text(), Any), [1], "codec_error")


# -- identity


def test_schema_fingerprints() -> None:
    annotations = [Any, int, Item, list[Item], dict[str, Item], Open, Frozen, Colour, Pet, Movie, Point, Node]
    prints = [codec_for(each).schema for each in annotations]
    assert len(set(prints)) == len(prints)
    assert prints == [codec_for(each).schema for each in annotations]

    def make(kind: Any) -> Any:
        class Local(BaseModel):
            a: kind  # pyright: ignore[reportInvalidTypeForm]

        return Local

    assert codec_for(make(int)).schema == codec_for(make(int)).schema
    assert codec_for(make(int)).schema != codec_for(make(str)).schema


def test_schema_is_the_same_in_every_process() -> None:
    code = "from agent_cache.codecs import codec_for; import decimal, typing, uuid\n" + (  # noqa: ISC003
        "import dataclasses, enum\nclass E(enum.Enum):\n    A = object(); B = 1\n"
        "@dataclasses.dataclass\nclass D:\n    a: set[E]; b: 'decimal.Decimal | uuid.UUID'\n"
        "print(codec_for(typing.Annotated[list[D], object()]).schema)"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in (1, 2)
    }
    assert len(seen) == 1
    assert len(seen.pop().strip()) == 16


@pytest.mark.parametrize(
    "annotation",
    [Parameter.empty, Any, None, "Nowhere", "list[", 5, [], object(), lambda: 1, Callable[..., int], ...],
)
def test_codec_for_anything(annotation: Any) -> None:
    codec = codec_for(annotation)
    assert isinstance(codec.schema, str)
    round_trips(codec, {"a": [1, (2,)]})


def test_two_local_classes_of_one_name() -> None:
    def make(kind: Any) -> Any:
        @dataclass
        class Twin:
            a: kind  # pyright: ignore[reportInvalidTypeForm]

        return Twin

    one, two = make(int), make(str)
    codec = codec_for(list[one | two])  # type: ignore[valid-type]
    value = [one([1]), two([2])]
    for stored in (codec.freeze(value), codec.thaw_payload(codec.freeze(value).payload())):
        assert [type(item) for item in stored.fresh()] == [one, two]


def test_uuid_safety_is_part_of_the_value() -> None:
    assert not same(UUID(int=1), late(UUID(int=1), is_safe=uuid1().is_safe)) or uuid1().is_safe.value is None
