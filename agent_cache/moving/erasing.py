"""Erasing: what is stored of one identity, of sessions, or of resources goes out of a store for good.

First their tags move, so that no load under way is kept and no copy elsewhere is served; then what is found is deleted, and
at last the store sees to it that nothing can be read from where it was (``finish_erasing``). What "deleted" means on a
store's medium is its own business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from agent_cache.backends.base import StoredEntry
from agent_cache.context import forget_sessions, who_is
from agent_cache.errors import ConfigurationError
from agent_cache.moving.reports import EraseReport
from agent_cache.tags import LINEAGE, Chain, Path, Tag, Template, identity_chain, segment_text, write_tags

__all__ = ["Targets", "erase", "targets", "texts"]

_PASSES = 4
_AT_ONCE = 64
_WRITER = "an erasure"


class Targets:
    """What is to be erased."""

    def __init__(self, chain: Chain, worlds: frozenset[str], sessions: frozenset[str], paths: tuple[Path, ...]) -> None:
        self.chain = chain
        self.paths = paths
        self._worlds = worlds
        self._sessions = sessions
        self._tags = frozenset(write_tags(paths, ()))
        self.chains: dict[Chain, None] = {chain: None} if chain else {}
        """All that are known so far; in order."""

    def owns(self, chain: Chain) -> bool:
        """Whether entries on this chain are theirs."""
        if chain[:1] == ("session",):
            return (
                not self._sessions.isdisjoint(chain[1:2])
                or not self._worlds.isdisjoint(chain[2:3])
                or chain in self.chains
            )
        return bool(self.chain) and chain[: len(self.chain)] == self.chain

    def holds(self, entry: StoredEntry) -> bool:
        """Whether an entry is to go."""
        if entry.tags is None:
            return False
        return bool(entry.chain and self.owns(entry.chain)) or not self._tags.isdisjoint(entry.tags)

    @property
    def roots(self) -> tuple[Tag, ...]:
        """What moves first: the resources' tags."""
        return tuple(self._tags)


def targets(identity: object, sessions: object, paths: object) -> Targets:
    """What the user named.

    Raises:
        ConfigurationError: nothing, an identity without a value, or what is no resource.
    """
    ids, resources = texts(sessions, "sessions"), texts(paths, "paths")
    if identity is None and not ids and not resources:
        raise ConfigurationError(
            "identity", identity, "say whose: {'tenant': 'acme', 'user': 'u1'}; or sessions=, paths="
        )
    chain, worlds = _chain(identity)
    parsed = tuple(Template.parse(text, (), "paths").fill({})[0] for text in resources)
    return Targets(chain, worlds, frozenset(ids), parsed)


def _chain(identity: object) -> tuple[Chain, frozenset[str]]:
    if identity is None:
        return (), frozenset()
    if not isinstance(identity, Mapping) or not identity:
        fix = "give a mapping from the widest field to the narrowest, as the sessions have it"
        raise ConfigurationError("identity", identity, fix)
    named = [(name, segment_text(value)) for name, value in identity.items()]
    chain = identity_chain((str(name), text) for name, text in named if text is not None)
    if len(chain) != len(named):
        raise ConfigurationError("identity", identity, "each field needs a value that has a text")
    return chain, frozenset([who_is(identity)])


def texts(given: object, parameter: str) -> list[str]:
    """One or several, as a list. Raises ConfigurationError."""
    found = [given] if isinstance(given, str) else given
    if not isinstance(found, Iterable) or isinstance(found, Mapping):
        raise ConfigurationError(parameter, given, "give a text or several")
    several = list(found)
    if not all(isinstance(text, str) and text for text in several):
        raise ConfigurationError(parameter, given, "each is a text that is not empty")
    return several


async def erase(backend: Any, wanted: Targets, *, unknown: bool) -> EraseReport:
    """See :meth:`~agent_cache.moving.Movable.erase`."""
    if not isinstance(unknown, bool):
        raise ConfigurationError("unknown", unknown, "give True to remove what nobody knows the owner of, or False")
    for chain in forget_sessions(wanted.owns, wanted.chain):
        wanted.chains[chain] = None
    await _move(backend, [*wanted.roots, *(_root(chain) for chain in wanted.chains)])
    known = list(wanted.chains)
    entries = await _drop(backend, known)
    left_over = 0
    left: Counter[str] = Counter()
    for _ in range(_PASSES):
        found, left = await _one_pass(backend, wanted, unknown=unknown)
        entries += found
        left_over = found
        if not found:
            break
    if left_over:
        left["arriving"] = left_over
    entries += await _drop(backend, [chain for chain in wanted.chains if chain not in known])
    left.update(await backend.finish_erasing(wanted))
    return EraseReport(entries, len(wanted.chains), {why: many for why, many in left.items() if many})


async def _one_pass(backend: Any, wanted: Targets, *, unknown: bool) -> tuple[int, Counter[str]]:
    """Take out what is found; how many those were, and what is not known to be anybody's."""
    removed = 0
    left: Counter[str] = Counter()
    batch: list[StoredEntry] = []
    async for entry in backend.scan():
        why = _unknown(entry)
        if wanted.holds(entry) or (why and unknown):
            batch.append(entry)
            if len(batch) >= _AT_ONCE:
                removed += await _remove(backend, wanted, batch)
                batch = []
        elif why:
            left[why] += 1
    removed += await _remove(backend, wanted, batch)
    return removed, left


async def _remove(backend: Any, wanted: Targets, batch: list[StoredEntry]) -> int:
    """Their chains move before they go, if this is the first that is seen of them."""
    chains = [entry.chain for entry in batch if entry.chain and wanted.owns(entry.chain)]
    new = [chain for chain in dict.fromkeys(chains) if chain not in wanted.chains]
    wanted.chains.update(dict.fromkeys(new))
    await _move(backend, [_root(chain) for chain in new])
    tags = {tag for entry in batch for tag in entry.tags or () if tag[1] and wanted.owns(tag[1])}
    removed = sum([bool(await backend.remove(entry)) for entry in batch])
    await backend.forget_tags(tuple(tags))
    return removed


async def _move(backend: Any, tags: list[Tag]) -> None:
    for at in range(0, len(tags), _AT_ONCE):
        await backend.move(tags[at : at + _AT_ONCE], _WRITER)


def _root(chain: Chain) -> Tag:
    """What every entry on a chain depends on."""
    return "all", chain, ()


def _unknown(entry: StoredEntry) -> str:
    """Why it cannot be told whose an entry is; empty if it can."""
    if not entry.is_tool:
        return ""
    if entry.tags is None:
        return "unlabelled"
    return "lineage" if entry.chain[:1] == LINEAGE else ""


async def _drop(backend: Any, chains: list[Chain]) -> int:
    """Where a store finds a chain's entries without reading all, it does, whether they are labelled or not."""
    gone = 0
    for chain in chains:
        gone += await backend.held(chain)
        await backend.drop_chain(chain)
    return gone
