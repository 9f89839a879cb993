"""KEY: equal exactly when the calls are equal."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_cache import KEY, ConfigurationError, UnkeyableArgumentError
from agent_cache.codecs import same

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=6,
)
calls = st.tuples(st.lists(values, max_size=3).map(tuple), st.dictionaries(st.text(min_size=1), values, max_size=3))


@given(calls, calls)
def test_equal_exactly_when_the_calls_are(one: Any, other: Any) -> None:
    equal = same(one[0], other[0]) and one[1].keys() == other[1].keys()
    equal = equal and all(same(one[1][name], other[1][name]) for name in one[1])
    assert (KEY(*one) == KEY(*other)) is equal


@given(calls)
def test_the_same_call_again_is_equal_and_hashes_alike(call: Any) -> None:
    args, kwargs = call
    again = KEY(copy.deepcopy(args), dict(reversed(list(copy.deepcopy(kwargs).items()))))
    assert KEY(args, kwargs) == again
    assert len({KEY(args, kwargs), again}) == 1


def test_types_are_told_apart() -> None:
    lookalikes = [1, True, 1.0, "1", b"1", None, "", [], (), {}, [1], (1,), {"a": 1}]
    assert len({KEY((value,)) for value in lookalikes}) == len(lookalikes)
    assert KEY((1,), {"a": 2}) != KEY((1, 2), {})
    assert KEY((("a", 1),)) != KEY((), {"a": 1})
    assert KEY((1,)) != (1,)


def test_it_cannot_be_changed() -> None:
    items = [1]
    key = KEY((items,), {"b": 2})
    before = hash(key)
    items.append(2)
    assert hash(key) == before
    assert key == KEY(([1],), {"b": 2})
    for change in (
        lambda: setattr(key, "args", ()),
        lambda: setattr(key, "_digest", b""),
        lambda: delattr(key, "_args"),
        lambda: key.kwargs.__setitem__("b", 3),  # type: ignore[attr-defined]
    ):
        with pytest.raises((AttributeError, TypeError)):
            change()
    assert copy.copy(key) is copy.deepcopy(key) is key
    assert (key.args, dict(key.kwargs)) == (([1, 2],), {"b": 2})


def test_what_cannot_be_part_of_a_key_is_named() -> None:
    with pytest.raises(UnkeyableArgumentError, match=r"args\[1\]"):
        KEY((1, object()))
    with pytest.raises(UnkeyableArgumentError, match="client"):
        KEY((), {"client": object()})
    for wrong in ("text", 3):
        with pytest.raises(ConfigurationError, match="args"):
            KEY(wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="kwargs"):
        KEY((), [1])  # type: ignore[arg-type]


def test_it_shows_no_argument() -> None:
    assert "secret" not in repr(KEY(("secret",)))
