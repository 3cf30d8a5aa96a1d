"""Train a Llama-shaped model of 8 M parameters from scratch on real text: natively high precision.

    python benchmarks/train_small.py --data DIR [--seconds 900] [--burst 300]

The demo model's weights come out of a 4-bit file; claims about quantization need a second model whose
weights never saw a grid. This one is trained here in under 20 minutes on two cores: Python's own library
and documentation, the readmes of the installed packages, and from DIR `wikitext2_valid.txt` and
`gsm8k_train_400.jsonl`, whose last fifth is left out (`benchmarks/texts.py` evaluates on it). `--seconds`
counts processor time over two cores, so that other load changes nothing; a call ends after `--burst` seconds
of wall time and the next one goes on. The result is a folder of the cache, printed at the end.
"""

from __future__ import annotations

import argparse
import json
import math
import sysconfig
import time
from pathlib import Path
from typing import Any

import torch
from platformdirs import user_cache_path
from texts import gsm8k, split_at, wikitext

VOCABULARY = 8192
SEQ_LEN, BATCH = 128, 8
"""Small steps: at a few million tokens their number matters more than their smoothness."""
CORES = 2
"""What `--seconds` are seconds of, however many threads run."""
PEAK_LR, WARMUP_S = 3e-3, 20.0
CODE_BYTES, READMES_BYTES, WIKI_REPEATS = 6_000_000, 3_000_000, 4


def folder() -> Path:
    """Where the model is kept."""
    return user_cache_path("advisor") / "benchmarks" / "small-llama-8m"


def corpus(data: Path) -> list[str]:
    """Training texts; the evaluation parts of WikiText-2 and GSM8K are not in it."""
    wiki = split_at(wikitext(data), "train")
    maths = split_at(gsm8k(data), "train")
    library = Path(sysconfig.get_path("stdlib"))
    code = _limited(sorted(library.glob("*.py")) + sorted(library.glob("[a-z]*/*.py")), CODE_BYTES)
    packages = Path(sysconfig.get_path("purelib"))
    prose = _limited(sorted(packages.glob("*.dist-info/METADATA")), READMES_BYTES)
    return [*wiki * WIKI_REPEATS, *maths * WIKI_REPEATS, *code, *prose]


def _limited(files: list[Path], limit: int) -> list[str]:
    out: list[str] = []
    used = 0
    for file in files:
        text = file.read_text(encoding="utf-8", errors="ignore")
        if used + len(text) > limit:
            break
        out.append(text)
        used += len(text)
    return out


def tokenizer_of(texts: list[str], path: Path) -> Any:
    """A byte-level BPE trained on the texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|endoftext|>")
    fast.save_pretrained(path)
    return fast


def prepare(data: Path, path: Path) -> torch.Tensor:
    """Token ids of the corpus (one long row), made once."""
    ids_path = path / "ids.pt"
    if ids_path.exists():
        return torch.load(ids_path)
    path.mkdir(parents=True, exist_ok=True)
    texts = corpus(data)
    tokenizer = tokenizer_of(list(dict.fromkeys(texts)), path)
    ids: list[int] = []
    for text in texts:
        ids.extend(tokenizer(text)["input_ids"])
        ids.append(tokenizer.eos_token_id)
    out = torch.tensor(ids, dtype=torch.int32)
    torch.save(out, ids_path)
    return out


def new_model() -> Any:
    """Eight blocks of width 256, grouped-query attention, tied embeddings."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=256,
            intermediate_size=768,
            num_hidden_layers=8,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=VOCABULARY,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def rate(elapsed: float, total: float) -> float:
    """Linear warm-up, then a cosine to a tenth, in seconds trained."""
    if elapsed < WARMUP_S:
        return PEAK_LR * (elapsed + 1) / (WARMUP_S + 1)
    place = min(1.0, (elapsed - WARMUP_S) / max(total - WARMUP_S, 1.0))
    return PEAK_LR * (0.1 + 0.45 * (1 + math.cos(math.pi * place)))


def train(data: Path, seconds: float, burst: float) -> None:
    """Train for `burst` seconds of wall time, or until `seconds` of all cores are spent, and save."""
    path = folder()
    ids = prepare(data, path)
    model = new_model()
    decay = [p for p in model.parameters() if p.dim() >= 2]
    rest = [p for p in model.parameters() if p.dim() < 2]
    optimiser = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
        lr=PEAK_LR,
        betas=(0.9, 0.95),
        fused=True,
    )
    state_path = path / "training.pt"
    elapsed, step = 0.0, 0
    if state_path.exists():
        state = torch.load(state_path)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        elapsed, step = state["elapsed"], state["step"]
    generator = torch.Generator().manual_seed(1000 + step)
    mark, end = time.process_time(), time.monotonic() + burst
    while elapsed < seconds and time.monotonic() < end:
        for group in optimiser.param_groups:
            group["lr"] = rate(elapsed, seconds)
        starts = torch.randint(0, len(ids) - SEQ_LEN - 1, (BATCH,), generator=generator)
        batch = torch.stack([ids[s : s + SEQ_LEN] for s in starts.tolist()]).long()
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        now = time.process_time()
        elapsed, mark, step = elapsed + (now - mark) / CORES, now, step + 1
        if step % 50 == 0:
            print(f"step {step}, {elapsed:.0f} of {seconds:.0f} s, loss {loss.item():.3f}", flush=True)
    state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "elapsed": elapsed}
    torch.save({**state, "step": step}, state_path)
    model.to(torch.bfloat16).save_pretrained(path)
    about = {"tokens_seen": step * BATCH * SEQ_LEN, "seconds": elapsed, "finished": elapsed >= seconds}
    (path / "training.json").write_text(json.dumps(about, indent=1))
    print(f"{path}: {about}")


def main() -> None:
    """Parse and train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=900.0)
    parser.add_argument("--burst", type=float, default=300.0)
    options = parser.parse_args()
    train(options.data, options.seconds, options.burst)


if __name__ == "__main__":
    main()
