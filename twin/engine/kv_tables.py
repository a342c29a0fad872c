"""A request's block tables in several KV groups, and the prefix that all of its groups have cached."""

from __future__ import annotations

from collections.abc import Sequence

from twin.engine.kv_kinds import Blocks, Kind, Lookup

NOBODYS = -(1 << 62)  # no key is this


class GroupHits(list[int]):
    """As many items as blocks of the prefix are hit; ``found`` has for each kind the cached blocks at each position."""

    found: Sequence[list[Blocks | None]]


class Tables:
    """The block tables of a request; ``num_blocks`` of it is the length of all of them.

    Attributes, by kind:
        starts: first position from which on every block is there.
        strays: positions before it that are there: states that earlier chunks left.
        keyed: blocks with a key by position, for each copy of the group.
        tails: positions that are cached; None: all.

    ``stored`` positions have been looked at for keys. ``left`` are cached blocks without a key that have left a window:
    (block, copy of its group, position). If the request is preempted it may find them again.
    """

    __slots__ = ("keyed", "left", "starts", "stored", "strays", "tails")

    def __init__(self, kinds: Sequence[Kind], tails: list[list[range] | None]) -> None:
        self.starts = [0] * len(kinds)
        self.strays: list[tuple[int, ...]] = [()] * len(kinds)
        self.keyed: list[list[dict[int, int]]] = [[{} for _ in kind.copies] for kind in kinds]
        self.tails = tails
        self.stored = 0
        self.left: list[tuple[int, int, int]] = []

    def is_cached(self, kind: int, position: int) -> bool:
        """Whether a full block at ``position`` gets a hash."""
        tails = self.tails[kind]
        return tails is None or any(position in tail for tail in tails)


def common_hit(
    kinds: Sequence[Kind], at: Sequence[Lookup], tokens: int, *, alone: bool, drop: bool
) -> tuple[int, int, list[list[Blocks | None]]]:
    """The longest prefix of ``tokens`` tokens, at most all but one, that every kind has what it needs of.

    From ``HybridKVCacheCoordinator.find_longest_cache_hit``: every kind shortens what the one before accepts, until none
    does; full attention first. ``at``: by kind, the cached blocks of a position; ``alone``: there is one group only;
    ``drop``: each kind computes the last block of its hit again, once.

    Returns:
        Tokens hit; the longest that some kind had where that is more, otherwise 0; by kind the blocks at each position.
    """
    size, most = kinds[0].size if kinds else 1, tokens - 1
    order = sorted(range(len(kinds)), key=lambda index: kinds[index].period > 0)
    one_round = alone or (len(kinds) == 2 and not kinds[order[0]].period)
    found: list[list[Blocks | None]] = [[] for _ in kinds]
    verified: set[int] = set()
    length, longest, first = most, 0, True
    while True:
        current = length
        for index in order:
            kind = kinds[index]
            if not kind.period and not first:  # what is hit from the start on is hit at any length
                current = min(current, len(found[index]) * size)
                continue
            drops = drop and index not in verified
            margin = drops and not kind.keeps_last_only and not alone
            found[index] = kind.find(
                at[index], min(current + size, tokens // size * size) if margin else current, drops
            )
            new = len(found[index]) * size
            if drops:
                verified.add(index)
            elif new < current:
                verified.clear()
            current, longest = new, max(longest, new)
        shorter = current < length
        length, first = min(current, length), False
        if one_round or not shorter:
            break
    for blocks in found:
        del blocks[length // size :]
    return length, longest if longest > length else 0, found
