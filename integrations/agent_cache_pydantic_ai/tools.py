"""What can be known of a pydantic-ai tool: its function, whether it is told who asks, and what identifies it.

pydantic-ai wraps tools in tools (combined, prefixed, renamed toolsets); here they are unwrapped. Where a toolset does
not say whether a tool gets the run context, it counts as one that does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Union, get_type_hints

from pydantic_ai import ToolReturn
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.toolsets import ApprovalRequiredToolset, ToolsetTool, WrapperToolset

from agent_cache.adapters import function_identity

__all__ = ["KnownTool", "is_meddled", "known_tool", "source_of"]


@dataclass(frozen=True, slots=True)
class KnownTool:
    """One tool as an agent sees it.

    Attributes:
        parameters: the names of the arguments a call comes with.
        takes_context: it is handed the run context (or may be): its answers may depend on who asks.
        function: the Python function behind it, if there is one.
        owner: lives as long as the tool does; a tool of this name with another owner is another tool.
        identity: what makes it this tool in every process; None where nothing says so.
        returns: the type of its results.
    """

    parameters: tuple[str, ...]
    takes_context: bool
    function: Callable[..., Any] | None
    owner: object
    identity: str | None
    returns: Any


def source_of(tool: ToolsetTool[Any] | None) -> Any:
    """What stays the same of a tool over the steps of a run: its function's schema, else the toolset that runs it."""
    found: Any = tool
    while (inner := getattr(found, "source_tool", None)) is not None:
        found = inner
    schema = getattr(getattr(found, "call_func", None), "__self__", None)
    return _innermost(getattr(found, "toolset", None)) if schema is None else schema


def known_tool(definition: ToolDefinition, source: Any, *, meddled: bool = False) -> KnownTool:
    """What can be known of a tool.

    Args:
        definition: as the model sees it.
        source: what :func:`source_of` says; None where there is only a definition.
        meddled: see :func:`is_meddled`.
    """
    schema = source if hasattr(source, "takes_ctx") else None
    function: Callable[..., Any] | None = getattr(schema, "function", None)
    single = getattr(schema, "single_arg_name", None)  # a model as the only argument: its fields are the tool's schema
    properties: Mapping[str, Any] = definition.parameters_json_schema.get("properties", {})
    toolset = None if schema is not None else source
    return KnownTool(
        parameters=(single,) if single is not None else tuple(properties),
        takes_context=meddled or bool(getattr(schema, "takes_ctx", _may_use_context(toolset))),
        function=function,
        owner=function if function is not None else toolset,
        identity=_identity(definition, function, toolset),
        returns=_returns(function),
    )


def is_meddled(tool: ToolsetTool[Any] | None) -> bool:
    """Whether something between the agent and the tool decides by the run context: a wrapper that is not pydantic-ai's,
    or one that asks for approval.
    """
    found: Any = tool
    while found is not None:
        around: Any = getattr(found, "source_toolset", None)
        while around is not None:
            if _decides(around):
                return True
            around = getattr(around, "wrapped", None)
        found = getattr(found, "source_tool", None)
    return False


def _decides(toolset: object) -> bool:
    if isinstance(toolset, ApprovalRequiredToolset):
        return True
    ours = type(toolset).__module__.startswith(("pydantic_ai.", "agent_cache_pydantic_ai."))
    return isinstance(toolset, WrapperToolset) and not ours and type(toolset).call_tool is not WrapperToolset.call_tool


def _innermost(toolset: Any) -> Any:
    """Without what pydantic-ai itself puts around toolsets; somebody else's wrapper may do anything in a call."""
    while type(toolset).__module__.startswith("pydantic_ai.") and hasattr(toolset, "wrapped"):
        toolset = toolset.wrapped
    return toolset


def _may_use_context(toolset: Any) -> bool:
    """Whether a toolset other than one of functions may look at the run context in a call."""
    if type(toolset).__module__ != "pydantic_ai.mcp":
        return True
    return getattr(toolset, "process_tool_call", None) is not None


def _identity(definition: ToolDefinition, function: Callable[..., Any] | None, toolset: Any) -> str | None:
    if function is not None:
        who = function_identity(function)
    else:
        # an id that was chosen: one derived from a host name is not that server's alone
        said = getattr(toolset, "_explicit_id", getattr(toolset, "id", None))
        who = None if said is None else f"toolset:{said}"
    if who is None:
        return None
    schema = json.dumps(definition.parameters_json_schema, sort_keys=True, default=repr)
    return f"pydantic-ai:{who}\0{definition.name}\0{schema}"


def _returns(function: Callable[..., Any] | None) -> Any:
    """The result's type as annotated; any tool may answer with a ToolReturn as well."""
    if function is None:
        return ToolReturn
    try:
        hint = get_type_hints(function).get("return", ToolReturn)
    except Exception:  # noqa: BLE001 - somebody's annotations; without them plain results and ToolReturn are kept
        return ToolReturn
    if hint is Any or hint is ToolReturn:
        return ToolReturn
    return Union[hint, ToolReturn]  # noqa: UP007 - made at run time, of anything
