"""Small, complete objects for tests of validation and of the bundle."""

from __future__ import annotations

from profiles.hardware.schema import Device, DeviceKind, HardwareProfile
from profiles.models.schema import ModelProfile, TensorInfo
from profiles.provenance import Figure
from tuners.plan import PrecisionPlan, Unit, UnitLinear
from tuners.validate.report import planned_kernel
from tuners.validate.schema import EngineMeasurement, Predictions
from tuners.validate.served import served_weights_bytes, unit_served_bytes

OPTIONS = ("W4A16_G32", "W8A8", "FP8_DYNAMIC", "BF16")
GIB = 2**30


def cpu_device(isa: tuple[str, ...] = ("avx2",)) -> Device:
    """An x86 CPU with 8 GiB."""
    return Device(
        kind=DeviceKind.CPU, name="Test CPU", total_bytes=Figure.exact(8 * GIB, "B", "test"), isa=isa
    )


def cuda_device(sm: tuple[int, int] = (8, 9)) -> Device:
    """A CUDA device with 24 GiB."""
    return Device(
        kind=DeviceKind.CUDA,
        name="Test GPU",
        total_bytes=Figure.exact(24 * GIB, "B", "test"),
        compute_capability=sm,
    )


def hardware(device: Device | None = None) -> HardwareProfile:
    """One device."""
    return HardwareProfile(devices=(device or cpu_device(),), origin="probe")


def units() -> list[Unit]:
    """One block: qkv, o, gate_up, down of a model with 64 hidden and 128 intermediate units."""

    def unit(name: str, role: str, shards: dict[str, tuple[int, int]]) -> Unit:
        linears = tuple(
            UnitLinear(name=f"model.layers.0.{s}", out_features=o, in_features=i)
            for s, (o, i) in shards.items()
        )
        return Unit(name=f"model.layers.0.{name}", role=role, block=0, linears=linears, options=OPTIONS)

    attention = {"self_attn.q_proj": (64, 64), "self_attn.k_proj": (32, 64), "self_attn.v_proj": (32, 64)}
    return [
        unit("self_attn.qkv_proj", "qkv", attention),
        unit("self_attn.o_proj", "o", {"self_attn.o_proj": (64, 64)}),
        unit("mlp.gate_up_proj", "gate_up", {"mlp.gate_proj": (128, 64), "mlp.up_proj": (128, 64)}),
        unit("mlp.down_proj", "down", {"mlp.down_proj": (64, 128)}),
    ]


def plan() -> PrecisionPlan:
    """Every format once."""
    return PrecisionPlan(
        formats=dict(
            zip((u.name for u in units()), ("W8A8", "FP8_DYNAMIC", "W4A16_G32", "BF16"), strict=True)
        ),
        label="6 bits",
        model_id="Example/Tiny-64",
    )


def model(**changes: object) -> ModelProfile:
    """The model that `units` belongs to: one block, 96 words, tied embeddings."""
    linears = [m for u in units() for m in u.linears]
    tensors = [
        TensorInfo(name=f"{m.name}.weight", shape=(m.out_features, m.in_features), dtype="BF16")
        for m in linears
    ]
    tensors += [
        TensorInfo(name="model.embed_tokens.weight", shape=(96, 64), dtype="BF16"),
        TensorInfo(name="model.norm.weight", shape=(64,), dtype="BF16"),
    ]
    facts: dict[str, object] = {
        "model_id": "Example/Tiny-64", "source": "local", "architecture": "LlamaForCausalLM",
        "model_type": "llama", "tensors": tuple(tensors), "num_layers": 1, "hidden_size": 64,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "vocab_size": 96,
        "max_position_embeddings": 512, "tie_word_embeddings": True, "license": "apache-2.0",
    }  # fmt: skip
    return ModelProfile.model_validate(facts | changes)


def measurement(quantized: bool = True, **changes: object) -> EngineMeasurement:
    """What the engine would show if everything were as planned on `cpu_device()`."""
    device = cpu_device()
    chosen = plan() if quantized else PrecisionPlan(formats={u.name: "BF16" for u in units()})
    facts: dict[str, object] = {
        "checkpoint": "quantized" if quantized else "original", "engine_version": "0.32.0",
        "dtype": "float32", "load_seconds": 5.0,
        "kernels": {u.name: planned_kernel(u, chosen.formats[u.name], device) for u in units()},
        "schemes": {u.name: "any" for u in units()},
        "module_bytes": {u.name: unit_served_bytes(u, chosen.formats[u.name], "float32") for u in units()},
        "weights_bytes": served_weights_bytes(model(), chosen, units(), "float32"),
        "kv_cache_bytes": 256 * 1000, "kv_tokens": 1000, "max_model_len": 512, "max_concurrency": 1.95,
        "peak_rss_bytes": GIB, "perplexity": 20.8 if quantized else 20.0, "eval_tokens": 2048,
        "kl_to_reference": 0.04 if quantized else None, "top1_agreement": 0.91 if quantized else None,
        "generations": ("Paris is the capital of France.",), "prompts": ("What is the capital?",),
        "prefill_tokens_s": 300.0, "decode_tokens_s": 20.0, "ttft_ms": 800.0, "itl_ms": 50.0,
    }  # fmt: skip
    return EngineMeasurement.model_validate(facts | changes)


def predictions(**changes: object) -> Predictions:
    """Promises that `measurement()` keeps."""
    facts: dict[str, object] = {
        "weights_bytes": served_weights_bytes(model(), plan(), units(), "float32"),
        "kv_tokens": 1000, "kv_bytes_per_token": 256,
        "perplexity_ratio": 1.045, "kl": 0.042, "top1": 0.905,
    }  # fmt: skip
    return Predictions.model_validate(facts | changes)
