"""README.md: a model card with front matter, the verdict and the evaluation table."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from typing import Any

from ruamel.yaml import YAML

from advisor.bundle.context import HOST, PORT, BundleContext
from profiles.models.generation import named_temperature
from tuners.nats import nats
from tuners.validate.schema import EngineMeasurement, TaskAccuracy

MIB = 2**20


def front_matter(context: BundleContext) -> dict[str, Any]:
    """The card's metadata, in the Hub's words."""
    formats = sorted({f.lower() for f in context.plan.formats.values() if f != "BF16"})
    out: dict[str, Any] = {
        "base_model": context.base_name,
        "base_model_relation": "quantized",
        "library_name": "vllm",
        "pipeline_tag": "text-generation",
        "tags": ["compressed-tensors", "vllm", *formats],
    }
    return out | ({"license": context.model.license} if context.model.license else {})


def render(context: BundleContext) -> str:
    """The file's text."""
    front = StringIO()
    YAML().dump(front_matter(context), front)
    return f"---\n{front.getvalue()}---\n\n" + "\n".join(_body(context)) + "\n"


def _body(context: BundleContext) -> Iterator[str]:
    report, ran = context.report, context.report.quantized
    counts = ", ".join(f"{n} × {f}" for f, n in sorted(context.plan.counts().items()))
    yield f"# {context.served_name}\n"
    if report.passed:
        yield "**Validation passed** in the engine that serves it.\n"
    else:
        yield "**Validation FAILED.** `run.sh` refuses to serve it.\n"
    yield (
        f"{context.base_name}, quantized to {context.bits_per_weight:.2f} bits per weight (scales "
        f"included): {counts}. Validated in vLLM {ran.engine_version} ({ran.dtype}) on "
        f"{context.hardware.device.name}, task `{context.task_name}`.\n"
    )
    yield "## Evaluation\n"
    yield from _table(report.original, ran, report.task)
    yield f"\nHeld-out text, {ran.eval_tokens} tokens; speeds for one request at a time. KL is over the"
    yield "original's likeliest tokens and one bucket for the rest, a lower bound of the full KL.\n"
    yield "## Gates\n"
    for gate in report.gates:
        yield f"- {gate.mark if gate.passed else '**FAIL**'} · {gate.name}: {gate.reason}"
    yield "\n## Use\n"
    yield f"```bash\n./run.sh                      # http://{HOST}:{PORT}/v1\n```\n"
    yield "```python\nfrom openai import OpenAI"
    yield f'client = OpenAI(base_url="http://{HOST}:{PORT}/v1", api_key="none")'
    yield f'reply = client.chat.completions.create(model="{context.served_name}",'
    greedy = ", temperature=0" if named_temperature(context.checkpoint) is None else ""
    yield f'    messages=[{{"role": "user", "content": "What is the capital of France?"}}]{greedy})'
    yield "print(reply.choices[0].message.content)\n```\n"
    yield from _side_by_side(report.original, ran)
    yield "## Files\n"
    yield "`model/` checkpoint (compressed-tensors) · `serve.yaml` `env.sh` `run.sh` `compose.yaml` how to"
    yield "serve it · `plan.yaml` a format per unit · `recipe.yaml` how it was quantized · `validation.json`"
    yield "every measured line · `report.html` `report.md` the whole run · `deploy/` the same for other"
    yield "platforms and engines (`targets.json`: which, and why not the others) · `provenance.json`"
    yield "what it was made from · `bundle.json` a hash per file"


def _table(
    original: EngineMeasurement, quantized: EngineMeasurement, task: TaskAccuracy | None
) -> Iterator[str]:
    yield "| | original | quantized | ratio |\n|---|---:|---:|---:|"
    rows = (
        ("perplexity", original.perplexity, quantized.perplexity, ".3f"),
        ("weights in the engine, MiB", original.weights_bytes / MIB, quantized.weights_bytes / MIB, ".1f"),
        ("KV cache, tokens", original.kv_tokens, quantized.kv_tokens, ",d"),
        ("prefill, tokens/s", original.prefill_tokens_s, quantized.prefill_tokens_s, ".1f"),
        ("decode, tokens/s", original.decode_tokens_s, quantized.decode_tokens_s, ".1f"),
        ("time to first token, ms", original.ttft_ms, quantized.ttft_ms, ".1f"),
    )
    for name, before, after, spec in rows:
        ratio = f"{after / before:.3f}" if before else "-"
        yield f"| {name} | {before:{spec}} | {after:{spec}} | {ratio} |"
    for name, value, form in (
        ("KL to the original, nats/token", quantized.kl_to_reference, nats),
        ("top-1 agreement", quantized.top1_agreement, "{:.4f}".format),
    ):
        if value is not None:
            yield f"| {name} | | {form(value)} | |"
    if task is not None:
        low, high = task.interval
        yield (
            f"| task score, {task.items} items | {task.original:.1%} | {task.quantized:.1%} | change "
            f"{low * 100:+.1f} to {high * 100:+.1f} points (95 %) |"
        )


def _side_by_side(original: EngineMeasurement, quantized: EngineMeasurement) -> Iterator[str]:
    if not quantized.generations:
        return
    yield "## Greedy answers\n"
    for prompt, before, after in zip(
        quantized.prompts, original.generations, quantized.generations, strict=False
    ):
        yield f"**{_one_line(prompt)}**\n"
        yield f"- original: {_one_line(before)}\n- quantized: {_one_line(after)}\n"


def _one_line(text: str, limit: int = 300) -> str:
    """Model output is data: no line breaks, and nothing that Markdown or HTML would act on."""
    flat = " ".join(text.split())
    flat = flat if len(flat) <= limit else flat[: limit - 1] + "…"
    for mark in "\\`*_[]<>|#":
        flat = flat.replace(mark, "\\" + mark if mark not in "<>" else {"<": "&lt;", ">": "&gt;"}[mark])
    return flat
