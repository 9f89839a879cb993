"""Loaders as callers write them: with the key as their argument, or without any."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from types import FunctionType
from typing import Any

from agent_cache.errors import ConfigurationError

__all__ = ["Loader", "checked_loader", "load"]

Loader = Callable[[], Awaitable[Any]] | Callable[[], Any] | Callable[[Any], Awaitable[Any]] | Callable[[Any], Any]
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def checked_loader(loader: object, batch_loader: object) -> None:
    """
    Raises:
        ConfigurationError: both of them, or something that cannot be called.
    """
    if loader is not None and batch_loader is not None:
        raise ConfigurationError("batch_loader", batch_loader, "give either loader or batch_loader")
    if loader is not None and not callable(loader):
        raise ConfigurationError("loader", loader, "give a function, such as lambda: fetch(key)")
    if batch_loader is not None and not callable(batch_loader):
        raise ConfigurationError("batch_loader", batch_loader, "give a function of a list of keys")


def load(loader: Callable[..., Any], key: Any) -> Any:
    """Call a loader: with the key if it needs an argument. Parameters with defaults are its own business."""
    return loader(key) if _needs_the_key(loader) else loader()


def _needs_the_key(loader: Callable[..., Any]) -> bool:
    if type(loader) is FunctionType:  # at once: most loaders are made for one call
        code = loader.__code__
        return code.co_argcount > len(loader.__defaults__ or ())
    try:
        parameters = inspect.signature(loader).parameters.values()
    except (TypeError, ValueError):  # some callables in C say nothing
        return False
    return any(p.kind in _POSITIONAL and p.default is p.empty for p in parameters)
