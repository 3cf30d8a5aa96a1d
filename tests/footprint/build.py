"""Models and machines made by hand: small, exact, and independent of every catalogue."""

from __future__ import annotations

from profiles.hardware.schema import Device, DeviceKind, HardwareProfile
from profiles.models.schema import KvKind, KvLayer, LinearInfo, ModelProfile, MoeFacts, TensorInfo
from profiles.provenance import Figure

GIB = 1 << 30


def gpu(
    gib: float = 79.19,
    *,
    count: int = 1,
    name: str = "H100",
    capability: tuple[int, int] = (9, 0),
    free_gib: float | None = None,
    bandwidth: bool = True,
) -> HardwareProfile:
    """`count` equal CUDA devices."""
    device = Device(
        kind=DeviceKind.CUDA,
        name=name,
        total_bytes=Figure.exact(gib * GIB, "B", "test"),
        free_bytes=None if free_gib is None else Figure.exact(free_gib * GIB, "B", "test"),
        bandwidth_bytes_s=Figure.exact(3.35e12, "B/s", "test") if bandwidth else None,
        peak_ops={k: Figure.exact(v, "op/s", "test") for k, v in (("bf16", 9.9e14), ("fp8", 2e15))},
        compute_capability=capability,
    )
    return HardwareProfile(devices=(device,) * count, origin="catalogue")


def cpu(total_gib: float = 24, free_gib: float = 20) -> HardwareProfile:
    """An AVX2 CPU."""
    device = Device(
        kind=DeviceKind.CPU,
        name="CPU",
        total_bytes=Figure.exact(total_gib * GIB, "B", "test"),
        free_bytes=Figure.exact(free_gib * GIB, "B", "test"),
        bandwidth_bytes_s=Figure.exact(3e10, "B/s", "test"),
        peak_ops={"fp32": Figure.exact(1e11, "op/s", "test")},
        isa=("avx2",),
        cores=2,
    )
    return HardwareProfile(devices=(device,), origin="probe")


def llama(
    *,
    layers: int = 4,
    hidden: int = 512,
    heads: int = 8,
    kv_heads: int = 2,
    intermediate: int = 1024,
    vocab: int = 4096,
    tied: bool = False,
    experts: int = 0,
    context: int = 8192,
    kv_layers: tuple[KvLayer, ...] | None = None,
    dtype: str = "BF16",
) -> ModelProfile:
    """A Llama (or, with experts, a Mixtral) of any size, tensors and linears in step."""
    head = hidden // heads
    tensors: list[TensorInfo] = []
    linears: list[LinearInfo] = []

    def linear(
        name: str, out: int, inn: int, fused: str, role: str, block: int | None, copies: int = 1
    ) -> None:
        shape = (out, inn) if copies == 1 else (copies, out, inn)
        stored = name if copies == 1 else name.replace(".0.", ".*.")
        tensors.append(TensorInfo(name=f"{stored}.weight", shape=shape, dtype=dtype))
        linears.append(
            LinearInfo(
                name=name,
                in_features=inn,
                out_features=out,
                fused=fused,
                role=role,
                block=block,
                copies=copies,
            )
        )

    linear("model.embed_tokens", vocab, hidden, "model.embed_tokens", "embed", None)
    for i in range(layers):
        at = f"model.layers.{i}"
        for leaf, out in (("q_proj", hidden), ("k_proj", kv_heads * head), ("v_proj", kv_heads * head)):
            linear(f"{at}.self_attn.{leaf}", out, hidden, f"{at}.self_attn.qkv_proj", "qkv", i)
        linear(f"{at}.self_attn.o_proj", hidden, hidden, f"{at}.self_attn.o_proj", "o", i)
        if experts:
            for leaf in ("gate_proj", "up_proj"):
                name = f"{at}.mlp.experts.0.{leaf}"
                linear(name, intermediate, hidden, f"{at}.mlp.experts.w13", "expert_gate_up", i, experts)
            name = f"{at}.mlp.experts.0.down_proj"
            linear(name, hidden, intermediate, f"{at}.mlp.experts.w2", "expert_down", i, experts)
            linear(f"{at}.mlp.gate", experts, hidden, f"{at}.mlp.gate", "router", i)
        else:
            for leaf in ("gate_proj", "up_proj"):
                linear(f"{at}.mlp.{leaf}", intermediate, hidden, f"{at}.mlp.gate_up_proj", "gate_up", i)
            linear(f"{at}.mlp.down_proj", hidden, intermediate, f"{at}.mlp.down_proj", "down", i)
        tensors += [
            TensorInfo(name=f"{at}.{norm}.weight", shape=(hidden,), dtype=dtype)
            for norm in ("input_layernorm", "post_attention_layernorm")
        ]
    tensors.append(TensorInfo(name="model.norm.weight", shape=(hidden,), dtype=dtype))
    if not tied:
        linear("lm_head", vocab, hidden, "lm_head", "lm_head", None)
    full = KvLayer(kind=KvKind.FULL, kv_heads=kv_heads, head_dim=head)
    return ModelProfile(
        model_id="test/llama",
        source="local",
        architecture="LlamaForCausalLM",
        model_type="llama",
        tensors=tuple(tensors),
        linears=tuple(linears),
        kv_layers=kv_layers if kv_layers is not None else (full,) * layers,
        num_layers=layers,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head,
        vocab_size=vocab,
        max_position_embeddings=context,
        tie_word_embeddings=tied,
        moe=MoeFacts(
            num_experts=experts,
            experts_per_token=2,
            moe_intermediate_size=intermediate,
            moe_layers=layers,
        )
        if experts
        else None,
    )
