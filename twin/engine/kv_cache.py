"""Paged KV blocks with vLLM's prefix cache (rules 3 and 5 of the V1 scheduler).

vLLM gives every block an identity. Only blocks that a later request can hit need one here: those whose content has a
*key* (a chained hash known from the trace, or the content of a preempted request that will come back). All others are
anonymous and only counted, so a trace without prefix hashes costs an integer per allocation.

The free queue is vLLM's: allocation takes from the front and evicts what it finds there; a freed request returns its
blocks tail first, hashed ones to the back, blocks without a hash to the front (in 0.19 to the back as well). Neighbouring
anonymous blocks are kept as one run.
"""

from __future__ import annotations

from collections import OrderedDict

from twin.engine.request import Request


class KVCacheManager:
    """The blocks of one replica.

    Args:
        num_gpu_blocks: blocks the engine allocates; block 0 is vLLM's null block, so one less can be used.
        block_size: tokens per block.
        enable_prefix_caching: without it nothing is ever hit.
        unhashed_first: freed blocks without a hash are taken before all others.
        drop_last_hit: the last block of a hit is recomputed (EAGLE needs the hidden states before the first new token).
    """

    def __init__(
        self,
        num_gpu_blocks: int,
        block_size: int,
        *,
        enable_prefix_caching: bool = True,
        unhashed_first: bool = True,
        drop_last_hit: bool = False,
    ) -> None:
        self.block_size = block_size
        self.enable_prefix_caching = enable_prefix_caching
        self._unhashed_first = unhashed_first
        self._drop_last_hit = drop_last_hit
        self.usable = num_gpu_blocks - 1
        self.free = self.usable
        self._front = self.usable
        # Behind the front run: keyed blocks (id > 0 → 1) and anonymous runs (id < 0 → length), oldest first.
        self._queue: OrderedDict[int, int] = OrderedDict()
        self._cached: dict[int, dict[int, None]] = {}
        self._key: dict[int, int] = {}
        self._users: dict[int, int] = {}
        self._next_id = 1
        self._own_keys = -1
        self.evictions = 0
        self.hit_tokens = 0
        self.queried_tokens = 0

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold ``num_tokens`` tokens."""
        return -(-num_tokens // self.block_size)

    def find_hits(self, request: Request) -> list[int]:
        """Cached blocks at the start of ``request``, at most (num_tokens - 1) // block_size: one token is recomputed."""
        hits: list[int] = []
        if self.enable_prefix_caching:
            cached = self._cached
            for key in request.keys[: (request.num_tokens - 1) // self.block_size]:
                copies = cached.get(key)
                if not copies:
                    break
                hits.append(next(iter(copies)))
            if hits and self._drop_last_hit:
                hits.pop()
        return hits

    def idle_among(self, hits: list[int]) -> int:
        """How many of ``hits`` nobody uses: taking those uses up free blocks too."""
        users = self._users
        return sum(1 for block in hits if users[block] == 0)

    def touch(self, request: Request, hits: list[int]) -> None:
        """Give ``request`` the cached blocks ``hits``."""
        users, queue = self._users, self._queue
        for block in hits:
            if users[block] == 0:
                del queue[block]
                self.free -= 1
            users[block] += 1
        request.blocks = hits
        request.num_blocks = len(hits)

    def take(self, count: int) -> None:
        """Allocate ``count`` blocks from the front of the free queue, evicting what they held."""
        self.free -= count
        front = self._front - count
        self._front = front
        if front < 0:
            self._evict(-front)

    def _evict(self, count: int) -> None:
        self._front = 0
        queue = self._queue
        while count:
            block, length = queue.popitem(last=False)
            if block > 0:
                count -= 1
                self.evictions += 1
                self._forget(block)
            elif length > count:
                self._front = length - count
                count = 0
            else:
                count -= length

    def _forget(self, block: int) -> None:
        key = self._key.pop(block)
        del self._users[block]
        copies = self._cached[key]
        del copies[block]
        if not copies:
            del self._cached[key]

    def store(self, request: Request, tokens: int) -> None:
        """Hash the blocks of ``request`` that its first ``tokens`` tokens fill, as far as they have keys."""
        keys, blocks = request.keys, request.blocks
        for position in range(len(blocks), min(tokens // self.block_size, len(keys))):
            block = self._next_id
            self._next_id += 1
            key = keys[position]
            self._key[block] = key
            self._users[block] = 1
            self._cached.setdefault(key, {})[block] = None
            blocks.append(block)

    def unhashed_keys(self, request: Request) -> bool:
        """Whether blocks of ``request`` that another may hit are still to be filled."""
        return self.enable_prefix_caching and len(request.keys) > len(request.blocks)

    def release(self, request: Request, hashed_tokens: int) -> None:
        """Free all blocks of ``request``, of which the first ``hashed_tokens`` tokens fill hashed ones."""
        blocks, total = request.blocks, request.num_blocks
        self.free += total
        if not blocks and not self._queue:
            self._front += total
        else:
            hashed = hashed_tokens // self.block_size if self.enable_prefix_caching else 0
            if not self._unhashed_first:
                hashed = total
            anonymous = max(min(hashed, total) - len(blocks), 0)
            self._front += total - len(blocks) - anonymous
            self._append_run(anonymous)
            users, queue = self._users, self._queue
            for block in reversed(blocks):
                users[block] -= 1
                if users[block] == 0:
                    queue[block] = 1
                else:
                    self.free -= 1
            request.blocks = []
        request.num_blocks = 0

    def _append_run(self, length: int) -> None:
        if not length:
            return
        queue = self._queue
        if not queue:
            self._front += length
            return
        last = next(reversed(queue))
        if last < 0:
            queue[last] += length
        else:
            queue[-self._next_id] = length
            self._next_id += 1

    def name_blocks(self, request: Request, hashed_tokens: int) -> None:
        """Give every full block of ``request`` a key before it is preempted: when it resumes it may find them again."""
        if not self.enable_prefix_caching:
            return
        full = hashed_tokens // self.block_size
        missing = full - len(request.keys)
        if missing > 0:
            own = range(self._own_keys, self._own_keys - missing, -1)
            self._own_keys -= missing
            request.keys = (*request.keys, *own)
        self.store(request, hashed_tokens)
