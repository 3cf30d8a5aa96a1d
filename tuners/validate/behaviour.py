"""Gates and lines from the engine's checks: the quantized checkpoint must behave as the original does."""

from __future__ import annotations

from collections.abc import Iterator

from tuners.validate.schema import EngineMeasurement, Gate, Line


def behaviour_gates(original: EngineMeasurement, quantized: EngineMeasurement) -> Iterator[Gate]:
    """Determinism, chat template and stop token, long context; none where it was not measured."""
    before, after = original.checks, quantized.checks
    if before is None or after is None:
        return
    yield Gate(
        name="same answer twice",
        passed=after.same_answers >= before.same_answers,
        reason=f"{after.same_answers} of {after.asked_twice} greedy answers are the same in a second pass, "
        f"{before.same_answers} of the original's",
    )
    same_template = before.chat_template_sha256 == after.chat_template_sha256
    template = "no chat template" if after.chat_template_sha256 is None else "the original's chat template"
    stops = after.stopped > 0 or before.stopped == 0
    yield Gate(
        name="chat template and stop token",
        passed=same_template and stops and after.leaked <= before.leaked,
        reason=f"{template if same_template else 'another chat template than the original'}; "
        f"{after.stopped} of {after.asked_to_stop} short answers end by themselves, {before.stopped} of the "
        f"original's; {after.leaked} show markers that are no text, {before.leaked} of the original's",
    )
    yield Gate(
        name="long prompt",
        passed=after.long_ok or not before.long_ok,
        reason=f"{after.long_tokens:,} tokens of a context of {quantized.max_model_len:,}: the next tokens' "
        f"probabilities are {'numbers' if after.long_ok else 'NOT numbers'}",
    )


def load_lines(original: EngineMeasurement, quantized: EngineMeasurement) -> Iterator[Line]:
    """TTFT, ITL and throughput at each concurrency that both measured: they inform, and decide nothing."""
    before = {p.concurrency: p for p in original.load}
    for point in quantized.load:
        other = before.get(point.concurrency)
        if other is None:
            continue
        many = "1 request" if point.concurrency == 1 else f"{point.concurrency} requests"
        for name, field, unit in (
            ("TTFT", "ttft_ms", "ms"),
            ("ITL", "itl_ms", "ms"),
            ("output", "output_tokens_s", "tokens/s"),
        ):
            ours, theirs = getattr(point, field), getattr(other, field)
            times = f", {ours / theirs:.2f} times it" if theirs else ""
            yield Line(
                name=f"{name}, {many} at once", predicted=None, measured=ours, unit=unit,
                note=f"original {theirs:.4g}{times}",
            )  # fmt: skip
