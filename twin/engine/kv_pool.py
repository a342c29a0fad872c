"""The blocks of requests with a table in every KV group: what they take, free and leave for others to hit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from twin.engine.config import EngineConfig
from twin.engine.kv_cache import KVCacheManager
from twin.engine.kv_kinds import kinds_of
from twin.engine.kv_tables import NOBODYS
from twin.engine.request import Request


class TablePool(KVCacheManager):
    """The one pool that the block tables of all groups take from."""

    def __init__(self, config: EngineConfig) -> None:
        speculation, rules = config.speculation, config.rules
        super().__init__(
            config.num_gpu_blocks,
            config.block_size,
            enable_prefix_caching=config.enable_prefix_caching,
            unhashed_first=rules.unhashed_blocks_first,
            drop_last_hit=speculation is not None and speculation.method == "eagle",
        )
        self.kinds = kinds_of(config.kv_groups, config.block_size)
        self._fixed = 0
        if not config.enable_prefix_caching:  # mode "none": a request has one state block, and keeps it
            self._fixed = sum(len(kind.copies) for kind in self.kinds if kind.keeps_last_only)
            self.kinds = [kind for kind in self.kinds if not kind.keeps_last_only]
        self._num_groups = sum(group.count for group in config.kv_groups)
        self._alone = self._num_groups == 1
        self._fresh: set[int] = set()

    @property
    def front(self) -> int:
        """Free blocks that are taken before any that can be hit."""
        return self._front

    @property
    def ordered(self) -> bool:
        """Whether the order in which blocks are taken and freed matters: some block can still be hit."""
        return bool(self._key)

    def blocks_of(self, tokens: int) -> int:
        """Length of a block table that holds ``tokens`` tokens."""
        return -(-tokens // self.block_size)

    def growth(self, request: Request, slots: int) -> int:
        """Blocks that a running request takes to have ``slots`` tokens' worth."""
        new = self.blocks_of(slots) - request.num_blocks
        if new <= 0:
            return 0
        return sum(len(kind.copies) * (1 if kind.keeps_last_only else new) for kind in self.kinds)

    def grow(self, request: Request, slots: int) -> None:
        """Take them."""
        blocks = self.growth(request, slots)
        if not blocks:
            return
        self.take(blocks)
        tables, old, new = request.tables, request.num_blocks, self.blocks_of(slots)
        for index, kind in enumerate(self.kinds):
            if kind.keeps_last_only and new - old > 1:
                tables.strays[index] += tuple(range(tables.starts[index], old))
                tables.starts[index] = new - 1
        request.num_blocks = new

    def slide(self, request: Request, processed: int) -> None:
        """Free what no token after the first ``processed`` reads."""
        tables = request.tables
        for index, kind in enumerate(self.kinds):
            start, end = tables.starts[index], min(kind.skipped(processed), request.num_blocks)
            strays = tables.strays[index]
            if end > start:
                tables.starts[index], tables.strays[index] = end, ()
                self._free(request, index, [*range(end - 1, start - 1, -1), *reversed(strays)], stays=True)
            elif strays and strays[0] < end:
                gone = [position for position in reversed(strays) if position < end]
                tables.strays[index] = strays[len(gone) :]
                self._free(request, index, gone, stays=True)

    def _free(self, request: Request, index: int, positions: Sequence[int], *, stays: bool) -> None:
        """Blocks at ``positions`` of a kind, those to be taken first in front; ``stays``: the request goes on."""
        tables, copies = request.tables, self.kinds[index].copies
        self.free += len(positions) * len(copies)
        if not self.enable_prefix_caching:
            self._front += len(positions) * len(copies)
            return
        hashed = request.hashed_tokens // self.block_size
        cached = {position for position in positions if position < hashed and tables.is_cached(index, position)}
        for keyed, copy in zip(tables.keyed[index], copies, strict=True):
            if not keyed and not stays and self._unhashed_first:
                self._append_run(len(cached))
                self._front += len(positions) - len(cached)
                continue
            for position in positions:
                block = keyed.pop(position, 0)
                if block:
                    self._unuse(block)
                elif position in cached and stays:
                    tables.left.append((self._append_nobodys(), copy, position))
                elif position in cached or not self._unhashed_first:
                    self._append_run(1)
                else:
                    self._front += 1

    def _unuse(self, block: int) -> None:
        self._users[block] -= 1
        if self._users[block] == 0:
            self._queue[block] = 1
        else:
            self.free -= 1

    def _append_nobodys(self) -> int:
        """A block that nobody can find, unless the request that left it is preempted."""
        block = self._next_id
        self._next_id += 1
        self._key[block] = NOBODYS
        self._users[block] = 0
        self._queue[block] = 1
        return block

    def _forget(self, block: int) -> None:
        if self._key[block] == NOBODYS:
            del self._key[block], self._users[block]
        else:
            super()._forget(block)

    def name_blocks(self, request: Request, hashed_tokens: int) -> None:
        """See :meth:`KVCacheManager.name_blocks`; those too that have left its windows and are still there."""
        super().name_blocks(request, hashed_tokens)
        for block, copy, position in request.tables.left:
            if self._key.get(block) == NOBODYS:
                self._key[block] = key = request.keys[position] * self._num_groups + copy
                self._cached.setdefault(key, {})[block] = None

    def settle(self, request: Request, computed: int, in_flight: int) -> None:
        """The tables as a steady decode leaves them: ``computed`` tokens, ``in_flight`` of those before the last."""
        request.num_blocks = self.blocks_of(computed)
        tables = request.tables
        tables.starts = [kind.skipped(computed - 1 - in_flight) for kind in self.kinds]

    def is_steady(self, request: Request, computed: int, in_flight: int) -> bool:
        """Whether they are so, and decodes that follow free blocks at regular steps."""
        tables = request.tables
        return request.num_blocks == self.blocks_of(computed) and all(
            start == kind.skipped(computed - 1 - in_flight) and not strays and kind.period % self.block_size == 0
            for kind, start, strays in zip(self.kinds, tables.starts, tables.strays, strict=True)
        )

    def shares_window(self, request: Request) -> bool:
        """Whether a block that will leave a window has a key, and so may have other users."""
        tables = request.tables.keyed
        return any(any(copies) for kind, copies in zip(self.kinds, tables, strict=True) if kind.period)

    def caches_window(self, request: Request) -> bool:
        """Whether a cached block will leave a window."""
        if not self.enable_prefix_caching:
            return False
        tables = request.tables
        return any(
            kind.period and (tails is None or any(tail and tail.stop > start for tail in tails))
            for kind, tails, start in zip(self.kinds, tables.tails, tables.starts, strict=True)
        )

    def store(self, request: Request, tokens: int) -> None:
        """See :meth:`KVCacheManager.store`."""
        tables, keys = request.tables, request.keys
        last = min(tokens // self.block_size, len(keys))
        for position in range(tables.stored, last):
            first = keys[position] * self._num_groups
            for index, kind in enumerate(self.kinds):
                held = position >= tables.starts[index] or position in tables.strays[index]
                if not held or not tables.is_cached(index, position):
                    continue
                for keyed, copy in zip(tables.keyed[index], kind.copies, strict=True):
                    keyed[position] = block = self._next_id
                    self._next_id += 1
                    self._key[block] = first + copy
                    self._users[block] = 1
                    self._cached.setdefault(first + copy, {})[block] = None
                    if kind.keeps_last_only:
                        self._fresh.add(first + copy)
        tables.stored = max(tables.stored, last)

    def save_again(self, request: Request, tokens: int) -> None:
        """While the last block is the prompt's, vLLM counts the state before it as saved in every step."""
        boundary = (request.input_tokens - 1) // self.block_size
        if self._alone or not boundary or tokens // self.block_size != boundary:
            return
        for index, kind in enumerate(self.kinds):
            if kind.keeps_last_only:
                blocks = [keyed.get(boundary - 1) for keyed in request.tables.keyed[index]]
                self._fresh.update(self._key[block] for block in blocks if block)

    def unhashed_keys(self, request: Request) -> bool:
        """See :meth:`KVCacheManager.unhashed_keys`."""
        return self.enable_prefix_caching and len(request.keys) > request.tables.stored

    def release(self, request: Request, hashed_tokens: int) -> None:
        """Free all blocks of ``request``, of which the first ``hashed_tokens`` tokens fill hashed ones."""
        request.hashed_tokens = hashed_tokens
        tables = request.tables
        for index in range(len(self.kinds)):
            held: Iterable[int] = range(request.num_blocks - 1, tables.starts[index] - 1, -1)
            self._free(request, index, [*held, *reversed(tables.strays[index])], stays=False)
        self.free += self._fixed
        self._front += self._fixed
        request.num_blocks = 0
