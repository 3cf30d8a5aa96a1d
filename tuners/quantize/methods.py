"""How a unit's weights become codes: the methods by name, what each can make, and which one is taken.

The format says what is stored and what kernel runs; the method only chooses the numbers, so every method's
checkpoint of a plan has the same tensors, bytes and kernels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, cast, get_args

from profiles.errors import UsageError, nearest
from profiles.formats import Activations, Format, Strategy, get_format
from profiles.formats.menu import MENU
from profiles.provenance import Contract
from tuners.plan import PrecisionPlan, Unit

Method = Literal[
    "rtn",
    "gptq",
    "gptq-no-order",
    "gptq-minmax",
    "awq",
    "awq-gptq",
    "smoothquant",
    "smoothquant-pow2",
    "autoround",
]
NAMES: tuple[str, ...] = get_args(Method)
EVERY = "*"
"""Key of a method that was given without a format: for all formats that it can make."""


class MethodInfo(Contract):
    """One method: what it does, whose it is, and whether it looks at calibration text."""

    name: Method
    title: str
    source: str
    calibrated: bool = True


METHODS: dict[str, MethodInfo] = {
    m.name: m
    for m in (
        MethodInfo(
            name="rtn",
            title="round to nearest, min-max scales",
            source="llm-compressor QuantizationModifier",
            calibrated=False,
        ),
        MethodInfo(
            name="gptq",
            title="GPTQ in activation order, scales clipped by the Hessian (integers)",
            source="arXiv 2210.17323, llm-compressor GPTQModifier, tuners/model/clipping.py",
        ),
        MethodInfo(
            name="gptq-no-order",
            title="the same, columns in their own order",
            source="arXiv 2210.17323, llm-compressor GPTQModifier",
        ),
        MethodInfo(
            name="gptq-minmax",
            title="GPTQ in activation order, min-max scales",
            source="arXiv 2210.17323, llm-compressor GPTQModifier",
        ),
        MethodInfo(
            name="awq",
            title="input channels scaled by their activations, then rounded to nearest",
            source="arXiv 2306.00978, llm-compressor AWQModifier",
        ),
        MethodInfo(
            name="awq-gptq",
            title="input channels scaled as by AWQ, then GPTQ with clipped scales",
            source="llm-compressor AWQModifier and GPTQModifier",
        ),
        MethodInfo(
            name="smoothquant",
            title="outlier channels moved from the input into the weight (alpha 0.5), then rounded",
            source="arXiv 2211.10438, llm-compressor SmoothQuantModifier",
        ),
        MethodInfo(
            name="smoothquant-pow2",
            title="the same by powers of two, alpha chosen per unit by its output's error",
            source="tuners/model/smoothing.py",
        ),
        MethodInfo(
            name="autoround",
            title="rounding and clipping learned block by block with signed gradients",
            source="arXiv 2309.05516, llm-compressor AutoRoundModifier",
        ),
    )
}


def refusal(method: str, fmt: Format) -> str | None:
    """Why a method cannot make the weights of a format, or None."""
    rounds_inputs = fmt.activations is not Activations.A16 and fmt.weight_bits == 8
    integer = fmt.weight_type == "int" and fmt.strategy in (Strategy.GROUP, Strategy.CHANNEL)
    if fmt.strategy is Strategy.NONE:
        return "it is not quantized"
    match method:
        case "rtn":
            return None
        case "smoothquant" | "smoothquant-pow2":
            if not rounds_inputs or fmt.strategy is not Strategy.CHANNEL:
                return "its inputs are not rounded to 8 bits beside weights with a scale per channel"
        case "awq" | "awq-gptq":
            if not integer or fmt.activations is not Activations.A16:
                return "AWQ is for integer weights with 16-bit activations"
        case "autoround":
            if not integer or not fmt.symmetric:
                return "llm-compressor's AutoRound hands back symmetric integer weights only"
        case "gptq":
            if fmt.strategy is Strategy.BLOCK:
                return "its scales are per block"
        case _:
            if not integer:
                return "its weights are not integers with scales per group or channel"
    return None


def default_method(fmt: Format) -> Method:
    """What is taken when nothing is asked: what measured best (benchmarks/results/methods.md).

    GPTQ at 4 bits. At 8 bits rounding a weight is within 0.4 % of its row's largest one and costs next to
    nothing (KL 0.0035 on the demo model); where inputs are rounded too, outlier channels are what costs.
    """
    if fmt.weight_bits <= 4:
        return "gptq"
    return "rtn" if refusal("smoothquant-pow2", fmt) else "smoothquant-pow2"


def parse_methods(tokens: Iterable[str]) -> dict[str, Method]:
    """`W4A16=awq W8A8=smoothquant` as a mapping, checked; a method alone is for all formats it can make.

    A key is a format, the beginning of several formats' names (W4A16) or a family (int4); `auto` is the
    default.

    Raises:
        UsageError: an unknown method or key, or a method that cannot make any format of its key.
    """
    found: dict[str, str] = {}
    for token in tokens:
        key, _, method = token.rpartition("=")
        name = method.strip().lower()
        if name != "auto":
            found[key.strip() or EVERY] = name
    check_methods(found)
    return cast("dict[str, Method]", found)


def check_methods(asked: Mapping[str, str]) -> None:
    """Refuse unknown names and methods that can make none of the formats they are asked for.

    Raises:
        UsageError: names the nearest known one, or what the format can have.
    """
    for key, method in asked.items():
        if method not in NAMES:
            raise UsageError(
                f"unknown method {method!r}",
                where=f"--method {key}={method}" if key != EVERY else f"--method {method}",
                got=method,
                allowed=nearest(method, [*NAMES, "auto"]),
            )
        if key == EVERY:
            continue
        formats = covered(key)
        if not formats:
            families = {f.family for f in MENU.values()}
            raise UsageError(
                f"no format is called {key!r}",
                where=f"--method {key}={method}",
                got=key,
                allowed=nearest(key, [*MENU, *families]),
                next_step="advisor hardware --formats lists the formats",
            )
        reasons = [refusal(method, f) for f in formats]
        if all(reasons):
            raise _cannot(method, formats[0], where=f"--method {key}={method}")


def _cannot(method: str, fmt: Format, where: str | None) -> UsageError:
    return UsageError(
        f"{method} cannot make {fmt.name}",
        where=where,
        got=f"{method}: {refusal(method, fmt)}",
        allowed=", ".join(m for m in NAMES if refusal(m, fmt) is None) or "nothing",
    )


def covered(key: str) -> list[Format]:
    """Formats that a key of `--method` names: a family, one by name or alias, or all whose name begins so."""
    family = [f for f in MENU.values() if f.family == key.strip().lower()]
    if family:
        return family
    upper = key.strip().upper()
    exact = [f for f in MENU.values() if upper == f.name or upper in {a.upper() for a in f.aliases}]
    if exact:
        return exact
    return [f for f in MENU.values() if f.name.startswith(f"{upper}_")]


def method_of(fmt: Format, asked: Mapping[str, str]) -> str:
    """The method of a format: of its own name, else of the narrowest key that covers it, else the default.

    A method asked for several formats at once leaves those it cannot make at their default.
    """
    keys = [k for k in asked if k != EVERY and fmt in covered(k)]
    for key in sorted(keys, key=lambda k: len(covered(k))):
        if refusal(asked[key], fmt) is None:
            return asked[key]
    every = asked.get(EVERY)
    return every if every is not None and refusal(every, fmt) is None else default_method(fmt)


def methods_by_unit(units: Sequence[Unit], plan: PrecisionPlan, asked: Mapping[str, str]) -> dict[str, str]:
    """Method of every quantized unit: the plan's own where it names one, else by format.

    Raises:
        UsageError: the plan names an unknown unit or method, or one that cannot make the unit's format.
    """
    check_methods(asked)
    names = {u.name for u in units}
    for unit, method in plan.methods.items():
        where = f"methods of the plan: {unit}"
        if unit not in names:
            raise UsageError(
                "the plan gives a method to a unit that the model does not have",
                where=where,
                got=unit,
                allowed=nearest(unit, names),
            )
        if method not in NAMES:
            raise UsageError(
                f"unknown method {method!r}", where=where, got=method, allowed=nearest(method, NAMES)
            )
        fmt = get_format(plan.formats[unit])
        if refusal(method, fmt):
            raise _cannot(method, fmt, where)
    found = {}
    for unit_ in units:
        fmt = get_format(plan.formats[unit_.name])
        if fmt.strategy is not Strategy.NONE:
            found[unit_.name] = plan.methods.get(unit_.name) or method_of(fmt, asked)
    return found


def by_format(plan: PrecisionPlan, methods: Mapping[str, str]) -> dict[str, str]:
    """Format name to its method; several, in alphabetical order, joined by a plus sign."""
    found: dict[str, set[str]] = {}
    for unit, method in methods.items():
        found.setdefault(get_format(plan.formats[unit]).name, set()).add(method)
    return {name: " + ".join(sorted(of)) for name, of in sorted(found.items())}
