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
            members = [f"{key}:{self._describe(hint)}" for key, hint in self._fields(cls)]
        self._lines[at] = f"{name}({', '.join(members)})"
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


def _has_validators(cls: Any) -> bool:
    found = getattr(cls, "__pydantic_decorators__", None)
    kinds = ("validators", "field_validators", "root_validators", "model_validators")
    return found is not None and any(getattr(found, kind, None) for kind in kinds)
