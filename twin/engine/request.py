"""A request as the engine sees it."""

from __future__ import annotations

from collections.abc import Sequence


class Request:
    """One request: what was asked, where it stands, and its time stamps (seconds of simulated time).

    ``num_tokens`` is prompt plus generated tokens; while the request prefills, ``num_computed_tokens`` says how many of
    them have their KV. Once it decodes, its progress is that of the decode group it belongs to (see
    :mod:`twin.engine.decode_group`), and ``num_tokens`` is settled again when it leaves the group.

    ``keys`` name the full KV blocks of the prompt that another request might share, in order; chained, so one key stands
    for its block and all blocks before it.
    """

    __slots__ = (
        "arrival_s",
        "blocks",
        "cached_tokens",
        "end_step",
        "first_token_s",
        "index",
        "input_tokens",
        "keys",
        "last_token_s",
        "num_blocks",
        "num_computed_tokens",
        "num_tokens",
        "order",
        "output_tokens",
        "preemptions",
        "queued_s",
        "replica",
        "residue",
        "scheduled_s",
    )

    order: int  # of admission; set when admitted
    residue: int  # set by the decode group

    def __init__(
        self,
        index: int,
        arrival_s: float,
        input_tokens: int,
        output_tokens: int,
        keys: Sequence[int] = (),
        queued_s: float | None = None,
    ) -> None:
        self.index = index
        self.arrival_s = arrival_s
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens
        self.keys = keys
        self.queued_s = arrival_s if queued_s is None else queued_s
        self.scheduled_s = -1.0
        self.first_token_s = -1.0
        self.last_token_s = -1.0
        self.num_tokens = input_tokens
        self.num_computed_tokens = 0
        self.num_blocks = 0
        self.blocks: list[int] = []
        self.cached_tokens = 0
        self.preemptions = 0
        self.end_step = -1
        self.replica = 0

    @property
    def total_tokens(self) -> int:
        """Tokens when finished: prompt and all output."""
        return self.input_tokens + self.output_tokens

    def __repr__(self) -> str:
        return f"Request({self.index}, in={self.input_tokens}, out={self.output_tokens})"
