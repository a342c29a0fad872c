"""A request as the engine sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twin.engine.kv_tables import Tables

WAITING, RUNNING, PREEMPTED, FINISHED = range(4)


class Request:
    """One request: what was asked, where it stands, and its time stamps (seconds of simulated time).

    ``num_tokens`` is prompt plus generated tokens whose values are known; ``num_computed_tokens`` counts those that have
    been scheduled, and so will have their KV. While a request decodes as a member of a decode group
    (:mod:`twin.engine.decode_group`; ``end_step >= 0``) the group knows both, and they are settled when it leaves.

    ``keys`` name the full KV blocks of the sequence (prompt, then output) that another request might share, in order;
    chained, so one key stands for its block and all blocks before it.

    Under speculation, n-gram offers ``drafts[n % len]`` drafts once ``n`` output tokens are known (a draft model and
    EAGLE always offer all they may), and ``accepted[n % len]`` of those are accepted; none where the sequence is empty.
    """

    __slots__ = (
        "accepted",
        "arrival_s",
        "blocks",
        "cached_tokens",
        "drafts",
        "end_step",
        "first_token_s",
        "hashed_tokens",
        "index",
        "input_tokens",
        "is_prefill_chunk",
        "junction",
        "keys",
        "last_token_s",
        "next_decode_step",
        "num_blocks",
        "num_computed_tokens",
        "num_in_flight_tokens",
        "num_output_placeholders",
        "num_spec_tokens",
        "num_stale_tokens",
        "num_tokens",
        "order",
        "output_tokens",
        "preemptions",
        "priority",
        "queued_s",
        "replica",
        "residue",
        "scheduled_s",
        "status",
        "tables",
        "total_tokens",
    )

    order: int  # of admission; set when admitted
    residue: int  # set by the decode group
    tables: Tables  # its blocks where there are several KV groups; set when admitted
    junction: int  # tokens that some of those groups had cached, and not all

    def __init__(
        self,
        index: int,
        arrival_s: float,
        input_tokens: int,
        output_tokens: int,
        keys: Sequence[int] = (),
        queued_s: float | None = None,
        *,
        priority: int = 0,
        drafts: Sequence[int] = (),
        accepted: Sequence[int] = (),
    ) -> None:
        self.index = index
        self.arrival_s = arrival_s
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens
        self.total_tokens = input_tokens + output_tokens
        self.keys = keys
        self.priority = priority
        self.drafts = drafts
        self.accepted = accepted
        self.queued_s = arrival_s if queued_s is None else queued_s
        self.scheduled_s = -1.0
        self.first_token_s = -1.0
        self.last_token_s = -1.0
        self.status = WAITING
        self.num_tokens = input_tokens
        self.num_computed_tokens = 0
        self.num_in_flight_tokens = 0  # scheduled, output not yet processed
        self.num_stale_tokens = 0  # of those, scheduled before a preemption
        self.num_output_placeholders = 0  # sampled in flight: counted as computed, value not yet known
        self.num_spec_tokens = 0  # drafts offered for the next step
        self.next_decode_step = 0
        self.is_prefill_chunk = True
        self.num_blocks = 0
        self.blocks: list[int] = []
        self.hashed_tokens = 0
        self.cached_tokens = 0
        self.preemptions = 0
        self.end_step = -1
        self.replica = 0

    def __repr__(self) -> str:
        return f"Request({self.index}, in={self.input_tokens}, out={self.output_tokens})"
