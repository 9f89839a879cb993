"""When two outcomes are the same one.

Exactly the same, or the same but for what tells of the *run* and not of its result: when it ran, how long it took,
under which process, request or message id, at which address or temporary path. These are recognised by their
shape (a UUID is a UUID in every tool's output) or by the name of the field they stand in, and masked. What may well be the
result itself stays: plain numbers, dates without a time, content hashes, percentages, ids of things (``order_id``).

If nothing but masked fragments is left, they *are* the result (``date``, an id generator, a queue of ids), and the outcomes
are compared exactly. Not so for a write: that it made a fresh id each time is what a repeated write does.

A masked form is made only when a call comes back with another outcome than before, so honest work seldom pays for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable, Mapping
from functools import lru_cache
from typing import Any

__all__ = ["Outcome", "is_error_result", "masked", "shortened"]

_MAX_TEXT = 8_192
_ENDS = 2_048  # of a longer text; the middle counts exactly
SHOWN = 200
_GAP = "\x00"

_RUN = (
    "run|request|req|message|msg|trace|span|correlation|session|sess|execution|exec|invocation|tool_call|call|"
    "transaction|txn|process|proc|response|resp|delivery|receipt|conversation|connection|conn|operation|log"
)
_UNIT = "(?:_(?:ms|us|ns|s|secs?|seconds?|millis(?:econds)?|micros(?:econds)?|nanos|minutes))?"
_DONE = (
    "created|updated|modified|started|finished|completed|ended|generated|checked|fetched|retrieved|received|sent|"
    "queried|logged|issued|cached|accessed|last_seen|as_of"
)
# names of fields, in lower case and with underscores
_OF_THE_RUN = re.compile(
    rf"(?:\w+_)?(?:{_RUN})_?(?:id|uuid|guid)|p?pid|tid|nonce|(?:\w+_)?time_?stamp|ts|time|now"
    rf"|(?:\w+_)?(?:duration|elapsed|latency|took|uptime|runtime|rtt){_UNIT}"
    rf"|(?:start|begin|end|finish|wall|cpu|server|current|local|response|request|processing|execution|query|total|exec)"
    rf"_time{_UNIT}|\w+(?:_ms|_millis)|(?:{_DONE})_at"
)
_OF_WHAT_WAS_MADE = re.compile(r"(?:\w+_)?id|number|url|uri|href|link")

# Each pattern begins with what the search can skip to; none can backtrack further than a few hundred characters.
_FIELD = re.compile(
    r"""(?<![\w-])(?:\\{0,3}["'])?([A-Za-z][\w-]{0,40})\\{0,3}["']?\s{0,2}[:=]\s{0,2}"""
    r"""(?:\\{0,3}"[^"\\]{0,200}\\{0,3}"|'[^']{0,200}'|[^\s,;&}\])"'\\]{1,200})"""
)
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}(?!\w)")
_MONTH = "(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}"
_CLOCK = r"\d{1,2}:\d{2}(?::\d{2})?(?:[.,]\d{1,9})?(?:\s?[ap]m)?(?:\s?(?:z|utc|gmt|[+-]\d{2}:?\d{2}))?"
_WORDS = re.compile(
    r"\b(?:"
    # Sat, 21 Nov 2026 07:47:41 GMT; Nov 21 07:47:41
    rf"(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]{{0,6}},?\s)?(?:\d{{1,2}}\s{_MONTH}(?:\s\d{{4}})?|{_MONTH}\s{{1,2}}\d{{1,2}})"
    rf",?\s{_CLOCK}(?:\s[a-z]{{3,4}}\b)?(?:\s\d{{4}}\b)?"
    r"|(?:pid|(?:process|thread)(?:\sid)?)[\s#:=]{1,3}\d+"
    rf"|(?:{_RUN})[ _-]?id[\s#:=]{{1,3}}[\w-]*\d[\w-]*"
    r"|(?:run|request|req|trace|span|session|sess|toolu|call|resp|msg|txn|corr|exec|proc|tmp)[_-](?=[\w-]{0,64}\d)[a-z0-9][\w-]*"
    r"|(?:took|after|elapsed|duration|waited|ran|running|(?:finished|completed|done|built|exited)\sin)(?:\sfor)?[\s:=]{1,3}"
    r"\d+(?:\.\d+)?\s?(?:s|secs?|seconds?|m|mins?|minutes?)\b"
    r"|localhost:[3-6]\d{4}\b"
    r")"
)
_NUMBERS = re.compile(
    r"[0-9](?<![\w.][0-9])(?:"
    rf"\d{{3}}[-/]\d{{2}}[-/]\d{{2}}[t\s]{_CLOCK}"  # a date with a time
    r"|\d?:\d{2}:\d{2}(?:[.,]\d{1,9})?(?![\w:])"  # a time with seconds
    r"|(?<=1)(?<![\"'#-]1)[5-9]\d{8}(?:\d{3}){0,3}(?:\.\d{1,9})?(?![\w.-])"  # seconds to nanoseconds since 1970
    r"|(?<=0)x[0-9a-f]{4,16}\b"  # an address in memory
    r"|\d{0,15}(?:\.\d{1,15})?\s?(?:ms|msecs?|milliseconds?|µs|us|microseconds?|ns|nanoseconds?)\b"
    r"|\d{0,15}\.\d{1,15}\s?(?:s|secs?|seconds?)\b"
    r"|(?:\d{0,3}h\s?)?\d{0,3}m\s?\d{1,3}(?:\.\d{1,9})?s\b"
    r"|\d{0,2}(?:\.\d{1,3}){3}:[3-6]\d{4}\b"  # an ephemeral port
    r")"
)
_LOG_PID = re.compile(r"\[\d{1,9}\](?=:)")
_TEMPORARY = re.compile(r"/(?:private/)?(?:(?:var/)?tmp/[\w.-]+|var/folders/[\w./-]+)")
_MADE = re.compile(r"#\d+\b|\bid[\s#:=]{1,3}[\w-]*\d[\w-]*")

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_DIGIT = re.compile(r"\d")
_LEFT = re.compile(r"[^\W_]")
_ONLY = re.compile(
    r"""\\{0,3}["'][\w.-]{1,80}\\{0,3}["']\s?:\s?[\[{(]{0,8}\s?\\{0,3}["']?\x00"""
)  # a field that holds no more
_ERROR = re.compile(r"\W{0,3}(?:error|exception|traceback)\b", re.IGNORECASE)


def masked(text: str, *, write: bool = False) -> str:
    """The text, in lower case, with what tells of the run replaced; the text itself where nothing else is in it."""
    if len(text) > _MAX_TEXT:
        ends = masked(text[:_ENDS], write=write), masked(text[-_ENDS:], write=write)
        return f"{ends[0]}{_GAP}{hash(text[_ENDS:-_ENDS])}{_GAP}{ends[1]}"
    if _DIGIT.search(text) is None and ":" not in text and "=" not in text:
        return text
    out = _FIELD.sub(_written_field if write else _read_field, text).lower()
    if "-" in out:
        out = _UUID.sub(_GAP, out)
    out = _NUMBERS.sub(_GAP, _WORDS.sub(_GAP, out))
    if "[" in out:
        out = _LOG_PID.sub(_GAP, out)
    if "/tmp/" in out or "/var/folders/" in out:  # noqa: S108 - looked for, not used
        out = _TEMPORARY.sub(_GAP, out)
    if write:
        out = _MADE.sub(_GAP, out)
    if _GAP not in out or (not write and _LEFT.search(_ONLY.sub("", out)) is None):
        return text
    return out


def _read_field(found: re.Match[str]) -> str:
    return _GAP if _names_the_run(found[1]) else found[0]


def _written_field(found: re.Match[str]) -> str:
    return _GAP if _names_the_run(found[1]) or _names_what_was_made(found[1]) else found[0]


@lru_cache(maxsize=1_024)
def _names_the_run(field: str) -> bool:
    return _OF_THE_RUN.fullmatch(_spelled(field)) is not None


@lru_cache(maxsize=1_024)
def _names_what_was_made(field: str) -> bool:
    return _OF_WHAT_WAS_MADE.fullmatch(_spelled(field)) is not None


def _spelled(field: str) -> str:
    """durationMs, duration-ms, DURATION_MS: duration_ms."""
    return _CAMEL.sub("_", field).lower().replace("-", "_")


class Outcome:
    """How one call turned out.

    Attributes:
        exact: equal outcomes have equal ones; None where that cannot be told (it counts as new).
        error: the text of the error, or None.
        write: the call wrote something.
    """

    __slots__ = ("_masked", "_sample", "error", "exact", "write")

    def __init__(
        self,
        exact: Hashable,
        sample: str | Callable[[], object] | None = None,
        *,
        error: str | None = None,
        write: bool = False,
    ) -> None:
        self.exact = exact
        self.error = error
        self.write = write
        self._sample = sample
        self._masked: str | int | None = None

    def same_as(self, other: Outcome) -> bool:
        """Whether nothing new came: equal, or equal but for what tells of the run."""
        if self.exact is None or other.exact is None:
            return False
        if self.exact == other.exact:
            return True
        if (self.error is None) is not (other.error is None):
            return False
        mine = self.masked()
        return mine is not None and mine == other.masked()

    def answer(self) -> Hashable:
        """What a tool is said to have answered: errors but for what tells of the run, values exactly (it is cheaper)."""
        return self.exact if self.error is None else ("error", self.masked())

    def masked(self) -> int | None:
        """The digest of the masked text, made when it is first asked for; None where there is no text to mask."""
        if self._masked is None:
            text = self._text()
            self._masked = "" if text is None else hash(masked(text, write=self.write))
        return self._masked if isinstance(self._masked, int) else None

    def shown(self) -> str | None:
        """A short text of it for people and models."""
        text = self.error if self.error is not None else self._text()
        return None if text is None else shortened(text)

    def _text(self) -> str | None:
        if self.error is not None:
            return self.error
        if not callable(self._sample):
            return self._sample
        try:
            value = self._sample()
            return value if isinstance(value, str) else json.dumps(value, default=repr, ensure_ascii=False)
        except Exception:  # noqa: BLE001 - somebody's class: there is no text of it, and it is compared exactly
            return None


def shortened(text: str, longest: int = SHOWN) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def is_error_result(value: Any) -> bool:
    """Whether a returned value says that the call failed: many tools return their errors.

    A text that begins with the word; a mapping with a true ``is_error``/``isError``, or an ``error`` that says something.
    """
    if isinstance(value, str):
        return _ERROR.match(value) is not None
    if isinstance(value, Mapping):
        said: Any = value.get("error")
        return value.get("is_error") is True or value.get("isError") is True or (isinstance(said, str) and said != "")
    return False
