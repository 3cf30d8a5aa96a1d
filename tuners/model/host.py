"""A model in memory whose decoder blocks can be entered half way and whose linears can be swapped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from profiles.errors import EnvironmentProblem, UsageError
from tuners.plan import Unit


@dataclass(frozen=True)
class BlockInputs:
    """Hidden states entering every block for one batch: `hidden[b]` is (batch, tokens, hidden) fp32,
    `hidden[num_blocks]` leaves the last one."""

    hidden: tuple[Tensor, ...]


class ModelHost:
    """A causal language model in the compute dtype that is fastest here, weights as loaded."""

    def __init__(self, model: nn.Module, tokenizer: Any, units: Sequence[Unit]) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.units = {u.name: u for u in units}
        self.blocks = _find_blocks(model, units)
        self.original = {m.name: self.linear(m.name).weight.data for u in units for m in u.linears}

    @classmethod
    def load(cls, path: str | Path, units: Sequence[Unit], *, trust_remote_code: bool = False) -> ModelHost:
        """Load in float32 on the CPU (the faster type without AVX512-BF16/AMX), bfloat16 on a GPU.

        Raises:
            EnvironmentProblem: not enough memory. UsageError: transformers cannot load it.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        cuda = torch.cuda.is_available()
        try:
            model = AutoModelForCausalLM.from_pretrained(
                path, dtype=torch.bfloat16 if cuda else torch.float32, trust_remote_code=trust_remote_code
            )
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
        except MemoryError as exc:
            raise EnvironmentProblem("not enough memory to load the model", where=str(path)) from exc
        except (OSError, ValueError, KeyError) as exc:
            raise UsageError(
                "transformers cannot load this model",
                where=str(path),
                got=str(exc).splitlines()[0],
                next_step="advisor inspect shows what the files contain",
            ) from exc
        if cuda:
            model = model.to("cuda")
        model.eval()
        model.requires_grad_(False)
        return cls(model, tokenizer, units)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def linear(self, name: str) -> nn.Linear:
        """The linear module of that checkpoint name."""
        module = self.model.get_submodule(name)
        if not isinstance(module, nn.Linear):
            raise UsageError(
                "a unit's module is not a linear layer in transformers",
                where=name,
                got=type(module).__name__,
                next_step="this architecture cannot be searched yet: use a uniform plan",
            )
        return module

    def block_of(self, unit: str) -> int:
        """Decoder block of a unit; the block count for units after the last block."""
        block = self.units[unit].block
        return len(self.blocks) if block is None else block

    @torch.no_grad()
    def logits(self, ids: Tensor) -> Tensor:
        """Logits (batch, tokens, vocab) in float32 of a full forward pass."""
        out = self.model(input_ids=ids.to(self.device), use_cache=False).logits
        return out.float()

    @torch.no_grad()
    def hidden_only(self, ids: Tensor) -> None:
        """Run the decoder without the head: for hooks that only watch the blocks."""
        base = getattr(self.model, "base_model", None) or self.model
        base(input_ids=ids.to(self.device), use_cache=False)

    @torch.no_grad()
    def capture(self, ids: Tensor) -> tuple[BlockInputs, Tensor]:
        """Block inputs and logits of one full forward pass."""
        hidden: list[Tensor] = []
        handles = [
            block.register_forward_pre_hook(
                lambda _m, args, kwargs: hidden.append(_hidden(args, kwargs).detach().clone()),
                with_kwargs=True,
            )
            for block in self.blocks
        ]
        last: list[Tensor] = []
        handles.append(
            self.blocks[-1].register_forward_hook(
                lambda _m, _a, out: last.append(_first(out).detach().clone())
            )
        )
        try:
            logits = self.logits(ids)
        finally:
            for handle in handles:
                handle.remove()
        return BlockInputs(hidden=(*hidden, *last)), logits

    @torch.no_grad()
    def logits_from(self, start: int, ids: Tensor, inputs: BlockInputs) -> Tensor:
        """Logits when blocks before `start` are not run: their cached output is used instead.

        Exact, not approximate: the model's own forward runs, with the skipped blocks handing on the
        cached hidden state, so norms, masks, soft-capping and the head are the model's.
        """
        with self._skipping(start, inputs):
            return self.logits(ids)

    @contextmanager
    def _skipping(self, start: int, inputs: BlockInputs) -> Iterator[None]:
        cached = inputs.hidden[start]
        for block in self.blocks[:start]:
            block.__dict__["forward"] = _constant(cached, tuple_output=_returns_tuple(block))
        try:
            yield
        finally:
            for block in self.blocks[:start]:
                block.__dict__.pop("forward", None)

    def tokenise(self, texts: Sequence[str], *, seq_len: int, max_sequences: int | None = None) -> Tensor:
        """Texts joined by the end-of-text token and cut into (sequences, seq_len) ids.

        Raises:
            UsageError: fewer tokens than one sequence.
        """
        eos = self.tokenizer.eos_token_id
        ids: list[int] = []
        for text in texts:
            ids.extend(self.tokenizer(text, add_special_tokens=False)["input_ids"])
            if eos is not None:
                ids.append(int(eos))
            if max_sequences is not None and len(ids) >= max_sequences * seq_len:
                break
        count = len(ids) // seq_len
        if max_sequences is not None:
            count = min(count, max_sequences)
        if count == 0:
            raise UsageError(
                "too little text for one sequence",
                got=f"{len(ids)} tokens",
                allowed=f"at least {seq_len}",
                next_step="give more text, or a smaller sequence length",
            )
        return torch.tensor(ids[: count * seq_len], dtype=torch.long).view(count, seq_len)


def _hidden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    value = args[0] if args else kwargs["hidden_states"]
    assert isinstance(value, Tensor)
    return value


def _first(out: Any) -> Tensor:
    value = out[0] if isinstance(out, tuple) else out
    assert isinstance(value, Tensor)
    return value


def _returns_tuple(block: nn.Module) -> bool:
    """Whether the block's class returns a tuple: read off its annotation, tensors since transformers 5."""
    annotation = str(type(block).forward.__annotations__.get("return", ""))
    return "tuple" in annotation.lower()


def _constant(value: Tensor, *, tuple_output: bool) -> Any:
    def forward(*_args: Any, **_kwargs: Any) -> Any:
        return (value,) if tuple_output else value

    return forward


def _find_blocks(model: nn.Module, units: Sequence[Unit]) -> list[nn.Module]:
    """The decoder blocks in order, found by the names of the units' linears."""
    found: dict[int, nn.Module] = {}
    for unit in units:
        if unit.block is None:
            continue
        name = unit.linears[0].name
        marker = f".{unit.block}."
        if marker not in name:
            raise UsageError("cannot locate the decoder block of a unit", where=name)
        found[unit.block] = model.get_submodule(name[: name.index(marker)] + f".{unit.block}")
    if not found or sorted(found) != list(range(len(found))):
        raise UsageError(
            "the decoder blocks are not numbered from 0 without gaps",
            got=f"blocks {sorted(found)[:5]}...",
            next_step="advisor inspect MODEL",
        )
    return [found[i] for i in sorted(found)]
