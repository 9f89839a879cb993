"""Functions under ``@function_tool``: the context they are handed is no part of the key."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, get_origin, get_type_hints

from agents import RunContextWrapper
from agents.tool_context import ToolContext

from agent_cache.decorators import AgentCache
from agent_cache.errors import ConfigurationError
from agent_cache.model import GLOBAL

__all__ = ["cached_function", "context_parameter", "scope_is_missing"]

F = TypeVar("F", bound=Callable[..., Any])


def context_parameter(function: Callable[..., Any]) -> str | None:
    """The name of the first parameter if the SDK hands the run's context to it."""
    first = next(iter(inspect.signature(function).parameters.values()), None)
    if first is None:
        return None
    try:
        annotation = get_type_hints(function).get(first.name, first.annotation)
    except Exception:  # noqa: BLE001 - an annotation that cannot be evaluated: its text is left
        annotation = first.annotation
    if isinstance(annotation, str):
        known = annotation.partition("[")[0].rpartition(".")[2]
        return first.name if known in ("RunContextWrapper", "ToolContext") else None
    kind = get_origin(annotation) or annotation
    return first.name if inspect.isclass(kind) and issubclass(kind, (RunContextWrapper, ToolContext)) else None


def scope_is_missing(name: str) -> ConfigurationError:
    """What is wrong with a read that is told who asks, and does not say who may share its answers."""
    return ConfigurationError(
        "scope",
        None,
        f"{name} is handed the run's context, which may tell who is asking and is not part of the key: say who may share "
        "its answers, scope='user' with an identity in the session, or scope='global' if they are the same for everybody",
    )


def cached_function(
    resource: str | list[str] | tuple[str, ...], scope: str = GLOBAL, *, ignore: Iterable[str] = (), **options: Any
) -> Callable[[F], F]:
    """:class:`~agent_cache.AgentCache` for a function under ``@function_tool`` that may take the run's context.

    A first parameter of type ``RunContextWrapper`` or ``ToolContext`` is left out of the key; then ``scope`` must be said.

    Args:
        resource: as for ``AgentCache``, like ``scope``, ``ignore`` and the options.
        scope: who may share an answer.
        ignore: further parameters to leave out of the key.
        options: passed on.

    Raises:
        ConfigurationError: at decoration.
    """

    def decorate(function: F) -> F:
        context = context_parameter(function)
        if context is not None and scope is GLOBAL:
            raise scope_is_missing(function.__name__)
        left_out = [ignore] if isinstance(ignore, str) else list(ignore)
        cached: Any = AgentCache(
            resource, scope=scope, ignore=[*left_out, *([] if context is None else [context])], **options
        )(function)
        return cached  # type: ignore[no-any-return]

    return decorate
