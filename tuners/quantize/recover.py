"""Quantization-aware recovery: a short distillation of the original model into its written checkpoint.

Contract (for the agent loop and `advisor recover`): `recover_checkpoint(folder, spec, emit)` trains for
`spec.steps` steps on calibration text and overwrites the tensors of the unpublished checkpoint in `folder`:
scales, norms and the codes of weights of at most 4 bits. Names, shapes, types, bytes and config.json stay as
they are, so the engine loads it as before. A part of the calibration text is kept out of training; unless KL
falls on it the files are not touched, and `RecoverResult.kept` says so. Selection and evaluation text is
refused by its fingerprint.

Through the pipeline: set `RunInputs.recover_steps` and run the stage `quantize`; a finished checkpoint of the
same plan and methods is taken as it is and only recovered.

The loss is KL(original || quantized) of the next token. Scales and norms move end to end as in EfficientQAT's
second phase (arXiv 2407.11062), by Adam; codes by the sign of their momentum (Lion, arXiv 2302.06675), as
AutoRound moves its rounding offsets.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from profiles.errors import EnvironmentProblem, UsageError
from profiles.formats import get_format
from profiles.models.headers import read_tensors
from profiles.provenance import Contract
from profiles.tasks.split import fingerprint
from tuners.events import Emit, Message, Ticker
from tuners.model.host import ModelHost
from tuners.model.written import PREFIX, written
from tuners.nats import nats
from tuners.plan import PrecisionPlan, Unit
from tuners.quantize.schema import RecoverResult
from tuners.quantize.served import linears
from tuners.quantize.student import Student, make_student

STAGE = "quantize"
TOP = 256
"""Next tokens whose probability under the original is kept; the rest counts as one. On the demo model they
hold all but 1 % of the probability, at 1.5 KB a token instead of 200."""

GROWTH_RATE, LATENT_RATE = 1e-3, 5e-3
"""Step sizes: of the logarithm of scales and norms, and of codes."""

WARM_UP = 0.1
"""Share of the steps in which the step size rises; then it falls along a cosine to zero."""

CHECKS = 5
"""How often KL on the text that is kept out is measured; the best state is what is written."""

CHECK_SHARE = 0.15
"""Of the text, and of `RecoverSpec.least`: on two sequences a few rare tokens decided whether to keep the
result (a tiny model: "worse" there, a third of the KL on most other texts)."""


class RecoverSpec(Contract):
    """What is recovered, on which text, for how long. `texts` is the task's search split, `held_out` the
    fingerprints of its selection and evaluation texts; `sequences_per_step` sequences of `seq_len` tokens
    make one step. When the texts make fewer than `least` sequences to train on, or too few to check on, the
    original model itself writes the missing ones, beginning as the texts of the same part do."""

    model_path: str
    units: tuple[Unit, ...]
    plan: PrecisionPlan
    texts: tuple[str, ...]
    held_out: tuple[str, ...] = ()
    steps: int = Field(default=200, ge=1)
    seq_len: int = Field(default=128, gt=PREFIX)
    sequences_per_step: int = Field(default=4, ge=1)
    least: int = Field(default=64, ge=0)
    rounding: bool = True
    seed: int = 0
    trust_remote_code: bool = False


def refuse_held_out(texts: tuple[str, ...], held_out: tuple[str, ...]) -> None:
    """Refuse to train on text that chooses or reports.

    Raises:
        UsageError: a text is one of them.
    """
    known = frozenset(held_out)
    caught = [t for t in texts if fingerprint(t) in known]
    if caught:
        raise UsageError(
            "recovery would train on text that evaluates the model",
            got=f"{len(caught)} of {len(texts)} texts, e.g. {caught[0][:60]!r}",
            allowed="calibration text that is in neither the selection nor the evaluation split",
            next_step="remove the repeated texts from the task's search split",
        )


def recover_checkpoint(folder: Path, spec: RecoverSpec, emit: Emit) -> RecoverResult:
    """Train the checkpoint in `folder` and write it back when it became better; see the module's contract.

    Raises:
        UsageError: evaluation text among the texts, too little text, or a format that cannot be trained.
        EnvironmentProblem: not enough memory.
    """
    start = time.monotonic()
    refuse_held_out(spec.texts, spec.held_out)
    torch.manual_seed(spec.seed)
    _check_memory(spec)
    host = ModelHost.load(spec.model_path, spec.units, trust_remote_code=spec.trust_remote_code)
    if not dict(linears(host, spec.plan)):  # formats that cannot be trained are told before any work
        raise UsageError("nothing of the plan is quantized: there is nothing to recover", got=spec.plan.label)
    ids, check = _sequences(host, spec)
    ids = _filled(host, ids, spec.least)
    check = _filled(host, check, round(spec.least * CHECK_SHARE))
    wanted = _Reference(host, torch.cat([ids, check]))
    student = make_student(host, folder, spec.plan)
    emit(
        Message(
            stage=STAGE,
            text=f"recovery: {spec.steps} steps of {spec.sequences_per_step} x {spec.seq_len} tokens, "
            f"{ids.numel()} tokens to train on, {check.numel()} to check",
        )
    )
    trained = _Training(student, wanted, spec, len(ids))
    kept, before, after = trained.run(emit)
    if kept:
        write_changed(folder, student)
    text = f"recovery: KL on the checked text {nats(before)} -> {nats(after)}"
    emit(Message(stage=STAGE, text=text if kept else f"{text}: the checkpoint stays as it was"))
    return RecoverResult(
        steps=spec.steps,
        seconds=time.monotonic() - start,
        train_tokens=ids.numel(),
        check_tokens=check.numel(),
        kl_before=before,
        kl_after=after,
        kept=kept,
        flipped=student.flipped() if kept else 0.0,
    )


RESERVE_BYTES = 2 * 1024**3
"""Above the weights: libraries, activations and logits of one step, what the original foresaw."""


def _check_memory(spec: RecoverSpec) -> None:
    """Float32 weights of the model, and of every weight that learns its rounding the latent value, its
    gradient, its momentum and the product's copy: 12 bytes."""
    import psutil  # type: ignore[import-untyped]

    if torch.cuda.is_available():
        return
    total = sum(t.numel for t in read_tensors(Path(spec.model_path)))
    learned = sum(u.numel for u in spec.units if get_format(spec.plan.formats[u.name]).weight_bits <= 4)
    needed = 4 * total + 12 * learned + RESERVE_BYTES
    available = psutil.virtual_memory().available
    if needed > available:
        raise EnvironmentProblem(
            "not enough memory to recover this model",
            got=f"{available} bytes available",
            allowed=f"{needed} bytes: 4 x {total} weights, 12 x {learned} that learn, {RESERVE_BYTES} beside",
            next_step="close other programs, recover on a larger machine, or leave it out (--recover 0)",
        )


def _sequences(host: ModelHost, spec: RecoverSpec) -> tuple[Tensor, Tensor]:
    """(training, check) sequences of the calibration text, the check spread over all of it."""
    ids = host.tokenise(spec.texts, seq_len=spec.seq_len)
    count = max(1, round(len(ids) * CHECK_SHARE))
    if len(ids) < 2:
        raise UsageError(
            "too little text to recover on",
            got=f"{ids.numel()} tokens",
            allowed=f"at least {2 * spec.seq_len}, better ten thousand",
            next_step="choose a task with more text (advisor tasks), or give your own",
        )
    chosen = torch.zeros(len(ids), dtype=torch.bool)
    chosen[(torch.arange(count) * len(ids)) // count] = True
    return ids[~chosen], ids[chosen]


def _filled(host: ModelHost, ids: Tensor, least: int) -> Tensor:
    """These sequences, and as many written ones as are missing to `least`."""
    return ids if len(ids) >= least else torch.cat([ids, written(host.model, ids, least - len(ids))])


class _Reference:
    """The original's most probable next tokens and their log-probabilities, for every sequence."""

    def __init__(self, host: ModelHost, ids: Tensor, batch: int = 4) -> None:
        self.ids = ids
        tokens, logs = [], []
        for part in ids.split(batch):
            logp = torch.log_softmax(host.logits(part), -1)
            top = logp.topk(min(TOP, logp.shape[-1]), -1)
            tokens.append(top.indices.int().cpu())
            logs.append(top.values.cpu())
        self.tokens, self.logs = torch.cat(tokens), torch.cat(logs)

    def kl(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Mean KL of these sequences' tokens, over the kept next tokens and the rest as one."""
        kept = self.tokens[rows].long().to(logits.device)
        before = self.logs[rows].to(logits.device)
        logits = logits.float()
        after = logits.gather(-1, kept) - logits.logsumexp(-1, keepdim=True)
        rest_before, rest_after = _rest(before), _rest(after)
        kl = (before.exp() * (before - after)).sum(-1)
        return (kl + rest_before.exp() * (rest_before - rest_after)).mean()


def _rest(logs: Tensor) -> Tensor:
    """Logarithm of the probability that is not among the kept tokens."""
    return (1 - logs.exp().sum(-1)).clamp_min(1e-6).log()


class _Training:
    """The loop: batches, step sizes, checks, and the best state."""

    def __init__(self, student: Student, wanted: _Reference, spec: RecoverSpec, train: int) -> None:
        self.student, self.wanted, self.spec = student, wanted, spec
        self.train = torch.arange(train)
        self.check = torch.arange(train, len(wanted.ids))
        self.growths = list(student.growths())
        self.latents = list(student.latents()) if spec.rounding else []
        self.momenta = [torch.zeros_like(x, dtype=torch.bfloat16) for x in self.latents]
        for tensor in (*self.growths, *self.latents):
            tensor.requires_grad_(True)
        self.half = student.host.device.type == "cpu" and half_is_faster()
        self.adam = torch.optim.Adam(self.growths, lr=GROWTH_RATE, betas=(0.9, 0.99))

    def run(self, emit: Emit) -> tuple[bool, float, float]:
        """(whether it became better, KL before, KL after) on the text that is kept out."""
        before = best = self.checked()
        state: Any = None
        tick = Ticker(emit, STAGE, self.spec.steps)
        every = max(1, self.spec.steps // CHECKS)
        for step, rows in zip(range(1, self.spec.steps + 1), self.batches(), strict=False):
            loss = self.step(rows, self.rate(step))
            text = f"recovery, step {step} of {self.spec.steps}, KL {nats(loss)}"
            if step % every == 0 or step == self.spec.steps:
                found = self.checked()
                text += f", checked {nats(found)}"
                if found < best:
                    best, state = found, self.state()
            tick(step, text)
        if state is not None:
            self.restore(state)
        return state is not None, before, best

    def step(self, rows: Tensor, share: float) -> float:
        """One step on these sequences at a share of the full step size; the loss before it."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            logits = self.student.logits(self.wanted.ids[rows])
        loss = self.wanted.kl(logits, rows)
        loss.backward()
        for group in self.adam.param_groups:
            group["lr"] = GROWTH_RATE * share
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        for latent, momentum in zip(self.latents, self.momenta, strict=True):
            grad = latent.grad
            assert grad is not None
            latent.grad = None
            latent.data.sub_((momentum * 0.9 + grad * 0.1).sign(), alpha=LATENT_RATE * share)
            momentum.mul_(0.99).add_(grad, alpha=0.01)
        return float(loss.detach())

    def rate(self, step: int) -> float:
        """Linear rise, then a cosine to zero."""
        done = step / self.spec.steps
        if done < WARM_UP:
            return done / WARM_UP
        return 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))

    def batches(self) -> Iterator[Tensor]:
        """Sequences in a new random order every epoch."""
        rng = random.Random(self.spec.seed)
        order: list[int] = []
        while True:
            while len(order) < self.spec.sequences_per_step:
                epoch = self.train.tolist()
                rng.shuffle(epoch)
                order += epoch
            yield torch.tensor(order[: self.spec.sequences_per_step])
            order = order[self.spec.sequences_per_step :]

    @torch.no_grad()
    def checked(self) -> float:
        """KL on the sequences that are kept out of training."""
        parts = self.check.split(self.spec.sequences_per_step)
        kl = [float(self.wanted.kl(self.student.logits(self.wanted.ids[p]), p)) * len(p) for p in parts]
        return sum(kl) / len(self.check)

    def state(self) -> list[Tensor]:
        """Copies of all that is trained; latent weights in half precision."""
        return [
            *(g.detach().clone() for g in self.growths),
            *(x.detach().half() for x in self.latents),
        ]

    def restore(self, state: list[Tensor]) -> None:
        """Put a state back."""
        with torch.no_grad():
            for tensor, value in zip((*self.growths, *self.latents), state, strict=True):
                tensor.copy_(value)


def half_is_faster() -> bool:
    """Whether this CPU multiplies in bfloat16 faster than in float32 (it has AMX or AVX512-BF16)."""
    from tuners.quantize.compute import matmul_seconds

    return matmul_seconds(torch.bfloat16) < matmul_seconds(torch.float32)


def write_changed(folder: Path, student: Student) -> None:
    """Write the trained tensors into the checkpoint's files; all others and their order stay."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    changed = student.changed()
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            tensors = {n: changed.get(n, file.get_tensor(n)).cpu() for n in file.keys()}  # noqa: SIM118
        partial = path.with_suffix(".partial")
        save_file(tensors, partial, metadata)
        partial.replace(path)
