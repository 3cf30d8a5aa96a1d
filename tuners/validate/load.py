"""TTFT, ITL and throughput with several requests at once, by vLLM's own serving benchmark.

`vllm bench serve` (vllm/benchmarks/serve.py) sends the requests, holds the concurrency and computes the
figures. It speaks to the engine of this process instead of a server: one start of the engine less for each
checkpoint, and no HTTP in the times.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import random
import time
from typing import Any

from tuners.validate.schema import LoadPoint

CONCURRENCIES = (1, 4, 16)
PROMPT_TOKENS, NEW_TOKENS = 32, 8
"""Short on purpose: sixteen requests take seconds on two cores, and nothing is extrapolated from them."""

ROUNDS, LEAST_REQUESTS = 2, 4
"""Requests of a point over its concurrency: more than one round, so that new ones meet running ones."""

BACKEND = "advisor-in-process"
_NO_SERVER = "http://127.0.0.1:9"
"""Where the benchmark would look for a server's counters: there is none, and it goes on without them."""


def measure_load(
    llm: Any, *, vocab_size: int, max_num_seqs: int, kv_tokens: int, max_model_len: int, seed: int = 0
) -> tuple[LoadPoint, ...]:
    """A point for each concurrency that the engine can run at once; larger ones are left out.

    TTFT counts from when the request was sent, so it includes the wait for the others' prompts.
    """
    per_request = PROMPT_TOKENS + NEW_TOKENS
    if per_request >= max_model_len:
        return ()
    fits = [n for n in CONCURRENCIES if n <= max_num_seqs and n * per_request <= kv_tokens]
    return tuple(_point(llm, n, vocab_size, seed) for n in fits)


def _point(llm: Any, concurrency: int, vocab_size: int, seed: int) -> LoadPoint:
    from vllm.benchmarks.datasets import SampleRequest
    from vllm.benchmarks.lib.endpoint_request_func import ASYNC_REQUEST_FUNCS
    from vllm.benchmarks.serve import TaskType, benchmark

    rng = random.Random(seed)
    requests = [
        SampleRequest(
            prompt=[rng.randrange(vocab_size) for _ in range(PROMPT_TOKENS)], prompt_len=PROMPT_TOKENS,
            expected_output_len=NEW_TOKENS, request_id=f"load-{concurrency}-{i}",
        )
        for i in range(max(LEAST_REQUESTS, ROUNDS * concurrency))
    ]  # fmt: skip
    ASYNC_REQUEST_FUNCS[BACKEND] = InProcess(llm.llm_engine)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # its table: the figures are in the report
            found = asyncio.run(
                benchmark(
                    task_type=TaskType.GENERATION, endpoint_type=BACKEND, api_url=_NO_SERVER,
                    base_url=_NO_SERVER, model_id="", model_name="", input_requests=requests,
                    tokenizer=llm.get_tokenizer(),  # without one there are no figures of tokens
                    logprobs=None, request_rate=float("inf"), burstiness=1.0, disable_tqdm=True,
                    num_warmups=0, profile=False, selected_percentile_metrics=["ttft", "itl"],
                    selected_percentiles=[99.0], ignore_eos=True, goodput_config_dict={},
                    max_concurrency=concurrency, lora_modules=None, extra_headers=None, extra_body=None,
                    ready_check_timeout_sec=0,
                )
            )  # fmt: skip
    finally:
        del ASYNC_REQUEST_FUNCS[BACKEND]
    return LoadPoint(
        concurrency=concurrency,
        requests=int(found["completed"]),
        failed=int(found["failed"]),
        ttft_ms=float(found["median_ttft_ms"]),
        itl_ms=float(found["median_itl_ms"]),
        ttft_p99_ms=float(found["p99_ttft_ms"]),
        itl_p99_ms=float(found["p99_itl_ms"]),
        output_tokens_s=float(found["output_throughput"]),
    )


class InProcess:
    """A request function of vLLM's benchmark (`RequestFunc`) that steps an engine of this process."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.waiting: dict[str, asyncio.Queue[tuple[float, int, bool]]] = {}
        self.stepping: asyncio.Task[None] | None = None

    async def __call__(self, request_func_input: Any, session: Any, pbar: Any = None) -> Any:
        """Send one request and note when its tokens came."""
        from vllm import SamplingParams
        from vllm.benchmarks.lib.endpoint_request_func import RequestFuncOutput
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            max_tokens=request_func_input.output_len, temperature=0, ignore_eos=True, detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )  # fmt: skip
        name = request_func_input.request_id
        arrived: asyncio.Queue[tuple[float, int, bool]] = asyncio.Queue()
        self.waiting[name] = arrived
        out = RequestFuncOutput(prompt_len=request_func_input.prompt_len, start_time=time.perf_counter())
        self.engine.add_request(name, {"prompt_token_ids": list(request_func_input.prompt)}, params)
        if self.stepping is None or self.stepping.done():
            self.stepping = asyncio.create_task(self._step())
        last, ended = out.start_time, False
        while not ended:
            at, tokens, ended = await arrived.get()
            if tokens and not out.output_tokens:
                out.ttft = at - out.start_time
            elif tokens:
                out.itl.append(at - last)
            out.output_tokens += tokens
            last = at
        out.latency, out.success = last - out.start_time, out.output_tokens > 0
        return out

    async def _step(self) -> None:
        """Run the engine as long as it has requests; between steps those that are due are let in."""
        while self.engine.has_unfinished_requests():
            for output in self.engine.step():
                note = (time.perf_counter(), len(output.outputs[0].token_ids), bool(output.finished))
                self.waiting[output.request_id].put_nowait(note)
                if output.finished:
                    del self.waiting[output.request_id]
            await asyncio.sleep(0)
            await asyncio.sleep(0)  # the benchmark's next request is a task behind the one that ended
