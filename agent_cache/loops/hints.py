"""The words: what is said to the model, and to whoever reads the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agent_cache.model import LoopKind

__all__ = ["hint", "spell"]


def spell(tool: str, arguments: Mapping[str, str]) -> str:
    return f"{tool}({', '.join(f'{name}={value}' for name, value in arguments.items())})"


def hint(kind: LoopKind, call: str, tool: str, count: int, turn: Sequence[str], result: str | None) -> str:
    """Fit to show to the model: what was repeated, that nothing came of it, and what to do instead."""
    if kind == "depth":
        return f"The budget of {count} tool calls for this turn is used up. Answer with what you have, or ask the user."
    if kind == "repeat":
        unchanged = f" It was: {result}" if result else ""
        return (
            f"{call} has been called {count} times and its result has not changed.{unchanged}\n"
            "Calling it again will not help: use the result you have, change the arguments, or ask the user. "
            "(If this tool is meant to be polled, declare it with poll=True.)"
        )
    if kind == "error":
        return (
            f"{tool} has failed {count} times with the same error, whatever its arguments were: {result}\n"
            "Do what the error asks for, try another way, or ask the user."
        )
    if kind == "no_progress":
        return (
            f"The last {count} tool calls, {call} among them, had all been made before, and each was answered as before. "
            "Nothing has been written and nothing new is known. Use what you have, do something else, or ask the user."
        )
    return (
        f"The calls {', '.join(dict.fromkeys(turn))} have been made in turn {count} times and nothing has changed. "
        "Do something else, or ask the user."
    )
