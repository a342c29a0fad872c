"""What the layers of each kind keep of a sequence: vLLM's single-type KV cache managers, as arithmetic on positions.

A *position* is the number of a block in a sequence. From ``v1/core/single_type_kv_cache_manager.py`` and
``v1/kv_cache_interface.py`` of vLLM 0.32; held to by the step-by-step comparison (``make lockstep``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from twin.spec.kv_groups import KvGroup

Blocks = tuple[int, ...]
# The cached blocks of a position, one for each copy of the group; None where one of them is not cached.
Lookup = Callable[[int], Blocks | None]


class Kind:
    """Full attention, and what the others differ in.

    Once ``lag`` and ``period`` more tokens have been processed, the blocks of ``period`` tokens are of no more use; then
    again with every further ``period``.

    Attributes:
        copies: numbers of the groups that are of this kind.
        lag: tokens before the next that it still attends to.
        period: tokens that go out of reach together; 0: none ever do.
        keeps_last_only: a step leaves one new block, whatever its number of tokens.
    """

    lag = 0
    period = 0
    keeps_last_only = False

    def __init__(self, group: KvGroup, block_size: int, copies: range) -> None:
        self.size = block_size
        self.copies = copies
        self.window = group.window or 0

    def skipped(self, processed: int) -> int:
        """Blocks at the start that no token after the first ``processed`` reads."""
        if not self.period or processed <= self.lag:
            return 0
        return (processed - self.lag) // self.period * self.period // self.size

    def most_blocks(self, in_flight: int, max_model_len: int) -> int | None:
        """The most blocks that a request may need at once, as admission reckons; None: those of its whole sequence."""
        return None

    def find(self, at: Lookup, tokens: int, drop: bool) -> list[Blocks | None]:
        """The longest hit of at most ``tokens`` tokens: the blocks it needs, None for those it does not.

        ``drop``: its last block is to be computed again.
        """
        hit: list[Blocks | None] = []
        for position in range(tokens // self.size):
            blocks = at(position)
            if blocks is None:
                break
            hit.append(blocks)
        if drop and hit:
            hit.pop()
        return hit

    def tails(self, boundaries: Iterable[int], eagle: bool) -> list[range] | None:
        """Positions that are cached, so that a later request can resume at ``boundaries`` (tokens); None: all."""
        return None


class SlidingWindow(Kind):
    """The last ``window`` tokens."""

    def __init__(self, group: KvGroup, block_size: int, copies: range) -> None:
        super().__init__(group, block_size, copies)
        self.lag, self.period = self.window - 1, block_size

    def most_blocks(self, in_flight: int, max_model_len: int) -> int | None:
        """See :meth:`Kind.most_blocks`. One more: a window need not start where a block does."""
        return -(-min(self.window - 1 + in_flight, max_model_len) // self.size) + 1

    def _needed(self, drop: bool) -> int:
        return -(-(self.window - 1) // self.size) + drop

    def find(self, at: Lookup, tokens: int, drop: bool) -> list[Blocks | None]:
        """See :meth:`Kind.find`. Enough blocks in a row to fill the window, from the right; or all from the start."""
        most, needed, row = tokens // self.size, self._needed(drop), 0
        hit: list[Blocks | None] = [None] * most
        for position in range(most - 1, -1, -1):
            blocks = at(position)
            if blocks is None:
                row = 0
                continue
            hit[position] = blocks
            row += 1
            if row >= needed:
                del hit[position + row :]
                break
        else:
            del hit[row:]
        if drop and hit:
            hit.pop()
        return hit

    def tails(self, boundaries: Iterable[int], eagle: bool) -> list[range] | None:
        """See :meth:`Kind.tails`."""
        ends = [tokens // self.size + eagle for tokens in boundaries]
        return [range(max(end - self._needed(eagle), 0), end) for end in ends]


class ChunkedLocal(Kind):
    """The chunk of ``window`` tokens that the next one is in."""

    def __init__(self, group: KvGroup, block_size: int, copies: range) -> None:
        super().__init__(group, block_size, copies)
        self.period = self.window

    def most_blocks(self, in_flight: int, max_model_len: int) -> int | None:
        """See :meth:`Kind.most_blocks`."""
        return -(-min(self.window + in_flight, max_model_len) // self.size)

    def find(self, at: Lookup, tokens: int, drop: bool) -> list[Blocks | None]:
        """See :meth:`Kind.find`. Blocks before the chunk of the last token are hit without being there."""
        start = tokens // self.window * self.window // self.size
        hit: list[Blocks | None] = [None] * start
        for position in range(start, tokens // self.size):
            blocks = at(position)
            if blocks is None:
                break
            hit.append(blocks)
        return hit


class State(Kind):
    """The state after the last token; with prefix caching (mode "align") one block per boundary it was saved at."""

    keeps_last_only = True
    lag = 1

    def __init__(self, group: KvGroup, block_size: int, copies: range) -> None:
        super().__init__(group, block_size, copies)
        self.period = block_size

    def find(self, at: Lookup, tokens: int, drop: bool) -> list[Blocks | None]:
        """See :meth:`Kind.find`. The last state there is; a drafting model has none, so none is dropped."""
        for position in range(tokens // self.size - 1, -1, -1):
            blocks = at(position)
            if blocks is not None:
                return [*[None] * position, blocks]
        return []

    def tails(self, boundaries: Iterable[int], eagle: bool) -> list[range] | None:
        """See :meth:`Kind.tails`."""
        ends = [tokens // self.size for tokens in boundaries]
        return [range(max(end - 1, 0), end) for end in ends]


KINDS: dict[str, type[Kind]] = {
    "full": Kind,
    "sliding_window": SlidingWindow,
    "chunked_local": ChunkedLocal,
    "mamba": State,
}


def kinds_of(groups: Sequence[KvGroup], block_size: int) -> list[Kind]:
    """One for each entry of ``groups``, their copies numbered through."""
    kinds, first = [], 0
    for group in groups:
        kinds.append(KINDS[group.kind](group, block_size, range(first, first + group.count)))
        first += group.count
    return kinds
