"""What a model fills in of a tool's arguments, what LangChain puts in beside it, and the arguments as the tool gets them.

Looks at tools and calls and decides nothing about them; whoever asks makes keys and refusals of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from inspect import Parameter
from typing import Annotated, Any, Union, cast, get_args, get_origin, get_type_hints

from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, InjectedToolArg, InjectedToolCallId, StructuredTool, Tool
from langgraph.prebuilt import ToolRuntime
from pydantic import BaseModel

__all__ = ["Arguments", "definition", "functions_of"]

_PER_CALL = frozenset({"callbacks", "run_manager", "tool_call_id"})  # tell the run, never who is asking
_VARIADIC = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


def functions_of(tool: BaseTool) -> tuple[Callable[..., Any], ...]:
    """The functions that do the work: a StructuredTool's own, else the tool's methods."""
    if isinstance(tool, (StructuredTool, Tool)):
        return tuple(function for function in (tool.func, tool.coroutine) if function is not None)
    has_own = type(tool)._arun is not BaseTool._arun
    return (tool._run, tool._arun) if has_own else (tool._run,)


def definition(function: Callable[..., Any]) -> Callable[..., Any]:
    """Where the annotations stand: the function itself, a partial's, or an object's ``__call__``."""
    if isinstance(function, partial):
        return definition(function.func)
    return function if inspect.isroutine(function) else cast(Any, function).__call__


class Arguments:
    """One tool's arguments.

    Attributes:
        needed: those the model fills in, by name, and whether each must be there.
        injected: parameters somebody else fills in, or nobody.
        carriers: those among them that may tell who is asking.
        takes_call_id: the tool is told the id of the call, so that its answer may depend on it.
    """

    def __init__(self, tool: BaseTool) -> None:
        visible = tool.tool_call_schema
        self._schema = None if isinstance(visible, dict) else _validated_by(tool, visible)
        self._is_opaque = self._schema is not None and self._schema is not tool.args_schema and _bends(tool.args_schema)
        self.needed = _needed(visible)
        self.injected: set[str] = set()
        self.carriers: set[str] = set()
        self.takes_call_id = False
        if not isinstance(tool, Tool):  # that has one argument, called anything
            for function in functions_of(tool):
                self._look_at(function)
        if not isinstance(visible, dict):
            hidden = _fields(tool.get_input_schema()) - self.needed.keys()
            self.carriers |= hidden - self.injected
            self.injected |= hidden

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.needed)

    def of(self, given: Mapping[str, Any]) -> dict[str, Any] | None:
        """What the tool will get of what the model wrote; None where that does not fit the schema, or cannot be told.

        What a model writes under the name of an injected argument is dropped, as LangChain drops it.
        """
        if self._is_opaque:
            return None
        own = {name: value for name, value in given.items() if name not in self.injected}
        if self._schema is None:
            return own
        try:
            return _values(self._schema, own)
        except ValueError:  # pydantic's, of either version: LangChain answers such a call itself
            return None

    def _look_at(self, function: Callable[..., Any]) -> None:
        hints = _hints(function)
        model_fills = self.needed.keys() - {"runtime"}  # LangGraph hands its own to any parameter of this name
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.kind in _VARIADIC or name in model_fills:
                continue
            hint = hints.get(name)
            self.injected.add(name)
            if name == "tool_call_id" or _is(hint, InjectedToolCallId):
                self.takes_call_id = True
            elif name not in _PER_CALL and (name == "runtime" or not _is_constant(parameter, hint)):
                self.carriers.add(name)
            self.takes_call_id |= _is(hint, ToolRuntime) or name == "runtime"


def _is_constant(parameter: Parameter, hint: object) -> bool:
    """A parameter with a default that nobody fills in, as far as its annotation tells."""
    if parameter.default is Parameter.empty or hint is None:
        return False
    return not any(_is(hint, kind) for kind in (InjectedToolArg, ToolRuntime)) and not _mentions_config(hint)


def _mentions_config(hint: object) -> bool:
    return hint is RunnableConfig or any(map(_mentions_config, get_args(hint)))


def _is(hint: object, kind: type) -> bool:
    """Whether an annotation says that the argument is one of this kind."""
    origin = get_origin(hint)
    if origin is Annotated or origin is Union:
        return any(_is(part, kind) for part in (*get_args(hint), *getattr(hint, "__metadata__", ())))
    each = origin or hint
    return isinstance(each, kind) or (isinstance(each, type) and issubclass(each, kind))


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(definition(function), include_extras=True)
    except Exception:  # noqa: BLE001 - annotations are the user's; unresolved ones count as carriers, the safe side
        return {}


def _validated_by(tool: BaseTool, visible: Any) -> Any:
    """The schema the tool validates with, if the model fills in all of it; else what the model sees of it."""
    full = tool.args_schema
    if full is None:
        return None  # LangChain hands the arguments on as they are
    return full if not isinstance(full, dict) and _fields(full) == _fields(visible) else visible


def _bends(schema: Any) -> bool:
    """Whether the schema has validators that may change arguments, which what the model sees of it has not."""
    decorators = getattr(schema, "__pydantic_decorators__", None)
    return decorators is not None and bool(decorators.field_validators or decorators.model_validators)


def _fields(schema: Any) -> set[str]:
    return set(schema.model_fields if issubclass(schema, BaseModel) else schema.__fields__)


def _needed(visible: Any) -> dict[str, bool]:
    if isinstance(visible, dict):
        required = visible.get("required", ())
        return {name: name in required for name in visible.get("properties", {})}
    if issubclass(visible, BaseModel):
        return {name: field.is_required() for name, field in visible.model_fields.items()}
    return {name: bool(field.required) for name, field in visible.__fields__.items()}


def _values(schema: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Validated and with defaults, as the attributes a tool is called with: a dump may leave out what tells two apart."""
    if issubclass(schema, BaseModel):
        model = schema.model_validate(given)
        return {name: getattr(model, name) for name in type(model).model_fields} | (model.model_extra or {})
    old = schema.parse_obj(given)
    return dict(old.__dict__)
