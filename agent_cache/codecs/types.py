"""Which classes a return annotation reaches, and a fingerprint of the whole.

Data names a class only by its entry here, so what a payload can build was written down
in the tool's own signature. Reading annotations never raises: what cannot be read is not
reachable, and results of such classes are refused later.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from enum import Enum
from typing import Any, ForwardRef, cast, get_args, get_origin, get_type_hints

from pydantic import BaseModel, RootModel

from agent_cache.codecs.compare import ATOMS, is_record

__all__ = ["FORMAT", "Reach", "is_blank"]

FORMAT = "1"  # version of the written forms; part of every schema fingerprint

_VALIDATORS = frozenset({"AfterValidator", "BeforeValidator", "PlainValidator", "WrapValidator"})
_MAX_TYPES = 2_000


def is_blank(annotation: Any) -> bool:
    """Whether an annotation says nothing (missing, Any, object, unresolved text)."""
    return (
        annotation is inspect.Parameter.empty
        or annotation is Any
        or annotation is object
        or isinstance(annotation, (str, ForwardRef))
    )


class Reach:
    """The classes an annotation reaches.

    Attributes:
        by_name: class by the name payloads use for it.
        names: the other way round.
        quiet: no class runs code of its own when a value is validated, and nothing a
            value carries is left to a default made at that time.
        factories: some field has a default factory.
        fingerprint: short hex of the names, fields and members of all of it.
    """

    def __init__(self, annotation: Any) -> None:
        self.by_name: dict[str, type] = {}
        self.names: dict[type, str] = {}
        self.quiet = True
        self.factories = False
        self._lines: list[str] = []
        self._seen: set[str] = set()
        try:
            root = self._describe(annotation)
        except Exception as error:  # annotations are arbitrary objects
            root = f"?{type(error).__name__}"
        text = "\n".join([FORMAT, root, *self._lines])
        self.fingerprint = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]

    def _describe(self, annotation: Any) -> str:
        """Text for one annotation, the same in every process; notes classes on the way."""
        if is_blank(annotation):
            return annotation if isinstance(annotation, str) else "any"
        if annotation is None:
            return "None"
        args = get_args(annotation)
        origin = get_origin(annotation)
        if origin is not None:
            for extra in getattr(annotation, "__metadata__", ()):
                if type(extra).__name__ in _VALIDATORS:
                    self.quiet = False
            parts = [self._argument(part) for part in args]
            return f"{self._describe_origin(origin)}[{', '.join(parts)}]"
        for wrapper in ("__supertype__", "__value__", "__bound__"):  # NewType, type alias, TypeVar
            inner = getattr(annotation, wrapper, None)
            if inner is not None and not isinstance(annotation, type):
                name = str(getattr(annotation, "__name__", wrapper))
                if wrapper == "__value__":
                    if name in self._seen:
                        return name
                    self._seen.add(name)
                return f"{name}={self._describe(inner)}"
        constraints = getattr(annotation, "__constraints__", ())
        if constraints:
            return "|".join(self._describe(each) for each in constraints)
        if isinstance(annotation, type):
            return self._class(annotation)
        return type(annotation).__qualname__

    def _describe_origin(self, origin: Any) -> str:
        return self._class(origin) if isinstance(origin, type) else str(origin)

    def _argument(self, part: Any) -> str:
        if isinstance(part, Enum):  # Literal[Colour.RED]
            return f"{self._class(type(part))}.{part.name}"
        if isinstance(part, (bool, int, bytes)):
            return repr(part)
        if isinstance(part, str):  # a Literal's text, or a forward reference
            return repr(part)
        if isinstance(part, (list, tuple)):
            return f"({', '.join(map(self._argument, part))})"
        return self._describe(part)

    def _class(self, cls: type) -> str:
        if cls in self.names:
            return self.names[cls]
        plain = f"{cls.__module__}:{cls.__qualname__}"
        is_enum = issubclass(cls, Enum)
        is_named = issubclass(cls, tuple) and hasattr(cls, "_fields")
        is_dict = issubclass(cls, dict) and hasattr(cls, "__total__")
        if not (is_enum or is_named or is_dict or is_record(cls)) or len(self.names) >= _MAX_TYPES:
            return plain
        name, count = plain, 1
        while name in self.by_name:  # two local classes of one name
            count += 1
            name = f"{plain}#{count}"
        self.by_name[name] = cls
        self.names[cls] = name
        at = len(self._lines)
        self._lines.append("")
        if is_enum:
            members = [
                f"{key}={member.value!r}" if type(member.value) in ATOMS else key
                for key, member in cast(Any, cls).__members__.items()
            ]
        else:
            members = [f"{key}{_details(cls, key)}:{self._describe(hint)}" for key, hint in self._fields(cls)]
        kind = "enum" if is_enum else "tuple" if is_named else "dict" if is_dict else _kind(cls)
        self._lines[at] = f"{kind} {name}({', '.join(members)})"
        return name

    def _fields(self, cls: type) -> list[tuple[str, Any]]:
        try:
            hints = get_type_hints(cls, include_extras=True)
        except Exception:  # a name that is not there: take what is
            hints = {
                key: hint
                for base in reversed(cls.__mro__)
                for key, hint in vars(base).get("__annotations__", {}).items()
                if not isinstance(hint, str)
            }
        if issubclass(cls, BaseModel):
            self._note_model(cls)
            private = getattr(cls, "__private_attributes__", {})
            hints = {key: hint for key, hint in hints.items() if key in private}
            for key, field in cls.model_fields.items():
                hints[key] = field.annotation
                for extra in field.metadata:
                    if type(extra).__name__ in _VALIDATORS:
                        self.quiet = False
        elif dataclasses.is_dataclass(cls):
            if hasattr(cls, "__post_init__") or _has_validators(cls):
                self.quiet = False
            for each in dataclasses.fields(cls):
                if each.default_factory is not dataclasses.MISSING:
                    self.factories = True
                if not each.init:
                    self.quiet = False
        if issubclass(cls, tuple):  # written by place
            return [(key, hints.get(key, Any)) for key in cast(Any, cls)._fields]
        return sorted(hints.items(), key=lambda pair: pair[0])

    def _note_model(self, cls: type[BaseModel]) -> None:
        try:
            cls.model_rebuild(raise_errors=False)
        except Exception:
            self.quiet = False
        noisy = (
            _has_validators(cls)
            or cls.__private_attributes__
            or cls.model_post_init is not BaseModel.model_post_init
            or cls.__init__ not in (BaseModel.__init__, RootModel.__init__)
            or any(field.exclude for field in cls.model_fields.values())
        )
        if noisy:
            self.quiet = False
        if any(field.default_factory is not None for field in cls.model_fields.values()):
            self.factories = True


def _kind(cls: type) -> str:
    return "model" if issubclass(cls, BaseModel) else "dataclass" if dataclasses.is_dataclass(cls) else "class"


def _details(cls: Any, key: str) -> str:
    """What a field says beside its type: whether it may be missing, its default, aliases, constraints."""
    if issubclass(cls, BaseModel):
        field = cls.model_fields.get(key)
        if field is None:
            return ""
        aliases = [str(each) for each in (field.alias, field.validation_alias, field.serialization_alias) if each]
        limits = [_plainly(extra) for extra in field.metadata]
        return "".join(["" if field.is_required() else f"={_plainly(field.default)}", *aliases, *limits])
    if dataclasses.is_dataclass(cls):
        found = next((each for each in dataclasses.fields(cls) if each.name == key), None)
        return "" if found is None or found.default is dataclasses.MISSING else f"={_plainly(found.default)}"
    if issubclass(cls, tuple):
        defaults: dict[str, Any] = getattr(cls, "_field_defaults", {})
        return f"={_plainly(defaults[key])}" if key in defaults else ""
    required = getattr(cls, "__required_keys__", None)
    return "?" if required is not None and key not in required else ""


def _plainly(value: Any) -> str:
    """A text that is the same in every process: a plain value in full, of anything else its type and plain attributes."""
    if type(value) in ATOMS:
        return repr(value)
    if isinstance(value, Enum):
        return value.name
    own = {**vars(value)} if hasattr(value, "__dict__") else {}
    for name in getattr(type(value), "__slots__", ()):
        own.setdefault(name, getattr(value, name, None))
    plain = sorted(f"{name}={each!r}" for name, each in own.items() if type(each) in ATOMS)
    return f"{type(value).__qualname__}({', '.join(plain)})"


def _has_validators(cls: Any) -> bool:
    found = getattr(cls, "__pydantic_decorators__", None)
    kinds = ("validators", "field_validators", "root_validators", "model_validators")
    return found is not None and any(getattr(found, kind, None) for kind in kinds)
