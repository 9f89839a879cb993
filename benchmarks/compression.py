"""What `compress=` saves and costs: bytes in the store and CPU per write and per read, on disk and on Redis.

    python benchmarks/compression.py [--rounds N] [--json FILE]

JSON of 1 KB to 1 MB (orders as a shop's tool returns them, seeded). Each size is written and read again with and without
compression, interleaved in one process; CPU is of this process, all threads, so Redis' own is not in it; a ratio is
taken within a round, and printed is the median over the rounds. Reads are of the key-value surface, of values that were not
read a moment ago. The last table is the methods by themselves, zstd if the package `zstandard` is there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from agent_cache import DiskBackend, RedisBackend
from agent_cache.codecs import codec_for
from agent_cache.codecs.packed import pack
from agent_cache.testing.servers import RedisServer

SIZES = (1_000, 2_000, 10_000, 100_000, 1_000_000)
WORDS = [
    "order",
    "customer",
    "status",
    "shipped",
    "pending",
    "address",
    "street",
    "city",
    "price",
    "total",
    "warehouse",
    "note",
    "refund",
    "delayed",
    "arrived",
]
CODEC = codec_for(Any)


def order(rng: random.Random) -> dict[str, Any]:
    return {
        "id": f"ord-{rng.randrange(10**8):08d}",
        "status": rng.choice(["shipped", "pending", "cancelled"]),
        "total": round(rng.uniform(1, 999), 2),
        "items": [
            {"sku": f"SKU-{rng.randrange(10**6)}", "qty": rng.randrange(1, 5), "price": round(rng.uniform(1, 99), 2)}
            for _ in range(rng.randrange(1, 4))
        ],
        "note": " ".join(rng.choices(WORDS, k=rng.randrange(4, 14))),
        "updated": f"2026-{rng.randrange(1, 13):02d}-{rng.randrange(1, 28):02d}T{rng.randrange(24):02d}:00:00Z",
    }


def document(rng: random.Random, size: int) -> list[dict[str, Any]]:
    """Orders whose JSON takes about so many bytes."""
    orders, written = [], 2
    while written < size:
        orders.append(order(rng))
        written += len(json.dumps(orders[-1], separators=(",", ":"))) + 1
    return orders


async def cpu(work: Callable[[], Awaitable[Any]]) -> float:
    began = time.process_time()
    await work()
    return time.process_time() - began


async def one_size(make: Callable[[bool], Any], weigh: Callable[[Any], Awaitable[int]], size: int, rounds: int) -> Any:
    rng = random.Random(size)
    many = max(4, min(300, 1_500_000 // size))
    values = {f"k{n}": document(rng, size) for n in range(many)}
    backends = {packed: make(packed) for packed in (False, True)}
    writes: dict[bool, list[float]] = {False: [], True: []}
    reads: dict[bool, list[float]] = {False: [], True: []}
    weights = {}
    for _ in range(rounds):
        for packed, backend in backends.items():

            async def write(backend: Any = backend) -> None:
                for key, value in values.items():
                    await backend.set(key, value)

            async def read(backend: Any = backend) -> None:
                for key in values:
                    await backend.get(key)

            await backend.clear()
            writes[packed].append(await cpu(write) / many)
            await backend.set("another", 1)  # what was read a moment ago is looked up anew
            reads[packed].append(await cpu(read) / many)
    for packed, backend in backends.items():
        weights[packed] = await weigh(backend) / many
        await backend.close()
    return {
        "size": size,
        "bytes": weights[True] / weights[False],
        "stored": [weights[False], weights[True]],
        "write_us": [statistics.median(writes[packed]) * 1e6 for packed in (False, True)],
        "read_us": [statistics.median(reads[packed]) * 1e6 for packed in (False, True)],
        "write": statistics.median(b / a for a, b in zip(writes[False], writes[True], strict=True)),
        "read": statistics.median(b / a for a, b in zip(reads[False], reads[True], strict=True)),
    }


async def on_disk(rounds: int) -> list[Any]:
    async def weigh(backend: Any) -> int:
        size: int = (await backend.stats())["bytes"]
        return size

    rows = []
    for size in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            places = Path(folder)
            rows.append(
                await one_size(
                    lambda packed, places=places: DiskBackend(places / f"{packed}.db", compress=1 if packed else False),
                    weigh,
                    size,
                    rounds,
                )
            )
    return rows


async def on_redis(rounds: int) -> list[Any]:
    rows = []
    with RedisServer() as server:

        async def weigh(backend: Any) -> int:
            names = [name async for name in backend._scan(backend._names.prefix + b"kv:k")]
            replies = [(await backend._links.ask(name, [("MEMORY", "USAGE", name)])).values[0] for name in names]
            return sum(replies)

        for size in SIZES:
            rows.append(
                await one_size(
                    lambda packed: RedisBackend(server.url, prefix=f"{packed}:", compress=1 if packed else False),
                    weigh,
                    size,
                    rounds,
                )
            )
    return rows


def table(where: str, rows: Sequence[Any]) -> str:
    lines = [
        f"| {where}, JSON of | bytes, plain → packed | ratio | µs to write, plain → packed | ratio | µs to read | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [f"{row[what][0]:,.0f} → {row[what][1]:,.0f}" for what in ("stored", "write_us", "read_us")]
        lines.append(
            f"| {row['size']:,} bytes | {cells[0]} | {row['bytes']:.2f} | {cells[1]} | {row['write']:.2f} | {cells[2]} "
            f"| {row['read']:.2f} |"
        )
    return "\n".join(lines)


def best_of(work: Callable[[], Any], repeats: int) -> float:
    taken = []
    for _ in range(5):
        began = time.process_time()
        for _ in range(repeats):
            work()
        taken.append((time.process_time() - began) / repeats)
    return min(taken) * 1e6


def methods() -> list[Any]:
    try:
        import zstandard
    except ImportError:
        zstandard = None
    rows = []
    for size in SIZES:
        value = document(random.Random(size), size)
        text = json.dumps(value, separators=(",", ":")).encode()
        repeats = max(2, min(2_000, 1_000_000 // size))
        ways: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
            f"zlib {level}": (lambda raw, level=level: zlib.compress(raw, level), zlib.decompress)
            for level in (1, 3, 6)
        }
        if zstandard is not None:
            for level in (1, 3):
                ways[f"zstd {level}"] = (
                    zstandard.ZstdCompressor(level=level).compress,
                    zstandard.ZstdDecompressor().decompress,
                )
        written = best_of(lambda value=value: json.dumps(value), repeats)
        found = best_of(lambda text=text: json.loads(text), repeats)
        rows.append({"size": size, "method": "json itself", "ratio": 1.0, "in_us": written, "out_us": found})
        for name, (into, out) in ways.items():
            packed = into(text)
            rows.append(
                {
                    "size": size,
                    "method": name,
                    "ratio": len(packed) / len(text),
                    "in_us": best_of(lambda into=into, text=text: into(text), repeats),
                    "out_us": best_of(lambda out=out, packed=packed: out(packed), repeats),
                }
            )
        assert len(pack(CODEC.freeze(value).payload())) < size
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", metavar="FILE", help="keep the figures")
    options = parser.parse_args(arguments)
    found = {
        "disk": asyncio.run(on_disk(options.rounds)),
        "redis": asyncio.run(on_redis(options.rounds)),
        "methods": methods(),
    }
    print(table("disk", found["disk"]), table("Redis", found["redis"]), sep="\n\n")
    print("\n| bytes | method | of the bytes | µs in | µs out |\n|---|---|---|---|---|")
    for row in found["methods"]:
        print(f"| {row['size']:,} | {row['method']} | {row['ratio']:.2f} | {row['in_us']:.0f} | {row['out_us']:.0f} |")
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
