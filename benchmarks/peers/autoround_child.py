"""AutoRound's AutoScheme in a process of its own: a request on stdin (JSON), an answer in the file it names.

Request: `model`, `texts` (a .json list of strings longer than `seqlen` tokens), `nsamples`, `seqlen`,
`group_size`, `shared` (patterns of fused linears), `bytes` (unit -> format family -> bytes), `linears`
(unit -> its linears), `budgets` (bytes over the units), `targets` (the same as bits by AutoScheme's own
count), `out`.

AutoScheme counts bits its own way (a zero point for each group even when symmetric), so its target is moved
in steps until its plan is the largest one within the budget: its scores are cached, only its dynamic
programme runs again.
"""

from __future__ import annotations

import os
import tempfile
import time
from typing import Any

from wire import serve

SPAN, STEPS = 0.08, 4
"""Bisection of the target around what the budget is by AutoScheme's own count, to a hundredth of a bit."""


def answer(request: dict) -> dict:
    """Plans by budget, or the products made from them when the request brings text to judge them on."""
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["AR_AUTO_SCHEME_CACHE"] = scratch  # scores must be made here, in the time that is measured
        return product(request) if "held_out" in request else allocate(request)


def tool_for(request: dict, target: float, iters: int) -> Any:
    """AutoRound with an AutoScheme of INT4 by groups and INT8 by channel (inputs per token)."""
    from auto_round import AutoRound, AutoScheme
    from auto_round.schemes import QuantizationScheme

    options = [
        QuantizationScheme(bits=4, group_size=request["group_size"], sym=True),
        QuantizationScheme(
            bits=8, group_size=-1, sym=True, act_bits=8, act_group_size=-1, act_sym=True, act_dynamic=True
        ),
    ]
    if request.get("offer_16"):
        options.append("BF16")
    text = {"nsamples": request["nsamples"], "seqlen": request["seqlen"], "dataset": request["texts"]}
    scheme = AutoScheme(avg_bits=target, options=options, shared_layers=request["shared"], **text)
    return AutoRound(request["model"], scheme=scheme, iters=iters, device_map="cpu", **text)


def product(request: dict) -> dict:
    """AutoScheme's plan of each target quantized by AutoRound itself (`iters` steps a block), and judged."""
    import torch
    from judge import judged
    from transformers import AutoModelForCausalLM

    from tuners.model.inputs import int8_per_token

    out: dict[str, Any] = {}
    for budget, target in zip(request["budgets"], request["targets"], strict=True):
        torch.manual_seed(0)
        start = time.process_time()
        made, config = tool_for(request, target, request["iters"]).quantize()
        seconds = time.process_time() - start
        model = AutoModelForCausalLM.from_pretrained(request["model"], dtype=torch.float32)
        plan = {}
        for unit, names in request["linears"].items():
            plan[unit] = f"int{config[names[0]]['bits']}"
            for name in names:
                module, found = model.get_submodule(name), made.get_submodule(name)
                module.weight.data = getattr(found, "orig_layer", found).weight.data.float().clone()
                if plan[unit] == "int8":
                    module.register_forward_pre_hook(lambda _m, args: (int8_per_token(args[0]),))
        del made
        out[str(budget)] = {"plan": plan, "seconds": seconds, "texts": judged(model, request["held_out"])}
    return out


def allocate(request: dict) -> dict:
    """Plans by budget, and seconds: to the first plan, and of all."""
    import auto_round
    import torch

    torch.manual_seed(0)
    start = time.process_time()
    tool = tool_for(request, request["targets"][0], iters=1)
    tool.post_init()
    generator, seconds = tool.scheme_generator, time.process_time() - start

    def run(target: float) -> dict[str, str]:
        generator.auto_scheme.avg_bits = target
        config = generator.get_layer_config()
        bits = {u: config[names[0]]["bits"] for u, names in request["linears"].items()}
        return {u: "16-bit" if b == 16 else f"int{b}" for u, b in bits.items()}

    def used(plan: dict[str, str]) -> int:
        return sum(request["bytes"][u][f] for u, f in plan.items())

    plans: dict[str, dict[str, str]] = {}
    for budget, target in zip(request["budgets"], request["targets"], strict=True):
        low, high = max(target - SPAN, generator.min_avg_bit), min(target + SPAN, generator.max_avg_bit)
        best = run(low)
        for _ in range(STEPS):
            middle = (low + high) / 2
            plan = run(middle)
            if used(plan) <= budget:
                best, low = plan, middle
            else:
                high = middle
        plans[str(budget)] = best
    return {
        "plans": plans,
        "seconds": seconds,
        "seconds_all": time.process_time() - start,
        "version": auto_round.__version__,
    }


if __name__ == "__main__":
    serve(answer)
