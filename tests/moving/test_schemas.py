"""A tool whose return type has changed does not find what its former self stored: in a file, in Redis, over an export.

Each side is a process of its own, with a module of the same name, as after a deployment.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Make = Callable[..., Any]

HEAD = """
import asyncio, json, sys
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Literal, NamedTuple, NotRequired, Optional, TypedDict
from pydantic import AfterValidator, BaseModel, Field
from agent_cache import AgentCache, configure
from agent_cache.config import settings

ran = []
{types}

@AgentCache("thing:{{name}}")
async def look_up(name: str) -> {returns}:
    ran.append(name)
    return {value}
"""
MAIN = """
import asyncio, json, sys
sys.path.insert(0, sys.argv[1])
import tool
from agent_cache import configure
from agent_cache.config import settings

async def main():
    configure(backend=sys.argv[2])
    got = [repr(await tool.look_up("a")) for _ in range(2)]
    backend = settings.backend
    await backend.close()
    print(json.dumps([tool.ran, got]))

asyncio.run(main())
"""

MODEL = "class Thing(BaseModel):\n    name: str\n"
CASES: dict[str, tuple[tuple[str, str, str], tuple[str, str, str]]] = {
    "a field more": (
        (MODEL, "Thing", "Thing(name='x')"),
        (MODEL + "    size: int = 0\n", "Thing", "Thing(name='x')"),
    ),
    "a field's type": (
        (MODEL + "    size: int = 1\n", "Thing", "Thing(name='x')"),
        (MODEL + "    size: float = 1\n", "Thing", "Thing(name='x', size=1.0)"),
    ),
    "a default": (
        (MODEL + "    size: int = 1\n", "Thing", "Thing(name='x')"),
        (MODEL + "    size: int = 2\n", "Thing", "Thing(name='x')"),
    ),
    "an alias": (
        (MODEL, "Thing", "Thing(name='x')"),
        ("class Thing(BaseModel):\n    name: str = Field(alias='title')\n", "Thing", "Thing(title='x')"),
    ),
    "a constraint": (
        (MODEL, "Thing", "Thing(name='x')"),
        ("class Thing(BaseModel):\n    name: str = Field(min_length=1)\n", "Thing", "Thing(name='x')"),
    ),
    "a model within": (
        ("class Part(BaseModel):\n    a: int = 1\n" + MODEL + "    part: Part = Part()\n", "Thing", "Thing(name='x')"),
        ("class Part(BaseModel):\n    b: int = 1\n" + MODEL + "    part: Part = Part()\n", "Thing", "Thing(name='x')"),
    ),
    "in a list": (
        (MODEL, "list[Thing]", "[Thing(name='x')]"),
        (MODEL + "    size: int = 0\n", "list[Thing]", "[Thing(name='x')]"),
    ),
    "a dataclass": (
        ("@dataclass\nclass Thing:\n    name: str\n", "Thing", "Thing('x')"),
        ("@dataclass\nclass Thing:\n    name: str\n    size: int = 0\n", "Thing", "Thing('x')"),
    ),
    "a dataclass's default": (
        ("@dataclass\nclass Thing:\n    name: str\n    size: int = 1\n", "Thing", "Thing('x')"),
        ("@dataclass\nclass Thing:\n    name: str\n    size: int = 2\n", "Thing", "Thing('x')"),
    ),
    "a model that became a dataclass": (
        (MODEL, "Thing", "Thing(name='x')"),
        ("@dataclass\nclass Thing:\n    name: str\n", "Thing", "Thing('x')"),
    ),
    "a typed dict": (
        ("class Thing(TypedDict):\n    name: str\n", "Thing", "{'name': 'x'}"),
        ("class Thing(TypedDict):\n    name: str\n    size: NotRequired[int]\n", "Thing", "{'name': 'x'}"),
    ),
    "a typed dict's required field": (
        ("class Thing(TypedDict):\n    name: str\n    size: NotRequired[int]\n", "Thing", "{'name': 'x'}"),
        ("class Thing(TypedDict):\n    name: str\n    size: int\n", "Thing", "{'name': 'x', 'size': 1}"),
    ),
    "a typed dict's totality": (
        ("class Thing(TypedDict, total=False):\n    name: str\n", "Thing", "{'name': 'x'}"),
        ("class Thing(TypedDict):\n    name: str\n", "Thing", "{'name': 'x'}"),
    ),
    "a named tuple's order": (
        ("class Thing(NamedTuple):\n    a: int\n    b: int\n", "Thing", "Thing(1, 2)"),
        ("class Thing(NamedTuple):\n    b: int\n    a: int\n", "Thing", "Thing(1, 2)"),
    ),
    "an enum's values": (
        ("class Thing(Enum):\n    A = 1\n    B = 2\n", "Thing", "Thing.A"),
        ("class Thing(Enum):\n    A = 2\n    B = 1\n", "Thing", "Thing.A"),
    ),
    "a literal": (
        ("", "Literal['a', 'b']", "'a'"),
        ("", "Literal['a', 'c']", "'a'"),
    ),
    "the annotation": (
        ("", "dict[str, int]", "{'a': 1}"),
        ("", "dict[str, int | None]", "{'a': 1}"),
    ),
}


def run(folder: Path, url: str, tool: tuple[str, str, str], warm: Any = None) -> tuple[list[str], list[str]]:
    """What ran, and what was returned, in a process that has this tool.

    Of the processes of one test at least one is no fork: hashes are salted anew in an interpreter that starts.
    """
    types, returns, value = tool
    folder.mkdir(exist_ok=True)
    (folder / "tool.py").write_text(HEAD.format(types=types, returns=returns, value=value))
    main = folder / "main.py"
    main.write_text(MAIN)
    line = [str(main), str(folder), url]
    done = subprocess.run(
        [sys.executable, "-B", *line]
        if warm is None
        else warm.command(*line, imports=("pydantic", "sqlite3", "redis")),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ran, got = json.loads(done.stdout.splitlines()[-1])
    return ran, got


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.replace(" ", "_"))
def test_a_changed_return_type_invalidates_by_itself(case: str, warm: Any, tmp_path: Path) -> None:
    url = f"disk://{tmp_path / 'cache.db'}?near=0"
    before, after = CASES[case]
    assert run(tmp_path / "a", url, before, warm)[0] == ["a"]
    ran, got = run(tmp_path / "c", url, after, warm)
    assert ran == ["a"], f"{case}: the former answer was served: {got}"
    assert run(tmp_path / "b", url, before)[0] == []  # each version has its own, over processes: a rolling deployment


def test_the_same_over_redis(make: Make, warm: Any, tmp_path: Path) -> None:
    backend = make("redis")
    server = f"redis://{backend._links.where}/0?prefix={backend._names.prefix.decode()}&near=0"
    for case in ("a field more", "a dataclass", "a typed dict"):
        before, after = CASES[case]
        folder = tmp_path / case.replace(" ", "_")
        folder.mkdir()
        assert run(folder / "a", server, before, warm)[0] == ["a"]
        assert run(folder / "b", server, before)[0] == []
        assert run(folder / "c", server, after, warm)[0] == ["a"]
        assert run(folder / "d", server, before, warm)[0] == []
