"""Replies are read as hiredis reads them, in whatever pieces they come; what is no reply is an error, never a value."""

from __future__ import annotations

import itertools
from typing import Any

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import InvalidResponse

from agent_cache.backends.redis import resp
from agent_cache.backends.redis.resp import MORE, Pushed, Reader, packed
from agent_cache.backends.redis.scripts import TOKEN


class RefusalError(Exception):
    """In place of redis-py's errors; equal by its text."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RefusalError) and self.args == other.args

    __hash__ = Exception.__hash__


def line(kind: bytes, text: bytes) -> bytes:
    return kind + text + b"\r\n"


def many(kind: bytes, count: int, parts: list[bytes]) -> bytes:
    return line(kind, b"%d" % count) + b"".join(parts)


words = st.text("abc xyz:$*+-_", max_size=8).map(str.encode)
numbers = st.integers(-(2**63), 2**63 - 1).map(lambda n: b"%d" % n)
scalars = st.one_of(
    words.map(lambda word: line(b"+", word)),
    words.map(lambda word: line(b"-", b"ERR " + word)),
    numbers.map(lambda number: line(b":", number)),
    st.binary(max_size=40).map(resp.bulk),
    st.sampled_from([b"$-1\r\n", b"*-1\r\n", b"_\r\n", b"#t\r\n", b"#f\r\n", b",1.5\r\n", b",-2\r\n", b"$0\r\n\r\n"]),
    words.map(lambda word: b"=%d\r\ntxt:%b\r\n" % (len(word) + 4, word)),
)
replies = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda parts: many(b"*", len(parts), parts)),
        st.lists(st.tuples(words.map(resp.bulk), inner), max_size=3, unique_by=lambda pair: pair[0]).map(
            lambda pairs: many(b"%", len(pairs), [part for pair in pairs for part in pair])
        ),
    ),
    max_leaves=8,
)


def read(reader: Any, pieces: list[bytes]) -> list[Any]:
    found: list[Any] = []
    for piece in pieces:
        reader.feed(piece)
        while (reply := reader.gets()) is not MORE:
            found.append(reply)
    return found


@given(st.lists(replies, max_size=4), st.lists(st.integers(0, 300), max_size=12))
def test_what_comes_is_read_as_hiredis_reads_it_whatever_the_pieces(sent: list[bytes], cuts: list[int]) -> None:
    data = b"".join(sent)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(edges)]
    theirs = hiredis.Reader(protocolError=InvalidResponse, replyError=RefusalError, notEnoughData=MORE)
    assert read(Reader(RefusalError), pieces) == read(theirs, [data])


@given(st.lists(replies, min_size=1, max_size=3))
def test_it_comes_byte_by_byte(sent: list[bytes]) -> None:
    data = b"".join(sent)
    assert len(read(Reader(RefusalError), [data[at : at + 1] for at in range(len(data))])) == len(sent)


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n",
        b"*-5\r\n",
        b"\x00\r\n",
        b"\r\n",
        b"$x\r\n",
        b":1.5\r\n",
        b":\r\n",
        b",x\r\n",
        b"#maybe\r\n",
        b"*x\r\n",
    ],
)
def test_what_is_no_reply_is_an_error(data: bytes) -> None:
    reader = Reader(RefusalError)
    reader.feed(data)
    with pytest.raises(InvalidResponse):
        reader.gets()


def test_what_is_pushed_can_be_told_from_a_reply() -> None:
    data = b">2\r\n$7\r\nmessage\r\n:1\r\n*1\r\n:1\r\n"
    found = read(Reader(RefusalError), [data])
    assert [type(each) for each in found] == [Pushed, list]
    assert found == [[b"message", 1], [1]]


def test_an_error_in_an_array_is_one_of_its_parts() -> None:
    assert read(Reader(RefusalError), [b"*2\r\n-ERR a\r\n!5\r\nERR b\r\n"]) == [
        [RefusalError("ERR a"), RefusalError("ERR b")]
    ]


def test_the_reader_is_ours_where_hiredis_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not isinstance(resp.reader_for(RefusalError)[0], Reader)
    monkeypatch.setattr(resp, "hiredis", None)
    reader, pushed = resp.reader_for(RefusalError)
    assert isinstance(reader, Reader)
    assert pushed is Pushed


def test_commands_are_sent_as_they_are_and_scripts_by_their_digest() -> None:
    assert packed(("SET", b"\r\n", "ü", 5)) == b"*4\r\n$3\r\nSET\r\n$2\r\n\r\n\r\n$2\r\n\xc3\xbc\r\n$1\r\n5\r\n"
    assert packed((TOKEN, 0)) == b"*3\r\n$7\r\nEVALSHA\r\n$40\r\n%b\r\n$1\r\n0\r\n" % TOKEN.sha.encode()
    with pytest.raises(TypeError):
        packed(("SET", "a", 1.5))
