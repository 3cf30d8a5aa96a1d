"""The modifiers of llm-compressor that carry out a plan: one quantizer per method, transforms before them.

Each modifier gets a calibration pass of its own (llm-compressor's `independent` pipeline), block by block, in
the order of the list: what scales channels (SmoothQuant, AWQ) is folded in before the Hessians of GPTQ are
collected. AutoRound comes last: llm-compressor stops propagating rounded activations from then on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from profiles.formats import get_format
from tuners.quantize.groups import config_groups, ignored, kv_scheme, module_names, stored_as_told
from tuners.quantize.schema import QuantizeSpec

if TYPE_CHECKING:
    from tuners.plan import Unit
    from tuners.quantize.transforms import Producers

QUANTIZERS: tuple[tuple[str, ...], ...] = (
    ("rtn", "smoothquant", "smoothquant-pow2", "awq"),
    ("gptq", "awq-gptq"),
    ("gptq-no-order",),
    ("gptq-minmax",),
    ("autoround",),
)
"""Methods whose weights one modifier rounds, in the order of the recipe."""


def recipe(
    spec: QuantizeSpec, methods: Mapping[str, str], producers: Producers, *, scale_dtype: str
) -> list[Any]:
    """Modifiers for the plan; `methods` by unit, `producers` who can take a unit's input scale."""
    made = _transforms(spec, methods, producers)
    groups = config_groups(spec.units, spec.plan, scale_dtype=scale_dtype)
    ignore = ignored(spec.units, spec.plan)
    of_module = {name: methods[u.name] for u in spec.units if u.name in methods
                 for m in u.linears for name in module_names(m)}  # fmt: skip
    for together in QUANTIZERS:
        chosen = {}
        for name, scheme in groups.items():
            targets = [t for t in scheme["targets"] if of_module.get(t) in together]
            if targets:
                chosen[name.lower()] = {**scheme, "targets": targets}
        if chosen:
            made.append(_quantizer(together[0], chosen, ignore, spec))
    cache = kv_scheme(spec.plan)
    if cache is not None:
        from compressed_tensors.quantization import QuantizationArgs
        from llmcompressor.modifiers.quantization import QuantizationModifier

        # the last one: scales are those of the quantized model's keys and values
        made.append(QuantizationModifier(targets=[], kv_cache_scheme=QuantizationArgs.model_validate(cache)))
    return made


def _quantizer(method: str, schemes: dict[str, Any], ignore: list[str], spec: QuantizeSpec) -> Any:
    from compressed_tensors.quantization import ActivationOrdering, QuantizationScheme
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier

    groups = {}
    for name, scheme in schemes.items():
        told = stored_as_told(get_format(name))  # else inferred by the library at saving
        plain = {k: v for k, v in scheme.items() if told or k != "format"}
        groups[name] = QuantizationScheme.model_validate(plain)
    match method:
        case "rtn":
            return QuantizationModifier(config_groups=groups, ignore=ignore)
        case "autoround":
            from tuners.quantize.learned_rounding import AutoRoundModifier

            targets = [t for g in groups.values() for t in g.targets]
            return AutoRoundModifier(
                config_groups=groups,
                targets=targets,
                ignore=ignore,
                iters=spec.rounding_steps,
                batch_size=ROUNDING_BATCH,
                enable_torch_compile=False,
            )
        case _:
            order = None if method == "gptq-no-order" else ActivationOrdering.STATIC
            return GPTQModifier(
                config_groups=groups, ignore=ignore, dampening_frac=spec.dampening_frac, actorder=order
            )


ROUNDING_BATCH = 4
"""Sequences per step of AutoRound: about the tokens of one calibration batch."""

GRID = 20
"""Points of AWQ's search per layer, llm-compressor's and the paper's own."""

ALPHA = 0.5
"""SmoothQuant's strength: the paper's and llm-compressor's default."""


def _transforms(spec: QuantizeSpec, methods: Mapping[str, str], producers: Producers) -> list[Any]:
    made: list[Any] = []
    smoothed = _scaled(spec, methods, producers, ("smoothquant",))
    if smoothed:
        from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

        made.append(
            SmoothQuantModifier(
                smoothing_strength=ALPHA,
                mappings=[[[m.name for m in u.linears], producers[u.name]] for u in smoothed],
            )
        )
    weighted = _scaled(spec, methods, producers, ("awq", "awq-gptq"))
    if weighted:
        from llmcompressor.modifiers.transform.awq import AWQMapping, AWQModifier

        made.append(
            AWQModifier(
                mappings=[AWQMapping(producers[u.name], [m.name for m in u.linears]) for u in weighted],
                n_grid=GRID,
            )
        )
    return made


def _scaled(
    spec: QuantizeSpec, methods: Mapping[str, str], producers: Producers, of: tuple[str, ...]
) -> list[Unit]:
    return [u for u in spec.units if methods.get(u.name) in of and u.name in producers]
