"""Which store a command works on: its URL, what cannot be worked on, opening and closing it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import click

from agent_cache.backends.urls import without_password
from agent_cache.config import backend_from_url
from agent_cache.errors import ConfigurationError

__all__ = ["in_store", "json_option", "url_option"]

T = TypeVar("T")

url_option = click.option(
    "--url", envvar="AGENT_CACHE_URL", metavar="URL", help="The store; without it AGENT_CACHE_URL."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def in_store(url: str | None, work: Callable[[Any], Awaitable[T]], *, new_ok: bool = False) -> T:
    """Open the store, work on it, close it.

    Raises:
        ConfigurationError: there is no URL, it is wrong, or it is memory; there is no such file (unless ``new_ok``).
        BackendError: it cannot be reached.
    """
    backend = _opened(url, new_ok=new_ok)

    async def worked() -> T:
        try:
            return await work(backend)
        finally:
            await backend.close()

    return asyncio.run(worked())


def _opened(url: str | None, *, new_ok: bool) -> Any:
    if not url:
        raise ConfigurationError("url", None, "give --url, or set AGENT_CACHE_URL, such as disk:///var/cache/agent.db")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ConfigurationError("url", without_password(url), "this is no URL") from None
    if parts.scheme == "memory":
        fix = "memory belongs to the process that has it: ask get_metrics() there, or use disk:// or redis://"
        raise ConfigurationError("url", url, fix)
    if parts.scheme == "disk":
        _check_file(Path(unquote(parts.netloc + parts.path)).expanduser(), new_ok=new_ok)
    made = backend_from_url(url, "url", secret=os.environ.get("AGENT_CACHE_SECRET", "").encode())
    return getattr(made, "far", made)  # near copies of a program that ends at once are of no use


def _check_file(path: Path, *, new_ok: bool) -> None:
    """A program starts empty where it cannot trust a file. Who types a path must not lose what is there by it."""
    if not path.is_file():
        if new_ok:
            return
        raise ConfigurationError("url", f"disk://{path}", "there is no such file; is the path right?")
    if not path.stat().st_size:
        return  # nothing to lose
    why = import_module("agent_cache.backends.disk.files").unfit(str(path))
    if why:
        fix = f"no cache to be worked on: {why}. A program would start empty there; this one leaves the file as it is"
        raise ConfigurationError("url", f"disk://{path}", fix)
