"""Every command, on a file and on a real Redis: what it prints, its JSON, its exit code."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from agent_cache import AgentCache, DiskBackend
from agent_cache.backends.base import Missing
from agent_cache.cli.chosen import paths_of, seconds_of
from agent_cache.cli.opened import in_store
from agent_cache.config import backend_from_url
from agent_cache.errors import ConfigurationError
from agent_cache.moving.arriving import RAW

Run = Callable[..., Result]
_BEGINNING = ("click", "rich.console", "rich.table", "redis", "sqlite3")


def _json(result: Result) -> Any:
    return json.loads(result.stdout)


def _entries(run: Run, url: str, *more: str) -> list[dict[str, Any]]:
    return list(_json(run("ls", "--json", "--url", url, *more))["entries"])


def _key(run: Run, url: str, state: str, tool: str = "get_cart") -> str:
    return str(next(e["key"] for e in _entries(run, url, "--tool", tool) if e["state"] == state))


def test_ls_lists_and_filters(run: Run, filled: str) -> None:
    everything = _entries(run, filled)
    assert sorted((e["arguments"], e["state"]) for e in everything) == [
        ("query='[red]\\x1b[31m'", "current"), ("user_id=42", "current"), ("user_id=43", "dropped")
    ]  # fmt: skip
    assert [e["paths"] for e in _entries(run, filled, "--tag", "cart:42")] == [["cart:42"]]
    assert len(_entries(run, filled, "--tag", "cart")) == 2
    assert len(_entries(run, filled, "--current")) == 2
    assert len(_entries(run, filled, "--tool", "search")) == 1
    assert _entries(run, filled, "--namespace", "other") == []
    assert len(_entries(run, filled, "--limit", "1")) == 1
    text = run("ls", "--url", filled).stdout
    assert "get_cart" in text
    assert "3 entries" in text
    assert "\x1b" not in text


def test_show_takes_the_beginning_of_a_digest(run: Run, filled: str) -> None:
    key = _key(run, filled, "current")
    shown = _json(run("show", key[:10], "--json", "--url", filled))
    assert (shown["key"], shown["arguments"]) == (key, "user_id=42")
    assert json.loads(shown["value"])["user"] == 42
    text = run("show", key, "--url", filled).stdout
    assert "user_id=42" in text
    assert "\x1b" not in text
    run("show", "ffff0000ffff", "--url", filled, code=1)
    run("show", "ff", "--url", filled, code=2)


def test_show_finds_a_value_by_its_key(run: Run, url: str) -> None:
    async def store(backend: Any) -> None:
        await backend.set("hello there", [1, 2])
        await backend.set("v1", 3)

    in_store(url, store, new_ok=True)
    assert json.loads(_json(run("show", "hello there", "--json", "--url", url))["value"]) == [1, 2]
    assert _json(run("explain", "hello there", "--json", "--url", url))["verdict"] == "served"
    assert _json(run("show", "v1", "--json", "--url", url))["value"] == "3"  # four characters are for digests
    assert "at least 4" in run("show", "v2", "--url", url, code=2).output


def test_explain_says_who_dropped_it(run: Run, filled: str) -> None:
    dropped = _json(run("explain", _key(run, filled, "dropped"), "--json", "--url", filled, code=1))
    assert dropped["verdict"] == "dropped"
    assert "add_item" in dropped["why"]
    assert "any(cart:43)" in dropped["tags"]
    current = run("explain", _key(run, filled, "current"), "--url", filled).stdout
    assert "served" in current
    assert "any(cart:42): a write of cart:42" in current


def test_invalidate_moves_the_tags(run: Run, filled: str) -> None:
    key = _key(run, filled, "current")
    planned = _json(run("invalidate", "cart:42", "--dry-run", "--json", "--url", filled))
    assert (planned["count"], planned["invalidated"]) == (1, False)
    assert _key(run, filled, "current") == key

    async def token(backend: Any) -> Any:
        (tags,) = [entry.tags async for entry in backend.scan() if entry.name == key]
        return tags

    tags = in_store(filled, token)
    assert "1 entry dropped" in run("invalidate", "cart:42", "--url", filled).stdout

    async def look(backend: Any) -> Any:
        return await backend.lookup(bytes.fromhex(key), tags, RAW)

    seen = in_store(filled, look)
    assert isinstance(seen, Missing)
    assert (seen.why, seen.dropped_by) == ("stale", "agent-cache invalidate")
    assert _json(run("invalidate", "cart", "--json", "--url", filled))["count"] == 0
    assert _json(run("invalidate", "catalog:9", "--json", "--url", filled))["count"] == 1  # what lists it may hold it
    run("invalidate", "cart:{user_id}", "--url", filled, code=2)


def test_an_invalidation_refuses_loads_under_way(run: Run, url: str) -> None:
    """It is a move of the protocol, not a deletion: a load that began before is not kept."""
    from agent_cache.backends.base import NewEntry
    from agent_cache.codecs import codec_for
    from agent_cache.tags import read_tags

    codec, tags, key = codec_for(Any), read_tags([("cart", "42")], ()), b"k" * 20

    async def begin(backend: Any) -> Any:
        return (await backend.lookup(key, tags, RAW)).token

    token = in_store(url, begin, new_ok=True)
    run("invalidate", "cart:42", "--url", url)

    async def fill(backend: Any) -> Any:
        await backend.fill(token, NewEntry(key, codec.freeze(1, 100), None, 0.0, "g", None, ()))
        if hasattr(backend, "flush"):
            await backend.flush()
        return await backend.lookup(key, tags, codec)

    assert isinstance(in_store(url, fill), Missing)


def test_stats_tells_what_was_saved(run: Run, filled: str) -> None:
    found = _json(run("stats", "--json", "--url", filled))
    tools = {one["tool"]: one for one in found["tools"]}
    assert (tools["get_cart"]["hits"], tools["get_cart"]["misses"], tools["get_cart"]["cost_saved"]) == (2, 2, 1.0)
    assert tools["add_item"]["invalidations"] == 1
    assert sum(one["entries"] for one in found["entries"]) == 3
    text = run("stats", "--url", filled).stdout
    assert "get_cart" in text
    assert "50.0%" in text
    lines = run("stats", "--watch", "0.1", "--times", "2", "--json", "--url", filled).stdout.splitlines()
    assert [json.loads(line)["entries"] for line in lines] == [None, None]
    run("stats", "--since", "soon", "--url", filled, code=2)


def test_export_clear_and_import(run: Run, filled: str, tmp_path: Path) -> None:
    file = str(tmp_path / "out.jsonl.gz")
    assert _json(run("export", file, "--json", "--url", filled))["entries"] == 2
    run("export", file, "--url", filled, code=2)  # it is there
    run("export", file, "--overwrite", "--url", filled)
    run("clear", "--url", filled, code=2)  # there is nobody to ask
    assert len(_entries(run, filled)) == 3
    assert _json(run("clear", "--yes", "--json", "--url", filled)) == {"cleared": 3}
    assert _entries(run, filled) == []
    assert "2 entries and 0 values imported" in run("import", file, "--url", filled).stdout
    assert len(_entries(run, filled, "--current")) == 2
    run("import", str(tmp_path / "none.jsonl"), "--url", filled, code=3)


def test_doctor(run: Run, filled: str, tmp_path: Path) -> None:
    found = _json(run("doctor", "--check", "--json", "--url", filled))
    assert all(one["level"] != "error" for one in found)
    assert {"checked"} <= {one["check"] for one in found}
    policy = tmp_path / "policy.toml"
    policy.write_text('[tools.get_user]\nkind = "read"\nresource = "user:{id}"\n')
    (warned,) = _json(run("doctor", "--policy", str(policy), "--json"))
    assert warned["level"] == "warning"
    assert "ttl" in warned["fix"]
    policy.write_text(policy.read_text() + '[tools.set_user]\nkind = "write"\nresource = "user:{id}"\n')
    assert "All is well" in run("doctor", "--policy", str(policy)).stdout
    policy.write_text('[tools.get_user]\nkind = "raed"\n')
    assert "raed" in run("doctor", "--policy", str(policy), code=1).stdout


def test_a_store_that_is_away(run: Run) -> None:
    away = "redis://somebody:hunter2@127.0.0.1:1/0"
    for line, code in ((("doctor",), 1), (("ls",), 3), (("stats",), 3), (("invalidate", "cart"), 3)):
        result = run(*line, "--url", away, code=code)
        assert "hunter2" not in result.output
        assert result.output


def test_what_cannot_be_worked_on(run: Run, tmp_path: Path) -> None:
    assert "AGENT_CACHE_URL" in run("ls", code=2).stderr
    assert "get_metrics" in run("ls", "--url", "memory://", code=2).stderr
    assert "no such file" in run("ls", "--url", f"disk://{tmp_path}/none.db", code=2).stderr
    assert not (tmp_path / "none.db").exists()
    assert "hunter2" not in run("ls", "--url", "ftp://me:hunter2@host/x", code=2).output
    run("nonsense", code=2)


def test_a_tag_as_a_person_writes_it() -> None:
    assert paths_of("cart:42") == ("cart", "42")
    assert paths_of("user:mia@example.org") == paths_of("user:mia%40example.org") == ("user", "mia%40example.org")
    assert [seconds_of(text, "--since") for text in ("90", "15m", "2h", "7d", "0.5s")] == [90, 900, 7_200, 604_800, 0.5]


@pytest.mark.parametrize("line", [["ls"], ["stats"], ["doctor"]])
def test_in_a_pipe_there_is_no_colour_and_no_bar(filled: str, line: list[str], warm: Any) -> None:
    program = warm.command("-m", "agent_cache.cli", *line, imports=_BEGINNING)
    environment = {**os.environ, "AGENT_CACHE_URL": filled}
    done = subprocess.run(program, capture_output=True, text=True, timeout=120, env=environment, check=True)
    assert done.stdout
    assert "\x1b" not in done.stdout
    assert done.stderr == ""


def test_nobody_reads_to_the_end(filled: str, warm: Any) -> None:
    command = f"{shlex.join(warm.command('-m', 'agent_cache.cli', 'ls', '--json', imports=_BEGINNING))} | head -c 1"
    environment = {**os.environ, "AGENT_CACHE_URL": filled}
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, timeout=120, env=environment, check=False
    )
    assert (done.stdout, done.stderr) == ("{", "")


def test_without_click_it_says_what_to_install() -> None:
    program = "import sys; sys.modules['click'] = None; from agent_cache.cli import main; sys.exit(main(['ls']))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "pip install 'agent-cache[cli]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_library_does_without_click_and_rich() -> None:
    program = "import sys, agent_cache, agent_cache.cli; print(sorted({'click', 'rich'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


def test_shell_completion() -> None:
    environment = {
        **os.environ,
        "_AGENT_CACHE_COMPLETE": "bash_complete",
        "COMP_WORDS": "agent-cache in",
        "COMP_CWORD": "1",
    }
    program = [sys.executable, "-m", "agent_cache.cli"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert "plain,invalidate" in done.stdout


@pytest.mark.parametrize("line", [["stats"], ["ls"], ["doctor", "--check"], ["clear", "--yes"], ["invalidate", "cart"]])
@pytest.mark.parametrize("kind", ["text", "copy", "another program's", "another version"])
def test_no_command_destroys_what_is_at_a_path(run: Run, kind: str, line: list[str], tmp_path: Path) -> None:
    """A program starts empty where it cannot trust a file: it is emptied, or put aside. Who only looks must not lose it."""
    path = tmp_path / "a place" / "notes.db"
    path.parent.mkdir()
    made = tmp_path / "cache.db"
    asyncio.run(_value_in(f"disk://{made}"))
    if kind == "text":
        path.write_text("what I must not forget\n", "utf-8")
    elif kind == "another program's":
        with closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE notes (text)")
    else:
        path.write_bytes(made.read_bytes())
    if kind == "another version":
        with path.open("r+b") as file:
            file.seek(60)
            file.write(b"\x3f")
    before = path.read_bytes()
    result = run(*line, "--url", f"disk://{path}", code=2)
    assert path.read_bytes() == before
    assert str(path) in result.output
    assert list(path.parent.iterdir()) == [path]
    assert result.output
    assert "1 entry" in run("ls", "--url", f"disk://{made}").stdout  # the one that was copied is as it was


async def _value_in(url: str) -> None:
    backend: Any = backend_from_url(url)
    await backend.set("greeting", "hello")
    await backend.close()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["stats", "--since", "bogus"], "Invalid value for '--since': 'bogus' is no duration"),
        (["stats", "--times", "2"], "--times 2 says how often --watch shows it"),
        (["import", "x.jsonl", "--max-age", "0"], "Invalid value for '--max-age': '0' is no duration"),
        (["simulate", "x.jsonl", "--ttl", ""], "Invalid value for '--ttl': '' is no duration"),
        (["ls", "--tag", ""], "tag='': give a resource"),
    ],
    ids=lambda part: part[0] if isinstance(part, list) else "",
)
def test_a_wrong_option_is_named(run: Run, filled: str, line: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("{}")
    words = [str(tmp_path / word) if word == "x.jsonl" else word for word in line]
    result = run(*words, *([] if line[0] == "simulate" else ["--url", filled]), code=2)
    assert said in result.output


def test_a_file_that_cannot_be_made_is_named_as_it_was_given(run: Run, filled: str, tmp_path: Path) -> None:
    file = str(tmp_path / "nowhere" / "cache.export")
    assert f"'{file}'" in run("export", file, "--url", filled, code=3).output


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("bogus=1", "there is no 'bogus' behind its ?"),
        ("max_bytes=abc", "max_bytes is"),
        ("max_bytes=²", "max_bytes is"),
    ],
)
def test_a_url_says_which_option_is_wrong(query: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        backend_from_url(f"disk://{tmp_path}/cache.db?{query}")
    assert said in str(caught.value)


def test_a_port_that_is_none_is_not_taken_for_a_password(run: Run) -> None:
    assert "Port out of range" in run("ls", "--url", "redis://host:99999/0", code=2).output


def test_one_long_name_does_not_fill_the_listing(run: Run, tmp_path: Path) -> None:
    async def fill() -> None:
        async with DiskBackend(tmp_path / "cache.db") as disk:

            @AgentCache("page:{url}", backend=disk)
            async def page(url: str) -> int:
                return 1

            await page("x" * 5_000)

    asyncio.run(fill())
    url = f"disk://{tmp_path}/cache.db"
    assert len(run("ls", "--url", url).output.splitlines()) < 8
    (entry,) = _entries(run, url)
    assert len(entry["paths"][0]) == 5_005
