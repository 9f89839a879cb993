"""What a tool returned or raised, as data in a cassette; and back, as a value of one's own.

Results go through the tool's codec, so a result that is given again equals the recorded one and has its types. JSON among
the written forms is put into the line as it is, for people to read; what would not come back byte for byte, as text.

Errors are never made by importing a class by its recorded name: builtin exceptions by a table of fixed content, classes the
user gave by comparing names, all others are a :class:`ReplayedToolError` with the name and the text.
"""

from __future__ import annotations

import builtins
import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any, TypeVar
from zlib import crc32

from agent_cache.codecs import Stored, ToolCodec, codec_for
from agent_cache.codecs.tree import json_text
from agent_cache.errors import NoEffect, ReplayedToolError, UnstorableResultError

__all__ = ["ErrorClasses", "error_data", "error_from", "error_name", "replayable", "result_data", "result_from"]

MAX_RESULT = 16 * 1024 * 1024  # bytes; a larger result is not kept
_MAX_TEXT = 10_000
_HEAD = 5  # a payload's format byte and its checksum
_FORMS = {"json": b"J", "typed": b"T", "model": b"P", "codec": b"U"}
_NAMES = {form: name for name, form in _FORMS.items()}
_ANYTHING = codec_for(Any)  # for what errors carry
ErrorClasses = Mapping[str, type[Exception]]

# Those whose state is their arguments and nothing else; groups hold other errors, Unicode errors are rebuilt by arguments.
_BUILTIN: dict[str, type[Exception]] = {
    name: cls
    for name, cls in vars(builtins).items()
    if isinstance(cls, type)
    and issubclass(cls, Exception)
    and cls.__name__ == name
    and not issubclass(cls, ExceptionGroup)
}


_OF_ADAPTERS: dict[str, type[Exception]] = {}
E = TypeVar("E", bound=type[Exception])


def replayable(cls: E) -> E:
    """An adapter's own or its framework's class of errors that every replay may make again.

    Where arguments and attributes have no form, ``__agent_cache_state__()`` gives what is kept (plain data) and the class
    method ``__agent_cache_made__(state)`` makes one of it.
    """
    _OF_ADAPTERS[error_name(cls)] = cls
    return cls


# -- results -----------------------------------------------------------------------------------------------------------


def result_data(value: Any, codec: ToolCodec) -> dict[str, Any]:
    """A result as data.

    Raises:
        UnstorableResultError: it has no faithful form, or is too large.
    """
    inner = getattr(value, "__agent_cache_recorded__", None)
    if inner is not None and not isinstance(value, type):
        value = inner()
    payload = codec.freeze(value, MAX_RESULT).payload()
    if len(payload) > MAX_RESULT:
        raise UnstorableResultError("too_large", f"{len(payload)} bytes, limit {MAX_RESULT}")
    name = _NAMES[payload[:1]]
    body = payload[_HEAD:]
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return {"form": name, "base64": b64encode(body).decode()}
    if name == "codec":
        return {"form": name, "text": text}
    try:
        value = json.loads(text, parse_constant=_no_number)
    except ValueError:  # NaN and the infinities, which a line of JSON has not
        return {"form": name, "text": text}
    return {"form": name, "value": value} if json_text(value) == text else {"form": name, "text": text}


def _no_number(word: str) -> Any:
    raise ValueError(word)


def result_from(data: Mapping[str, Any], codec: ToolCodec) -> Stored:
    """A result again.

    Raises:
        UnstorableResultError: the data is not what this tool's codec writes, or not any more.
    """
    try:
        form = _FORMS[data["form"]]
        if "value" in data:
            body = json_text(data["value"]).encode()
        elif "text" in data:
            body = data["text"].encode()
        else:
            body = b64decode(data["base64"], validate=True)
    except (KeyError, AttributeError, TypeError, ValueError, RecursionError) as error:
        raise UnstorableResultError("codec_error", type(error).__name__) from None
    return codec.thaw_payload(b"".join((form, crc32(body, form[0]).to_bytes(4, "big"), body)))


# -- errors ------------------------------------------------------------------------------------------------------------


def error_name(cls: type) -> str:
    """How a class is named in a cassette: builtin ones as they are called, others with their module."""
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def error_data(error: Exception) -> dict[str, Any]:
    """An error as data: its class by name, its text, and what it carries as far as that has a form."""
    try:
        text = str(error)[:_MAX_TEXT]
    except Exception:  # noqa: BLE001 - somebody's __str__
        text = ""
    if isinstance(error, ReplayedToolError):  # recorded while another cassette was replayed
        return {"type": error.type_name, "text": error.text}
    data: dict[str, Any] = {"type": error_name(type(error)), "text": text.encode("utf-8", "replace").decode()}
    if hasattr(type(error), "__agent_cache_made__"):
        state: Any = error
        return data | _formed("state", state.__agent_cache_state__())
    arguments: tuple[Any, ...] = error.args
    if isinstance(error, OSError) and error.errno is not None:
        arguments = (error.errno, error.strerror, *(() if error.filename is None else (error.filename,)))
    data |= _formed("args", tuple(arguments))
    if "args" in data and type(error).__module__ != "builtins" and vars(error):
        data |= _formed("state", dict(vars(error)))
    return data


def _formed(name: str, value: Any) -> dict[str, Any]:
    """A part of an error, if it has a form."""
    try:
        return {name: result_data(value, _ANYTHING)}
    except UnstorableResultError:
        return {}


def error_from(data: Mapping[str, Any], classes: ErrorClasses) -> Exception:
    """The error again: of its own class where that is builtin, :class:`NoEffect`, or among ``classes``."""
    name, text = str(data.get("type")), str(data.get("text"))
    given = classes.get(name) or _OF_ADAPTERS.get(name)
    made: Exception | None = None
    if given is not None:
        made = _of_class(given, data)
    elif name == error_name(NoEffect):
        made = _of_class(NoEffect, data)
    elif name in _BUILTIN:
        made = _of_builtin(_BUILTIN[name], data)
    return ReplayedToolError(name, text) if made is None else made


def _of_builtin(cls: type[Exception], data: Mapping[str, Any]) -> Exception | None:
    try:
        made = cls(*_arguments(data))
    except Exception:  # noqa: BLE001 - arguments that are not its own: hand-edited, or without a form
        return None
    return made if type(made) is cls else None


def _of_class(cls: type[Exception], data: Mapping[str, Any]) -> Exception | None:
    """As copying does it: the arguments and the state, without running the class's own code."""
    known: Any = cls
    try:
        if hasattr(cls, "__agent_cache_made__"):
            again: Exception = known.__agent_cache_made__(result_from(data["state"], _ANYTHING).fresh())
            return again
        arguments = _arguments(data)
        made = cls.__new__(cls, *arguments)
        made.args = arguments
        if "state" in data:
            vars(made).update(result_from(data["state"], _ANYTHING).fresh())
    except Exception:  # noqa: BLE001 - as above, or a class that cannot be made so
        return None
    return made


def _arguments(data: Mapping[str, Any]) -> tuple[Any, ...]:
    arguments = result_from(data["args"], _ANYTHING).fresh()
    if type(arguments) is not tuple:
        raise TypeError("args")
    return arguments
