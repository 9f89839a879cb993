"""From a call to its key: the tool's signature, compiled once.

``CallShape`` binds a call the way Python does (defaults filled in, so all
spellings of one call are one), says which parameters belong to the key, and
turns their values into a digest. What bytes a *value* becomes is
:mod:`agent_cache.canonical`'s business; what is done with a key is nobody's here.

Bound signatures are compiled to Python source, as ``dataclasses`` and ``attrs`` do for
``__init__``: the interpreter's own argument binding replaces ``inspect.Signature.bind``
and the dict it builds on every call.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
import keyword
import sys
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from inspect import Parameter
from typing import Any, get_origin, get_type_hints

from agent_cache.canonical import alias, aliasable, encode, write_alias
from agent_cache.clock import nonce
from agent_cache.errors import ConfigurationError, UnkeyableArgumentError

__all__ = ["IDENTITY", "CallShape", "tool_identity"]

IDENTITY = "__agent_cache_identity__"

_GUARDED: dict[type, str] = {str: "str", bytes: "bytes", int: "int", bool: "bool", dict: "dict", list: "list"}
_BOXES = frozenset({dict, list})
_SCALARS = frozenset({str, bytes, int, bool, float, type(None)})
_DIGEST = 20
_MAX_HOT_PART = 1_024  # characters or bytes


def hot_part(value: object) -> object:
    """One argument in a hot key: equal parts mean equal typed values; ``None`` means "not at once"."""
    kind = type(value)
    if kind is str:
        return value
    if kind in _SCALARS:
        return kind, value
    return alias(value)


def _too_long(part: object) -> bool:
    """Hot tables hold their keys: long texts are looked up by digest instead."""
    return isinstance(part, (str, bytes)) and len(part) > _MAX_HOT_PART


def _hot_ok(value: object, guard: type | None) -> bool:
    """May this value stand in the key of an entry answered at once?"""
    kind = type(value)
    if guard is not None:
        return kind is guard and (guard not in _BOXES or aliasable(value))
    if kind is float:
        return value != 0.0  # 0.0 and -0.0 are equal and hash alike, and are not the same argument
    return kind in _SCALARS or aliasable(value)


@dataclass(frozen=True, slots=True)
class KeyParameter:
    """A parameter that belongs to the key, and the exact type its annotation promises, if a guard can check it."""

    name: str
    index: int
    guard: type | None


class CallShape:
    """A tool's signature, compiled.

    Attributes:
        pack: ``pack(*args, **kwargs) -> tuple`` of all parameters' values in order; raises TypeError as the tool would.
        names: all parameters' names, in that order.
        keyed: the parameters that belong to the key.
        number: a process-wide number of this shape, first element of every hot key.
    """

    _numbers = itertools.count(1)

    def __init__(self, function: Callable[..., Any], left_out: Iterable[str]) -> None:
        self.signature = inspect.signature(function)
        self.parameters = tuple(self.signature.parameters.values())
        self.names = tuple(p.name for p in self.parameters)
        self.number = next(self._numbers)
        hints = _hints(function)
        out = frozenset(left_out)
        self.keyed = tuple(
            KeyParameter(p.name, i, _guard(p, hints.get(p.name)))
            for i, p in enumerate(self.parameters)
            if p.name not in out
        )
        self.prefix = _free_prefix(self.names)
        self.defaults = {
            f"{self.prefix}d{i}": p.default for i, p in enumerate(self.parameters) if p.default is not Parameter.empty
        }
        self.pack: Callable[..., tuple[Any, ...]] = self._compile(
            "pack", f"    return ({''.join(f'{n}, ' for n in self.names)})", "def"
        )
        self.pack.__qualname__ = function.__qualname__  # what Python calls it in a TypeError

    # -- source text, shared with the decorators' generated wrappers ------------------------------------------

    def header(self) -> str:
        """The parameter list as source, defaults by reference to :attr:`defaults`."""
        out: list[str] = []
        seen_star = False
        for i, p in enumerate(self.parameters):
            if p.kind is Parameter.VAR_POSITIONAL:
                seen_star = True
            if p.kind is Parameter.KEYWORD_ONLY and not seen_star:
                out.append("*")
                seen_star = True
            star = "*" if p.kind is Parameter.VAR_POSITIONAL else "**" if p.kind is Parameter.VAR_KEYWORD else ""
            default = "" if p.default is Parameter.empty else f"={self.prefix}d{i}"
            out.append(f"{star}{p.name}{default}")
            following = self.parameters[i + 1] if i + 1 < len(self.parameters) else None
            if p.kind is Parameter.POSITIONAL_ONLY and (
                following is None or following.kind is not Parameter.POSITIONAL_ONLY
            ):
                out.append("/")
        return ", ".join(out)

    def forward(self) -> str:
        """The argument list that calls the tool with the same values, as source."""
        out = []
        for p in self.parameters:
            if p.kind is Parameter.VAR_POSITIONAL:
                out.append(f"*{p.name}")
            elif p.kind is Parameter.VAR_KEYWORD:
                out.append(f"**{p.name}")
            elif p.kind is Parameter.KEYWORD_ONLY:
                out.append(f"{p.name}={p.name}")
            else:
                out.append(p.name)
        return ", ".join(out)

    def guards(self) -> str:
        """A condition under which the hot key means what it says, as source."""
        x = self.prefix
        tests = [f"{x}type({k.name}) is {x}{_GUARDED[k.guard]}" for k in self.keyed if k.guard is not None]
        return " and ".join(tests) or "True"

    def hot_key_source(self) -> str:
        """The hot key's expression, as source. Never raises TypeError: every part is hashable."""
        parts = []
        for k in self.keyed:
            if k.guard in _BOXES:
                parts.append(f"{self.prefix}dumps({k.name}, 2)")  # what alias() does, in place: its caller catches
            else:
                parts.append(k.name if k.guard is not None else f"{self.prefix}part({k.name})")
        return f"({self.number}, {''.join(f'{part}, ' for part in parts)})"

    @property
    def hot_key_may_raise(self) -> bool:
        """Whether :meth:`hot_key_source` raises for a value without an alias."""
        return any(k.guard in _BOXES for k in self.keyed)

    def _compile(self, name: str, body: str, kind: str, extra: Mapping[str, object] | None = None) -> Any:
        return compile_function(self, name, body, kind, extra or {})

    # -- keys -----------------------------------------------------------------------------------------------

    def hot_key(self, values: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """The key under which this call may be answered at once, or None when it may not."""
        parts: list[Any] = [self.number]
        for k in self.keyed:
            value = values[k.index]
            if _too_long(value) or not _hot_ok(value, k.guard):
                return None
            part = value if k.guard is not None and k.guard not in _BOXES else hot_part(value)
            if part is None or _too_long(part):
                return None
            parts.append(part)
        return tuple(parts)

    def arguments(self, values: tuple[Any, ...]) -> dict[str, Any]:
        """All arguments by name."""
        return dict(zip(self.names, values, strict=True))

    def has_only_atoms(self, values: tuple[Any, ...]) -> bool:
        """Whether nobody can change these arguments while the tool runs."""
        for k in self.keyed:  # noqa: SIM110 - on the way of every miss; a generator would be twice as dear
            if type(values[k.index]) not in _SCALARS:
                return False
        return True

    def digest(self, identity: bytes, values: tuple[Any, ...]) -> bytes:
        """The call's digest: injective over tool identity and typed arguments, up to hash collisions of 160 bits.

        Raises:
            UnkeyableArgumentError: naming the parameter (and where in it) that has no canonical form.
        """
        out = [identity]
        for k in self.keyed:
            encode(values[k.index], k.name, out)
        return hashlib.blake2b(b"".join(out), digest_size=_DIGEST).digest()


def compile_function(
    shape: CallShape, name: str, body: str, kind: str, extra: Mapping[str, object]
) -> Callable[..., Any]:
    """Compile a function with ``shape``'s parameter list. Source holds names only; values come in by reference."""
    own = {"part": hot_part, "dumps": write_alias, "type": type, **{name: kind for kind, name in _GUARDED.items()}}
    scope: dict[str, Any] = {f"{shape.prefix}{key}": value for key, value in own.items()}
    scope |= {**shape.defaults, **extra}
    name = name if name.isidentifier() and not keyword.iskeyword(name) else "tool"
    source = f"{kind} {name}({shape.header()}):\n{body}\n"
    exec(compile(source, f"<agent_cache {name}>", "exec"), scope)  # noqa: S102 - names are identifiers checked by inspect
    made: Callable[..., Any] = scope[name]
    return made


def _guard(parameter: Parameter, hint: object) -> type | None:
    if parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
        return None
    kind = get_origin(hint) or hint
    return kind if isinstance(kind, type) and kind in _GUARDED else None


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Evaluated annotations; none at all where one cannot be evaluated (a name that exists for type checkers only)."""
    try:
        return get_type_hints(function)
    except Exception:  # noqa: BLE001 - evaluating foreign annotations may raise anything; guards are only an optimisation
        return {}


def _free_prefix(names: Iterable[str]) -> str:
    """A prefix for our own names in generated source that no parameter of the tool begins with."""
    taken = tuple(names)
    prefix = "_ac_"
    while any(name.startswith(prefix) for name in taken):
        prefix = "_" + prefix
    return prefix


# -- who a tool is ------------------------------------------------------------------------------------------------

_known: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()


def tool_identity(function: Callable[..., Any], shape: CallShape, schema: str) -> bytes:
    """Module, qualified name, parameters and result schema; stable over processes where the function is importable.

    Functions made inside functions (closures), in notebooks, or a second time under the same name
    get a random part: another closure's answers are another tool's answers. Who makes functions for tools that exist
    elsewhere may say what they are in the attribute ``IDENTITY`` (a text; None for "like no other").
    """
    if hasattr(function, IDENTITY):
        said = getattr(function, IDENTITY)
        text = f"{said}\0{schema}\0{','.join(f'{k.name}' for k in shape.keyed)}"
        salt = nonce() if said is None else b"said"
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass") + b"\0" + salt, digest_size=_DIGEST).digest()
    module, name = function.__module__ or "?", function.__qualname__
    text = f"{module}\0{name}\0{schema}\0{','.join(f'{k.name}' for k in shape.keyed)}"
    importable = "<locals>" not in name and not (module == "__main__" and not _main_file())
    if module == "__main__":
        text += f"\0{_main_file()}"
    seen = _known.get(text)
    if importable and (seen is None or seen is function):
        _known[text] = function
        salt = b""
    else:
        salt = nonce()
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass") + b"\0" + salt, digest_size=_DIGEST).digest()


def origin_of(function: Callable[..., Any]) -> str:
    """Where a tool is from, for people and for recordings: module and qualified name, or what ``IDENTITY`` says."""
    if hasattr(function, IDENTITY):
        return f"{function.__module__}:{getattr(function, IDENTITY)}"
    return f"{function.__module__}:{function.__qualname__}"


def return_hint(function: Callable[..., Any]) -> object:
    """The evaluated return annotation, with ``Annotated`` metadata; ``Any`` where it cannot be evaluated."""
    raw = inspect.get_annotations(function).get("return", Any)
    if not isinstance(raw, str):
        return raw
    try:
        return inspect.get_annotations(function, eval_str=True).get("return", Any)
    except Exception:  # noqa: BLE001 - a name that exists for type checkers only; then values tell what they are
        return Any


def _main_file() -> str:
    return str(getattr(sys.modules.get("__main__"), "__file__", "") or "")


def left_out_parameters(
    function: Callable[..., Any], skip_args: int, ignore: Iterable[str], namespace: Mapping[str, Any]
) -> frozenset[str]:
    """Names that ``skip_args`` and ``ignore`` take out of the key; checks both, and that ``self`` is spoken for.

    Raises:
        ConfigurationError: a wrong count, an unknown name, or a method that says nothing about ``self``.
    """
    parameters = list(inspect.signature(function).parameters.values())
    positional = [p.name for p in parameters if p.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)]
    if isinstance(skip_args, bool) or not isinstance(skip_args, int) or not 0 <= skip_args <= len(positional):
        fix = f"give how many leading positional parameters to leave out; {function.__name__} has {len(positional)}"
        raise ConfigurationError("skip_args", skip_args, fix)
    out = frozenset(positional[:skip_args]) | ignored_parameters(function, ignore)
    first = positional[0] if positional else None
    if first in ("self", "cls") and first not in out and "__agent_cache_key__" not in namespace:
        fix = (
            f"{function.__qualname__} is a method: say whether {first} belongs to the key. Leave it out with "
            f"skip_args=1 or ignore=({first!r},), or define __agent_cache_key__ in the class above this method"
        )
        raise ConfigurationError("skip_args", skip_args, fix)
    return out


def ignored_parameters(function: Callable[..., Any], ignore: Iterable[str]) -> frozenset[str]:
    """The names in ``ignore``, checked.

    Raises:
        ConfigurationError: an unknown name.
    """
    names = list(inspect.signature(function).parameters)
    if not isinstance(ignore, Iterable):
        raise ConfigurationError("ignore", ignore, "give the names of parameters, such as ('ctx',)")
    ignored = (ignore,) if isinstance(ignore, str) else tuple(ignore)
    for name in ignored:
        if name not in names:
            known = ", ".join(names) or "none"
            raise ConfigurationError("ignore", ignored, f"{name!r} is no parameter of the tool; it has {known}")
    return frozenset(ignored)


__all__ += [
    "KeyParameter",
    "UnkeyableArgumentError",
    "compile_function",
    "hot_part",
    "ignored_parameters",
    "left_out_parameters",
    "origin_of",
    "return_hint",
]
