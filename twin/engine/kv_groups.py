"""Paged KV blocks of a model whose layers do not all keep the same: several groups, one pool (vLLM's hybrid manager).

A request has a block table in every group, and all groups take blocks of one size from the same pool. A group frees what
has fallen out of its window when the request next gets slots, and a prefix is hit as far as every group has what it needs.
As in :mod:`twin.engine.kv_cache` only blocks that a later request can hit have an identity; all others are counted.

From ``v1/core/kv_cache_coordinator.py``, ``kv_cache_manager.py`` and ``single_type_kv_cache_manager.py`` of vLLM 0.32.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from twin.engine.config import EngineConfig
from twin.engine.kv_kinds import Blocks, Kind
from twin.engine.kv_pool import TablePool
from twin.engine.kv_tables import GroupHits, Tables, common_hit
from twin.engine.request import Request


class GroupedKVCacheManager(TablePool):
    """The blocks of one replica. ``config.kv_groups`` says what they are for, in vLLM's order."""

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config)
        rules = config.rules
        in_flight = config.batch_queue_size * config.max_num_batched_tokens
        caps = [kind.most_blocks(in_flight, config.max_model_len) for kind in self.kinds]
        self._caps = caps if rules.windows_cap_admission else [None] * len(caps)
        self._sparse = rules.sparse_checkpoints
        self._max_model_len = config.max_model_len

    def new_step(self) -> None:
        """A state that a request saves in a step can be hit from the next on."""
        self._fresh.clear()

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that admission reckons with for a request of ``num_tokens`` tokens."""
        return self._needed(GroupHits(), num_tokens, self._caps)

    def find_hits(self, request: Request) -> list[int]:
        """The longest prefix that every kind has what it needs of, at most all tokens but one."""
        request.junction = 0
        hits = GroupHits()
        if not self.enable_prefix_caching:
            return hits
        at = [partial(self._cached_at, request, kind) for kind in self.kinds]
        length, request.junction, hits.found = common_hit(
            self.kinds, at, request.num_tokens, alone=self._alone, drop=self._drop_last_hit
        )
        hits.extend([0] * (length // self.block_size))
        return hits

    def _cached_at(self, request: Request, kind: Kind, position: int) -> Blocks | None:
        keys = request.keys
        if position >= len(keys):
            return None
        first = keys[position] * self._num_groups
        blocks = []
        for copy in kind.copies:
            cached = self._cached.get(first + copy)
            if not cached:
                return None
            blocks.append(next(iter(cached)))
        return tuple(blocks)

    def _needed(self, hits: list[int], tokens: int, caps: Sequence[int | None]) -> int:
        """Free blocks that a waiting request takes for its first ``tokens``, those hit that nobody uses among them."""
        needed, total, hit = self._fixed, self.blocks_of(tokens), len(hits)
        for index, (kind, cap) in enumerate(zip(self.kinds, caps, strict=True)):
            new = max((total if cap is None else min(total, cap)) - hit, 0)
            needed += len(kind.copies) * (min(new, 1) if kind.keeps_last_only else new)
            if hit and isinstance(hits, GroupHits):
                reached = self._reached(hits, index)
                needed += sum(self.idle_among(list(blocks)) for blocks in reached if blocks)
                last = reached[-1] if reached else None
                if self._fresh and last and not self._fresh.isdisjoint(self._key[block] for block in last):
                    return self.usable + 1
        return needed

    def _reached(self, hits: GroupHits, index: int) -> list[Blocks | None]:
        """Of what is hit of a kind, that which later tokens still read."""
        return hits.found[index][self.kinds[index].skipped(len(hits) * self.block_size) :]

    def idle_in(self, hits: list[int]) -> bool:
        """Whether some of the blocks hit are nobody's, and so might be taken."""
        if not hits or not isinstance(hits, GroupHits):
            return False
        reached = (blocks for index in range(len(self.kinds)) for blocks in self._reached(hits, index) if blocks)
        return any(self.idle_among(list(blocks)) for blocks in reached)

    def seat(self, request: Request, hits: list[int], slots: int, whole: int, spare: int) -> bool:
        """Give a waiting request ``hits`` and the blocks for ``slots`` tokens, if they are free and ``spare`` besides.

        Those of its ``whole`` sequence must be free at once too, as far as windows let it need them (0: need not).
        """
        if self.lacks(hits, slots, whole, spare):
            return False
        boundaries = self._boundaries(request)
        tails = [kind.tails(boundaries, self._drop_last_hit) if self._sparse else None for kind in self.kinds]
        request.tables = tables = Tables(self.kinds, tails)
        tables.stored = request.num_blocks = len(hits)
        if hits and isinstance(hits, GroupHits):
            for index, kind in enumerate(self.kinds):
                self._adopt(tables, index, hits.found[index], kind.skipped(len(hits) * self.block_size))
        self.take(self._fixed)
        self.grow(request, slots)
        return True

    def lacks(self, hits: list[int], slots: int, whole: int, spare: int) -> bool:
        """Whether these blocks are not free, see :meth:`seat`."""
        free = self.free - spare
        if whole and self._needed(hits, whole, self._caps) > free:
            return True
        return self._needed(hits, slots, [None] * len(self.kinds)) > free

    def _adopt(self, tables: Tables, index: int, found: list[Blocks | None], first: int) -> None:
        users, queue = self._users, self._queue
        tables.starts[index] = first
        for position in range(first, len(found)):
            blocks = found[position]
            if blocks is None:
                tables.starts[index] = position + 1
                continue
            for keyed, block in zip(tables.keyed[index], blocks, strict=True):
                if users[block] == 0:
                    del queue[block]
                    self.free -= 1
                users[block] += 1
                keyed[position] = block

    def _boundaries(self, request: Request) -> tuple[int, ...]:
        """Tokens at which a later request may resume: one that sends the same prompt, or more; and the junction."""
        prompt, size = request.input_tokens, self.block_size
        junction = (request.junction,) if request.junction else ()
        if not self._drop_last_hit:
            return (prompt - 1, *junction)
        ends = {max((tokens // size - 1) * size, 0) for tokens in (prompt - 1, prompt)}
        return (*sorted(ends), *junction)
