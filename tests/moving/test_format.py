"""The file's bytes: what goes in comes out, and nothing that anybody makes of them does harm."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_cache import ExportFileError, MemoryBackend
from agent_cache.moving.format import Record, Sink, Source, reading

texts = st.text(max_size=12)
paths = st.lists(texts, min_size=1, max_size=4).map(tuple)
tags = st.lists(st.tuples(st.sampled_from(["any", "all"]), paths, paths), max_size=4).map(tuple)
seconds = st.floats(0, 1e9, allow_nan=False)
ttls = st.none() | st.floats(0, 1e9)
tool_records = st.builds(
    Record,
    key=st.binary(max_size=30),
    payload=st.binary(max_size=200),
    at=seconds,
    ttl=ttls,
    age=seconds,
    grace=seconds,
    load_seconds=seconds,
    namespace=texts,
    group=texts,
    tool=texts,
    resource=texts,
    tags=tags,
)
values = st.builds(Record, key=texts, payload=st.binary(max_size=200), at=seconds, ttl=ttls)
records = st.lists(tool_records | values, max_size=6)


def written(given: list[Record], secret: bytes = b"") -> bytes:
    out = io.BytesIO()
    sink = Sink(out, 123.5, secret)
    assert all(sink.add(record) for record in given)
    sink.end()
    return out.getvalue()


def read(raw: bytes, secret: bytes = b"") -> list[Any]:
    return list(reading(io.BytesIO(raw), secret))


@given(records, st.sampled_from([b"", b"secret"]))
def test_what_goes_in_comes_out(given_records: list[Record], secret: bytes) -> None:
    assert read(written(given_records, secret), secret) == [Source(123.5), *given_records]


@given(records, st.data())
def test_a_file_that_was_cut_off_is_refused(given_records: list[Record], data: st.DataObject) -> None:
    raw = written(given_records)
    with pytest.raises(ExportFileError):
        read(raw[: data.draw(st.integers(0, len(raw) - 1))])


@given(records, st.data())
def test_a_changed_byte_is_noticed(given_records: list[Record], data: st.DataObject) -> None:
    raw = bytearray(written(given_records))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ExportFileError):
        read(bytes(raw))


@given(records, records, st.binary(min_size=1, max_size=20))
def test_what_stands_behind_the_end_is_refused(one: list[Record], other: list[Record], more: bytes) -> None:
    for tail in (more, written(other)):
        with pytest.raises(ExportFileError):
            read(written(one) + tail)


@given(st.binary(max_size=300))
def test_anybody_s_bytes_are_refused(raw: bytes) -> None:
    with pytest.raises(ExportFileError):
        read(raw)


HEAD = {"agent_cache": "export", "version": 1, "created": 1.0, "sealed": False}
TOOL: dict[str, Any] = {
    "key": "00", "namespace": "", "group": "g", "tool": "", "resource": "", "at": 0, "ttl": None, "grace": 0, "age": 0,
    "load": 0, "tags": [], "bytes": 0,
}  # fmt: skip
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(
        st.sampled_from([*TOOL, "value", "call", "paths", "chain", "end", "check"]), json_values, max_size=5
    )
)
def test_lines_that_say_anything_are_read_or_refused(changed: dict[str, Any]) -> None:
    raw = json.dumps(HEAD).encode() + b"\n" + json.dumps({**TOOL, **changed}).encode() + b"\n" + b"\n" * 3
    with pytest.raises(ExportFileError):  # at the latest for its missing end
        read(raw)


@pytest.mark.parametrize(
    ("head", "match"),
    [
        ({**HEAD, "version": 2}, "version 2"),
        ({**HEAD, "version": "1"}, "names no version"),
        ({**HEAD, "version": True}, "names no version"),
        ({**HEAD, "agent_cache": "dump"}, "no export"),
        ({"hello": 1}, "no export"),
        ({**HEAD, "created": "now"}, "created"),
        ({**HEAD, "created": -1}, "created"),
        ({**HEAD, "sealed": True}, "secret"),
    ],
)
def test_a_first_line_that_is_not_ours(head: dict[str, Any], match: str) -> None:
    with pytest.raises(ExportFileError, match=match):
        read(json.dumps(head).encode() + b"\n")


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"bytes": 1 << 40}, "no size"),
        ({"bytes": -1}, "no size"),
        ({"bytes": True}, "no size"),
        ({"bytes": 1.0}, "no size"),
        ({"key": "xyz"}, "hex"),
        ({"key": 3}, "key"),
        ({"ttl": -1}, "ttl"),
        ({"ttl": 10**400}, "ttl|JSON"),
        ({"age": float("nan")}, "age"),
        ({"at": float("inf")}, "at"),
        ({"tags": [["none", [], []]]}, "kind"),
        ({"tags": [["any", "cart", []]]}, "tags"),
        ({"tags": [3]}, "tags"),
        ({"tags": {}}, "tags"),
        ({"tags": [["any"] * 3] * 5000}, "tags|long"),
        ({"group": None}, "group"),
    ],
)
def test_lines_out_of_bounds(changed: dict[str, Any], match: str) -> None:
    raw = json.dumps(HEAD).encode() + b"\n" + json.dumps({**TOOL, **changed}).encode() + b"\n\n"
    with pytest.raises(ExportFileError, match=match):
        read(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"[" * 60_000 + b"\n",
        b'{"a":' * 10_000 + b"\n",
        b"9" * 60_000 + b"\n",
        b"x" * 200_000,
        b'{"agent_cache":"export","version":' + b"9" * 5_000 + b"}\n",
        b"\xff\xfe\n",
    ],
)
def test_lines_made_to_hurt(raw: bytes) -> None:
    with pytest.raises(ExportFileError):
        read(raw)


def test_what_a_file_claims_takes_no_memory(tmp_path: Path) -> None:
    """A line that says 64 MiB follow, a line without an end, a packing that unpacks to a gigabyte of nothing."""
    line = json.dumps({**TOOL, "bytes": 64 << 20}).encode() + b"\n"
    head = json.dumps(HEAD).encode() + b"\n"
    for name, raw in {
        "claims": head + line + b"few",
        "endless.gz": gzip.compress(head + b"x" * (300 << 20), 1),
        "bomb.gz": gzip.compress(b"\0" * (300 << 20), 1),
    }.items():
        (tmp_path / name).write_bytes(raw)
        tracemalloc.start()
        with pytest.raises(ExportFileError):
            asyncio.run(MemoryBackend().import_(tmp_path / name))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 16 << 20, name


@pytest.mark.parametrize("cut", [1, 10, 30])
async def test_of_a_file_that_is_not_whole_nothing_is_stored(tmp_path: Path, cut: int) -> None:
    store, target = MemoryBackend(), MemoryBackend()
    await store.set_many({f"k{number}": number for number in range(300)})
    for name in ("f", "f.gz"):
        await store.export(tmp_path / name)
        raw = (tmp_path / name).read_bytes()
        for broken in (raw[:-cut], raw[: len(raw) // 2], raw[:-cut] + b"U" * cut):
            (tmp_path / name).write_bytes(broken)
            with pytest.raises(ExportFileError, match=name):
                await target.import_(tmp_path / name)
    assert await target.count() == 0


async def test_a_record_that_says_too_much_is_left_out_of_the_export(tmp_path: Path) -> None:
    store = MemoryBackend()
    await store.set("k" * 70_000, 1)
    await store.set("k", 1)
    report = await store.export(tmp_path / "f")
    assert (report.values, report.left_out) == (1, {"too_long": 1})
    assert (await MemoryBackend().import_(tmp_path / "f")).values == 1
