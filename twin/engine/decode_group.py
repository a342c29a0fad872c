"""All running decodes as one group: every member does the same thing each step, so a step changes a few integers.

At *group step* ``d`` every member computes one token. A member that joined with ``T`` computed tokens has ``T + d - d0``
of them now, needs a new block whenever that is a multiple of the block size, that is at steps ``≡ d0 - T``, and leaves at
a step known when it joins.
"""

from __future__ import annotations

from heapq import heappop, heappush

from twin.engine.request import Request


class DecodeGroup:
    """The running decodes of one replica.

    Attributes:
        n: members.
        context: sum over members of the sequence length (KV read) of the coming step.
        step: group steps done.
    """

    __slots__ = ("_block_size", "_ends", "_need", "context", "n", "step")

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._need = [0] * (2 * block_size)
        self._ends: list[tuple[int, int, Request]] = []
        self.n = 0
        self.context = 0
        self.step = 0

    def join(self, request: Request) -> None:
        """Add a request of which all but the last sampled token have been computed."""
        computed = request.num_computed_tokens
        step = self.step
        size = self._block_size
        residue = (step - computed) % size
        self._need[residue] += 1
        self._need[residue + size] += 1
        request.residue = residue
        request.end_step = end = step + request.total_tokens - 1 - computed
        heappush(self._ends, (end, request.order, request))
        self.n += 1
        self.context += computed + 1

    def leave(self, request: Request) -> None:
        """Take ``request`` out and settle its computed tokens and blocks."""
        size = self._block_size
        self._need[request.residue] -= 1
        self._need[request.residue + size] -= 1
        computed = request.total_tokens - 1 - (request.end_step - self.step)
        request.num_computed_tokens = computed
        request.num_blocks = -(-computed // size)
        request.end_step = -1
        self.n -= 1
        self.context -= computed + 1

    def computed_tokens(self, request: Request) -> int:
        """Tokens of a member that have their KV."""
        return request.total_tokens - 1 - (request.end_step - self.step)

    def steps_to_first_end(self) -> int:
        """Steps until a member has produced its last token. The group must not be empty."""
        ends = self._ends
        while ends[0][2].end_step != ends[0][0]:
            heappop(ends)
        return ends[0][0] - self.step

    def blocks_needed_now(self) -> int:
        """New blocks that the next step takes."""
        return self._need[self.step % self._block_size]

    most_needed_now = blocks_needed_now

    def blocks_needed(self, steps: int) -> int:
        """New blocks that the next ``steps`` steps take."""
        size = self._block_size
        start = self.step % size
        if steps < size:
            return sum(self._need[start : start + steps])
        cycles, rest = divmod(steps, size)
        return cycles * self.n + sum(self._need[start : start + rest])

    def steps_within(self, blocks: int) -> int:
        """The most steps that take no more than ``blocks`` new blocks."""
        cycles = blocks // self.n
        blocks -= cycles * self.n
        steps = cycles * self._block_size
        start = self.step % self._block_size
        for need in self._need[start : start + self._block_size]:
            blocks -= need
            if blocks < 0:
                break
            steps += 1
        return steps

    def advance(self, steps: int) -> list[Request]:
        """Do ``steps`` steps; the members that end with the last of them have left."""
        self.step = step = self.step + steps
        self.context += steps * self.n
        ends = self._ends
        done: list[Request] = []
        while ends and ends[0][0] <= step:
            end, _, request = heappop(ends)
            if request.end_step == end:
                self.leave(request)
                done.append(request)
        return done
