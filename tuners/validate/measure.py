"""Measure one checkpoint in vLLM, offline, in this process: quality, speed, memory, kernels.

Runs in a child (tuners/validate/job.py); the parent's side is tuners/validate/run.py.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from profiles.errors import AdvisorError, RunFailed, UsageError
from profiles.footprint.schema import ServingSpec
from profiles.provenance import Contract
from tuners.child import peak_rss_bytes
from tuners.engine.arguments import engine_arguments, measuring_environment
from tuners.engine.dtype import cpu_dtype
from tuners.events import Emit, Message, Progress, Ticker
from tuners.validate.answering import answer_items
from tuners.validate.checks import prompt_ids, run_checks
from tuners.validate.distributions import TopK, from_prompt_logprobs, top1_agreement, truncated_kl
from tuners.validate.load import measure_load
from tuners.validate.questions import CPU_ITEM_TOKENS, Question
from tuners.validate.schema import EngineMeasurement
from tuners.validate.speed import Speed, measure_speed
from tuners.validate.windows import cut_windows, windows_key

STAGE = "validate"


class MeasureSpec(Contract):
    """What to measure. `reference_path` (.npz) is written when `is_reference`, read otherwise.

    `evaluate_ids` gives the windows themselves, for comparing with numbers of the search on the very
    same tokens; without it they are cut from `evaluate_texts`. `evaluate_counted` says for each of their
    tokens whether the next one counts (the answer's do); without it all do. `item_tokens` bounds the work
    of the task's `questions` (None: all are asked).
    """

    checkpoint: str
    serving: ServingSpec = ServingSpec()
    evaluate_texts: tuple[str, ...] = ()
    evaluate_ids: tuple[tuple[int, ...], ...] = ()
    evaluate_counted: tuple[tuple[bool, ...], ...] = ()
    prompts: tuple[str, ...] = ()
    questions: tuple[Question, ...] = ()
    item_tokens: int | None = Field(default=CPU_ITEM_TOKENS, ge=1)
    eval_tokens: int = Field(default=2048, ge=1)
    seq_len: int = Field(default=512, ge=2)
    top_k: int = Field(default=64, ge=1)
    generate_tokens: int = Field(default=48, ge=1)
    prefill_tokens: int = Field(default=512, ge=2)
    decode_tokens: int = Field(default=16, ge=2)
    reference_path: str | None = None
    is_reference: bool = False
    out_path: str | None = None
    log_path: str | None = None
    seed: int = 0


@dataclass
class Engine:
    """A started vLLM with what was asked of it."""

    llm: Any
    load_seconds: float
    vocab_size: int

    @property
    def cache(self) -> Any:
        """vLLM's cache configuration, filled in when it started."""
        return self.llm.llm_engine.vllm_config.cache_config

    @property
    def max_model_len(self) -> int:
        """Context in tokens."""
        return int(self.llm.llm_engine.vllm_config.model_config.max_model_len)

    @property
    def max_num_seqs(self) -> int:
        """Requests that run at once."""
        return int(self.llm.llm_engine.vllm_config.scheduler_config.max_num_seqs)


def measure(spec: MeasureSpec, emit: Emit) -> EngineMeasurement:
    """Start the engine on the checkpoint and measure everything that validation compares."""
    emit(Progress(stage=STAGE, done=0, text=f"starting vLLM on {spec.checkpoint}"))
    engine = start_engine(spec)
    emit(Message(stage=STAGE, text=f"engine started in {engine.load_seconds:.0f} s"))
    tokenizer = engine.llm.get_tokenizer()
    top = _evaluate(engine, spec, _windows(spec, tokenizer), emit)
    kl, top1 = _against_reference(spec, top)
    generations = _generate(engine, spec, tokenizer, emit)
    emit(Progress(stage=STAGE, done=0, text="answering the task's items"))
    answered = answer_items(
        engine.llm,
        tokenizer,
        spec.questions,
        budget=spec.item_tokens,
        max_model_len=engine.max_model_len,
        emit=emit,
        stage=STAGE,
        seed=spec.seed,
    )
    emit(Progress(stage=STAGE, done=0, text="measuring speed"))
    speed = measure_speed(
        engine.llm,
        vocab_size=engine.vocab_size,
        prefill_tokens=min(spec.prefill_tokens, engine.max_model_len - 1),
        decode_tokens=min(spec.decode_tokens, engine.max_model_len // 2),
        seed=spec.seed,
    )
    emit(Progress(stage=STAGE, done=0, text="checking: same answer twice, stop token, long prompt, load"))
    checks = run_checks(
        engine.llm,
        tokenizer,
        spec.prompts,
        vocab_size=engine.vocab_size,
        max_model_len=engine.max_model_len,
        seed=spec.seed,
    )
    load = measure_load(
        engine.llm,
        vocab_size=engine.vocab_size,
        max_num_seqs=engine.max_num_seqs,
        kv_tokens=int(engine.cache.kv_cache_size_tokens or 0),
        max_model_len=engine.max_model_len,
        seed=spec.seed,
    )
    found = _read_out(engine, spec, top, kl, top1, generations, speed).model_copy(
        update={"checks": checks, "load": load, "task": answered}
    )
    if spec.out_path:
        _write(found, Path(spec.out_path))
    return found


def start_engine(spec: MeasureSpec) -> Engine:
    """vLLM on the checkpoint, with the probing loader and the worker's extension.

    Raises:
        RunFailed: it did not start; the message has its own last words.
    """
    started = time.monotonic()
    on_cpu = _on_cpu()
    for name, value in measuring_environment(spec.serving, spec.checkpoint, on_cpu=on_cpu).items():
        os.environ.setdefault(name, value)
    from vllm import LLM

    from tuners.engine.probe import EXTENSION, LOAD_FORMAT

    arguments = engine_arguments(spec.serving, on_cpu=on_cpu)
    if on_cpu and spec.serving.dtype == "auto":
        arguments["dtype"] = cpu_dtype(_cpu_flags())[0]
    try:
        llm = LLM(
            spec.checkpoint,
            load_format=LOAD_FORMAT,
            worker_extension_cls=EXTENSION,
            enable_prefix_caching=False,  # repeated prompts would be answered from the cache
            disable_log_stats=False,  # carries the time of the first token
            max_logprobs=spec.top_k,
            seed=spec.seed,
            **arguments,
        )
    except AdvisorError:
        raise
    except Exception as exc:
        raise RunFailed(
            "vLLM did not start on this checkpoint",
            where=spec.checkpoint,
            got=f"{type(exc).__name__}: {_last_line(exc)}",
            next_step="the log has the engine's own words; with too little memory lower "
            "--kv-cache-memory-bytes, --max-model-len or --max-num-seqs",
        ) from exc
    vocab_size = int(llm.llm_engine.vllm_config.model_config.get_vocab_size())
    return Engine(llm, time.monotonic() - started, vocab_size)


def _on_cpu() -> bool:
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def _cpu_flags() -> list[str]:
    """CPU flags of Linux; none elsewhere, which means float32."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])


def _last_line(exc: BaseException) -> str:
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def _windows(spec: MeasureSpec, tokenizer: Any) -> list[list[int]]:
    if spec.evaluate_ids:
        return [list(w) for w in spec.evaluate_ids]
    return cut_windows(
        spec.evaluate_texts,
        lambda text: tokenizer(text)["input_ids"],
        eval_tokens=spec.eval_tokens,
        seq_len=spec.seq_len,
    )


def _evaluate(engine: Engine, spec: MeasureSpec, windows: list[list[int]], emit: Emit) -> TopK:
    from vllm import SamplingParams

    longest = max(map(len, windows))
    if longest >= engine.max_model_len:
        raise UsageError(
            "evaluation windows are longer than the engine's context",
            got=f"{longest} tokens",
            allowed=f"at most {engine.max_model_len - 1}",
            next_step="lower seq_len, or raise --max-model-len",
        )
    top_k = min(spec.top_k, engine.vocab_size)
    params = SamplingParams(
        max_tokens=1, temperature=0, prompt_logprobs=top_k, flat_logprobs=True, detokenize=False
    )
    predicted = sum(len(w) - 1 for w in windows)
    tick = Ticker(emit, STAGE, predicted)
    outputs, done = [], 0
    # a few windows at a time: progress is seen, and their logits never pile up
    for start in range(0, len(windows), spec.serving.concurrency):
        batch = windows[start : start + spec.serving.concurrency]
        outputs += engine.llm.generate([{"prompt_token_ids": w} for w in batch], params, use_tqdm=False)
        done += sum(len(w) - 1 for w in batch)
        tick(done, "evaluation tokens")
    top = from_prompt_logprobs(outputs, top_k, windows_key(windows))
    if spec.evaluate_counted:
        top = top.only([counted for row in spec.evaluate_counted for counted in row[:-1]])
    if not math.isfinite(top.perplexity):
        raise RunFailed(
            "the engine's probabilities are not numbers: the checkpoint or a kernel is broken",
            where=spec.checkpoint,
            got=f"perplexity {top.perplexity} over {predicted} tokens",
            next_step="validate the original first; if it is fine, quantize again with another method",
        )
    return top


def _against_reference(spec: MeasureSpec, top: TopK) -> tuple[float | None, float | None]:
    if spec.reference_path is None:
        return None, None
    path = Path(spec.reference_path)
    if spec.is_reference:
        top.save(path)
        return None, None
    reference = TopK.load(path)
    return truncated_kl(reference, top), top1_agreement(reference, top)


def _generate(engine: Engine, spec: MeasureSpec, tokenizer: Any, emit: Emit) -> tuple[str, ...]:
    """Greedy answers, through the chat template where there is one."""
    from vllm import SamplingParams

    if not spec.prompts:
        return ()
    emit(Progress(stage=STAGE, done=0, text=f"generating {len(spec.prompts)} answers"))
    params = SamplingParams(max_tokens=spec.generate_tokens, temperature=0, seed=spec.seed)
    prompts = [{"prompt_token_ids": prompt_ids(tokenizer, p)} for p in spec.prompts]
    outputs = engine.llm.generate(prompts, params, use_tqdm=False)
    return tuple(o.outputs[0].text for o in outputs)


def _read_out(
    engine: Engine,
    spec: MeasureSpec,
    top: TopK,
    kl: float | None,
    top1: float | None,
    generations: tuple[str, ...],
    speed: Speed,
) -> EngineMeasurement:
    import vllm

    ask = engine.llm.collective_rpc
    modules = {name: found for rank in ask("advisor_modules") for name, found in rank.items()}
    rank_bytes: list[dict[str, int]] = ask("advisor_bytes")
    memory: list[dict[str, int]] = ask("advisor_memory")
    model_config = engine.llm.llm_engine.vllm_config.model_config
    heaviest = max(rank_bytes, key=lambda r: sum(r.values()))
    return EngineMeasurement(
        checkpoint=spec.checkpoint,
        engine_version=str(vllm.__version__),
        dtype=str(model_config.dtype).removeprefix("torch."),
        load_seconds=engine.load_seconds,
        kernels={name: kernel for name, (kernel, _) in modules.items()},
        schemes={name: scheme for name, (_, scheme) in modules.items()},
        module_bytes=heaviest,
        weights_bytes=sum(heaviest.values()),
        kv_cache_bytes=min(m["kv_cache_bytes"] for m in memory),
        kv_tokens=int(engine.cache.kv_cache_size_tokens or 0),
        max_model_len=engine.max_model_len,
        max_concurrency=float(engine.cache.kv_cache_max_concurrency or 0),
        peak_rss_bytes=max([peak_rss_bytes(), *(m["peak_rss_bytes"] for m in memory)]),
        perplexity=top.perplexity,
        eval_tokens=len(top.target_logprobs),
        kl_to_reference=kl,
        top1_agreement=top1,
        generations=generations,
        prompts=spec.prompts if generations else (),
        prefill_tokens_s=speed.prefill_tokens_s,
        decode_tokens_s=speed.decode_tokens_s,
        ttft_ms=speed.ttft_ms,
        itl_ms=speed.itl_ms,
        log_path=spec.log_path,
    )


def _write(found: EngineMeasurement, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(found.model_dump_json(indent=1), encoding="utf-8")
    os.replace(partial, path)
