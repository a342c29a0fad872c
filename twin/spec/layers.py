"""What a decoder layer is made of: a mixer (attention or what takes its place) and an MLP or experts.

Each part knows its weights on one of ``tp`` GPUs, as vLLM shards it. Weights are counted by *role*, since formats such as
fp8 apply to some roles and not to others. ``linear`` are the matrices of linear layers, ``other`` what stays in 16 bits
(norms, biases, convolutions).
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from twin.base import Frozen

Role = Literal["attention", "mlp", "experts", "router", "embedding", "other"]
"""Of a weight: projections of the mixer; dense MLP and shared experts; routed experts; the router; input embedding and head;
norms, biases and whatever else is small."""

Weights = Counter[Role]
"""Number of parameters by role."""


Cut = tuple[tuple[str, int], ...]
"""What tensor parallelism divides, and into how many parts it can."""


def _counted(**roles: int) -> Weights:
    return Counter({role: count for role, count in roles.items() if count})  # type: ignore[misc]


class Attention(Frozen):
    """Softmax attention with grouped KV heads, over the whole context or the last ``window`` tokens.

    ``chunked``: the window is a chunk of fixed position instead (Llama 4): a token sees what came before it in its chunk.
    ``qk_norm``: ``head`` norms each head of q and k alike, ``all`` has a weight for every one of their channels.
    ``gated``: the output is multiplied by a gate as wide as the queries (Qwen3.5). ``sinks``: a learned logit per head.
    """

    kind: Literal["attention"] = "attention"
    num_heads: PositiveInt
    num_kv_heads: PositiveInt
    head_dim: PositiveInt
    window: PositiveInt | None = None
    chunked: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    qk_norm: Literal["head", "all"] | None = None
    gated: bool = False
    sinks: bool = False

    @property
    def rotary_dim(self) -> int:
        return self.head_dim

    def kv_heads(self, tp: int) -> int:
        """On each GPU: replicated once there are more GPUs than heads."""
        return max(1, self.num_kv_heads // tp)

    def q_size(self, tp: int) -> int:
        """Channels of the queries on one GPU."""
        return self.num_heads * self.head_dim // tp

    def kv_size(self, tp: int) -> int:
        """Channels of the keys, and of the values, on one GPU."""
        return self.kv_heads(tp) * self.head_dim

    def cut(self) -> Cut:
        return (("attention heads", self.num_heads),)

    def weights(self, hidden: int, tp: int) -> Weights:
        q, kv = self.q_size(tp), self.kv_size(tp)
        norm = {None: 0, "head": 2 * self.head_dim, "all": q + kv}[self.qk_norm]
        bias = self.qkv_bias * (q + 2 * kv) + self.o_bias * hidden
        into = q * (2 if self.gated else 1) + 2 * kv
        return _counted(attention=hidden * (into + q), other=norm + bias + self.sinks * self.num_heads // tp)

    def kv_per_token(self, tp: int) -> int:
        """Numbers in the KV cache for each token of one layer."""
        return 2 * self.kv_size(tp)

    def state_bytes(self, tp: int) -> int:
        return 0


class LatentAttention(Frozen):
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): the cache holds one compressed vector and one rotary key
    per token, shared by all heads, so every GPU keeps all of it.
    """

    kind: Literal["latent"] = "latent"
    num_heads: PositiveInt
    q_lora_rank: PositiveInt | None = None
    kv_lora_rank: PositiveInt
    qk_nope_head_dim: PositiveInt
    qk_rope_head_dim: PositiveInt
    v_head_dim: PositiveInt

    @property
    def window(self) -> None:
        return None

    @property
    def rotary_dim(self) -> int:
        return self.qk_rope_head_dim

    def cut(self) -> Cut:
        return (("attention heads", self.num_heads),)

    def weights(self, hidden: int, tp: int) -> Weights:
        heads = self.num_heads // tp
        queries = heads * (self.qk_nope_head_dim + self.qk_rope_head_dim)
        into = hidden * queries if self.q_lora_rank is None else self.q_lora_rank * (hidden + queries)
        cache = hidden * (self.kv_lora_rank + self.qk_rope_head_dim)
        out = heads * self.v_head_dim * hidden
        expand = self.kv_lora_rank * heads * (self.qk_nope_head_dim + self.v_head_dim)
        return _counted(attention=into + cache + expand + out, other=(self.q_lora_rank or 0) + self.kv_lora_rank)

    def kv_per_token(self, tp: int) -> int:
        """Not doubled: keys and values are both made from the one vector; not divided, as all heads share it."""
        return self.kv_lora_rank + self.qk_rope_head_dim

    def state_bytes(self, tp: int) -> int:
        return 0


class LinearAttention(Frozen):
    """Gated delta net (Qwen3-Next, Qwen3.5): a state of ``num_v_heads`` matrices head_k_dim × head_v_dim instead of a cache."""

    kind: Literal["linear"] = "linear"
    num_k_heads: PositiveInt
    num_v_heads: PositiveInt
    head_k_dim: PositiveInt
    head_v_dim: PositiveInt
    conv_kernel: PositiveInt = 4
    state_dtype_bytes: PositiveInt = 4

    @property
    def window(self) -> None:
        return None

    @property
    def rotary_dim(self) -> int:
        return 0

    def conv_channels(self, tp: int) -> int:
        """Queries, keys and values, which all pass a short convolution."""
        return (2 * self.num_k_heads * self.head_k_dim + self.num_v_heads * self.head_v_dim) // tp

    def cut(self) -> Cut:
        return (("key heads", self.num_k_heads), ("value heads", self.num_v_heads))

    def weights(self, hidden: int, tp: int) -> Weights:
        values, v_heads = self.num_v_heads * self.head_v_dim // tp, self.num_v_heads // tp
        conv = self.conv_channels(tp)
        into = conv + values + 2 * v_heads  # q, k, v; the output gate; decay and rate of every head
        small = conv * self.conv_kernel + 2 * v_heads + self.head_v_dim
        return _counted(attention=hidden * (into + values), other=small)

    def kv_per_token(self, tp: int) -> int:
        return 0

    def state_bytes(self, tp: int) -> int:
        """Of one request in one layer: the matrices in fp32 (unless said otherwise), the convolution's tail in 16 bits."""
        matrices = self.num_v_heads * self.head_k_dim * self.head_v_dim // tp * self.state_dtype_bytes
        return matrices + 2 * (self.conv_kernel - 1) * self.conv_channels(tp)


class Mamba(Frozen):
    """A selective state space (Mamba 2, arXiv 2405.21060): state ``num_heads`` × ``head_dim`` × ``state_size``."""

    kind: Literal["mamba"] = "mamba"
    num_heads: PositiveInt
    head_dim: PositiveInt
    num_groups: PositiveInt
    state_size: PositiveInt
    conv_kernel: PositiveInt = 4
    conv_bias: bool = True
    state_dtype_bytes: PositiveInt = 4

    @property
    def window(self) -> None:
        return None

    @property
    def rotary_dim(self) -> int:
        return 0

    def inner(self, tp: int) -> int:
        return self.num_heads * self.head_dim // tp

    def groups(self, tp: int) -> int:
        """Groups of B and C on one GPU; replicated where they do not divide."""
        return max(1, self.num_groups // tp)

    def conv_channels(self, tp: int) -> int:
        return self.inner(tp) + 2 * self.groups(tp) * self.state_size

    def cut(self) -> Cut:
        return (("state-space heads", self.num_heads), *((("groups", self.num_groups),) if self.num_groups > 1 else ()))

    def weights(self, hidden: int, tp: int) -> Weights:
        heads, conv = self.num_heads // tp, self.conv_channels(tp)
        into = self.inner(tp) + conv + heads
        small = conv * (self.conv_kernel + self.conv_bias) + 3 * heads + self.inner(tp)
        return _counted(attention=hidden * (into + self.inner(tp)), other=small)

    def kv_per_token(self, tp: int) -> int:
        return 0

    def state_bytes(self, tp: int) -> int:
        matrices = self.inner(tp) * self.state_size * self.state_dtype_bytes
        return matrices + 2 * (self.conv_kernel - 1) * self.conv_channels(tp)


class Mlp(Frozen):
    """A dense MLP: gate, up and down, or without ``gated`` up and down alone."""

    kind: Literal["mlp"] = "mlp"
    intermediate_size: PositiveInt
    gated: bool = True
    bias: bool = False

    @property
    def matrices(self) -> int:
        return 3 if self.gated else 2

    def cut(self) -> Cut:
        return (("rows of its MLP", self.intermediate_size),)

    def weights(self, hidden: int, tp: int, ep: int = 1) -> Weights:
        inter = self.intermediate_size // tp
        return _counted(mlp=self.matrices * hidden * inter, other=self.bias * ((self.matrices - 1) * inter + hidden))


class Experts(Frozen):
    """A mixture: every token goes to ``experts_per_token`` of ``num_experts`` experts and through a shared expert, if any.

    ``shared_intermediate_size``: of all shared experts together; ``shared_gate``: their output is weighed by a learned gate.
    ``router_bias``: a number per expert (gpt-oss's bias; DeepSeek's correction of the choice). ``router_fp32``: its product is
    computed in fp32 (MiniMax, GLM).
    """

    kind: Literal["experts"] = "experts"
    num_experts: PositiveInt
    experts_per_token: PositiveInt
    intermediate_size: PositiveInt
    shared_intermediate_size: NonNegativeInt = 0
    shared_gate: bool = False
    gated: bool = True
    bias: bool = False
    router_bias: bool = False
    router_fp32: bool = False

    @model_validator(mode="after")
    def _enough(self) -> Experts:
        if self.experts_per_token > self.num_experts:
            raise ValueError(
                f"{self.experts_per_token} experts per token are more than the {self.num_experts} there are"
            )
        return self

    @property
    def matrices(self) -> int:
        return 3 if self.gated else 2

    def expert_parameters(self, hidden: int) -> int:
        """Matrices of one routed expert."""
        return self.matrices * hidden * self.intermediate_size

    def cut(self) -> Cut:
        return (("rows of its experts", self.intermediate_size),)

    def weights(self, hidden: int, tp: int, ep: int = 1) -> Weights:
        """``ep`` > 1: each GPU holds whole experts, a share 1/ep of them; else 1/tp of every one."""
        shards = ep if ep > 1 else tp
        routed = self.num_experts * self.expert_parameters(hidden) // shards
        per_expert = (self.matrices - 1) * self.intermediate_size // (1 if ep > 1 else tp) + hidden
        held = -(-self.num_experts // ep)
        shared = self.matrices * hidden * self.shared_intermediate_size // tp
        return _counted(
            experts=routed,
            mlp=shared + self.shared_gate * hidden,
            router=hidden * self.num_experts,
            other=self.bias * held * per_expert + self.router_bias * self.num_experts,
        )


Mixer = Annotated[Attention | LatentAttention | LinearAttention | Mamba, Field(discriminator="kind")]
Ffn = Annotated[Mlp | Experts, Field(discriminator="kind")]


class Layer(Frozen):
    """``count`` layers alike; mixer or mlp may be absent (Nemotron-H has layers of one alone). ``norms``: of hidden width."""

    count: PositiveInt
    mixer: Mixer | None = None
    mlp: Ffn | None = None
    norms: NonNegativeInt = 2

    def weights(self, hidden: int, tp: int, ep: int = 1) -> Weights:
        """Of one such layer on one GPU."""
        found = _counted(other=self.norms * hidden)
        if self.mixer is not None:
            found += self.mixer.weights(hidden, tp)
        if self.mlp is not None:
            found += self.mlp.weights(hidden, tp, ep)
        return found
