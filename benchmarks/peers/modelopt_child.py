"""NVIDIA ModelOpt's `auto_quantize` in an interpreter of its own: request on stdin (JSON), answer in a file.

The request is that of `autoround_child.py`, with `shapes` (unit -> {group_size, int4_bits, int8_bits}):
ModelOpt takes group sizes by module and the exact bits of a format with its scales. It fuses q, k, v and
gate, up by its own rules. Method: its default, `gradient`. Its linear programme is solved again for every
budget (`get_auto_quantize_config`).
"""

from __future__ import annotations

import json
import tempfile
import time
from typing import Any

from wire import serve


def answer(request: dict) -> dict:
    """Plans by budget, or the products made from them when the request brings text to judge them on."""
    return product(request) if "held_out" in request else allocate(request)


def formats(shape: dict, algorithm: str) -> list[dict[str, Any]]:
    """INT4 by groups and INT8 by channel with dynamic inputs per token, as ModelOpt writes its presets."""
    off = {"quantizer_name": "*", "enable": False}
    int4 = {
        "quantizer_name": "*weight_quantizer",
        "cfg": {"num_bits": 4, "block_sizes": {-1: shape["group_size"], "type": "static"}},
    }
    return [
        {"quant_cfg": [off, int4], "algorithm": algorithm, "effective_bits": shape["int4_bits"]},
        {
            "quant_cfg": [
                off,
                {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": 8, "axis": 0}},
                {
                    "quantizer_name": "*input_quantizer",
                    "cfg": {"num_bits": 8, "type": "dynamic", "block_sizes": {-1: None}},
                },
            ],
            "algorithm": "max",
            "effective_bits": shape["int8_bits"],
        },
    ]


def effective_bits(request: dict, budget: int) -> float:
    """A budget as ModelOpt counts: over all linears, what is left out (`lm_head`) at 16 bits."""
    return (budget * 8 + 16 * request["left_out"]) / (request["numel"] + request["left_out"])


def search(request: dict, budget: int, int4: str, checkpoint: str | None = None) -> tuple[Any, dict]:
    """The searched model and ModelOpt's state; scores come from `checkpoint` when it is there."""
    import modelopt.torch.quantization as mtq
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(request["model"], dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(request["model"])
    with open(request["texts"]) as file:
        texts = json.load(file)[: request["nsamples"]]
    batches = [
        torch.tensor([tokenizer(t, add_special_tokens=False)["input_ids"][: request["seqlen"]]])
        for t in texts
    ]
    listed = {n for names in request["linears"].values() for n in names}
    request["left_out"] = sum(
        m.weight.numel()
        for n, m in model.named_modules()
        if isinstance(m, torch.nn.Linear) and n not in listed
    )
    spaces: dict[str, list[str]] = {}
    for unit, names in request["linears"].items():
        spaces.setdefault(json.dumps(request["shapes"][unit], sort_keys=True), []).extend(names)
    return mtq.auto_quantize(
        model,
        constraints={"effective_bits": effective_bits(request, budget)},
        quantization_formats=formats(json.loads(next(iter(spaces))), int4),
        module_search_spaces=[
            {"module_name_patterns": names, "quantization_formats": formats(json.loads(key), int4)}
            for key, names in spaces.items()
        ],
        data_loader=batches,
        forward_step=lambda m, ids: m(input_ids=ids, use_cache=False),
        loss_func=lambda out, ids: torch.nn.functional.cross_entropy(out.logits[0, :-1].float(), ids[0, 1:]),
        disabled_layers=["*lm_head*"],
        num_calib_steps=len(batches),
        num_score_steps=len(batches),
        checkpoint=checkpoint,
    )


def product(request: dict) -> dict:
    """`auto_quantize` with AWQ for INT4; the model that it leaves is judged as it is."""
    from judge import judged

    out: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for budget in request["budgets"]:
            start = time.process_time()
            model, state = search(request, budget, "awq_lite", f"{folder}/state.pth")
            seconds = time.process_time() - start
            plan = plan_of(request, state, state["best"]["recipe"])
            out[str(budget)] = {"plan": plan, "seconds": seconds}
            out[str(budget)]["texts"] = judged(model, request["held_out"])
    return out


def plan_of(request: dict, state: dict, best: dict) -> dict[str, str]:
    """Unit -> format family of ModelOpt's recipes."""
    by_linear = {}
    for name, recipe in best.items():
        bits = recipe.config.effective_bits or 16.0
        for module in state["candidate_stats"][name]["module_names"]:
            by_linear[module] = "int4" if bits < 6 else "int8" if bits < 12 else "16-bit"
    return {u: by_linear[names[0]] for u, names in request["linears"].items()}


def allocate(request: dict) -> dict:
    """Plans by budget, and seconds: to the scores and the first plan, and of all."""
    start = time.process_time()
    import modelopt
    from modelopt.torch.quantization.algorithms import _resolve_best_recipe

    loaded = time.process_time()
    _, state = search(request, request["budgets"][0], "max")
    seconds = time.process_time() - loaded

    def solved(bits: float) -> dict[str, str]:
        return plan_of(request, state, _resolve_best_recipe(state, {"effective_bits": bits}))

    plans = {}
    for budget in request["budgets"]:
        target = effective_bits(request, budget)
        plan = solved(target)
        while sum(request["bytes"][u][f] for u, f in plan.items()) > budget:
            target -= 0.001
            plan = solved(target)
        plans[str(budget)] = plan
    return {
        "plans": plans,
        "seconds": seconds,
        "seconds_all": time.process_time() - start,
        "version": modelopt.__version__,
    }


if __name__ == "__main__":
    serve(answer)
