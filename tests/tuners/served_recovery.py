"""Child process: a checkpoint, quantized and then recovered, in torch; the latter in vLLM too.

`python -m tests.tuners.served_recovery SPEC.json HELD_OUT.json` prints KL on the held-out texts: to the
original in torch `before` and `after` recovery, in the `engine` after it; `apart` is from torch to engine.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from statistics import median

os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1",
               "TORCHDYNAMO_DISABLE": "1", "OMP_WAIT_POLICY": "PASSIVE"}  # fmt: skip

import torch
from torch import Tensor

from tuners.evaluate import compare
from tuners.model.host import ModelHost
from tuners.quantize.job import run
from tuners.quantize.schema import QuantizeSpec
from tuners.quantize.served import install_checkpoint

SEQ_LEN = 32


def serve(checkpoint: Path, ids: Tensor, vocab: int) -> Tensor:
    """vLLM's log-probabilities of every next token but the last."""
    from vllm import LLM, SamplingParams

    from tuners.engine.arguments import int4_environment

    os.environ.update(int4_environment(checkpoint))
    llm = LLM(
        str(checkpoint), enforce_eager=True, dtype="bfloat16", max_model_len=2 * SEQ_LEN, max_num_seqs=4,
        kv_cache_memory_bytes=2**24, max_logprobs=vocab,
    )  # fmt: skip
    params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=vocab, detokenize=False)
    outs = llm.generate([{"prompt_token_ids": row.tolist()} for row in ids], params, use_tqdm=False)
    rows = [[[at[i].logprob for i in range(vocab)] for at in out.prompt_logprobs[1:]] for out in outs]
    return torch.tensor(rows)


def kl(found: Tensor, reference: Tensor, ids: Tensor) -> float:
    """Of the median sequence: one rare word can hold most of a mean. The last position is left
    out: nobody knows its next token."""
    return median(loss.kl for loss in compare(found, reference, ids))


def main(spec: QuantizeSpec, texts: list[str]) -> None:
    """The product's job twice: the second takes the first one's checkpoint and recovers it."""
    host = ModelHost.load(spec.model_path, spec.units)
    ids = host.tokenise(texts, seq_len=SEQ_LEN)
    original = torch.log_softmax(host.logits(ids), -1)
    answers = {}
    for name, steps in (("before", 0), ("after", spec.recover_steps)):
        made = run(spec.model_copy(update={"recover_steps": steps, "overwrite": True}), lambda _event: None)
        install_checkpoint(host, Path(spec.out_dir), spec.plan)
        imitation = torch.log_softmax(host.logits(ids), -1)
        answers[name] = kl(imitation, original, ids)
    assert made.recovery is not None
    assert made.recovery.kept
    found = serve(Path(spec.out_dir), ids, original.shape[-1])
    found = torch.cat([found, found[:, -1:]], 1)  # a last position, which does not count
    answers |= {"engine": kl(found, original, ids), "apart": kl(found, imitation, ids)}
    print("FOUND " + json.dumps(answers), flush=True)


if __name__ == "__main__":
    main(
        QuantizeSpec.model_validate_json(Path(sys.argv[1]).read_text()),
        json.loads(Path(sys.argv[2]).read_text()),
    )
