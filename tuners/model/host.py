"""A model in memory whose decoder blocks can be entered half way and whose linears can be swapped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from profiles.errors import EnvironmentProblem, UsageError
from tuners.model.stream import Originals, WeightFiles, WeightStream, attach, empty_model
from tuners.plan import Unit

Before = Callable[[int, int], None]
"""Told the place of a batch's first token and its tokens before it is run."""


@dataclass(frozen=True)
class BlockInputs:
    """Hidden states entering every block for one batch: `hidden[b]` is (batch, tokens, hidden) fp32,
    `hidden[num_blocks]` leaves the last one."""

    hidden: tuple[Tensor, ...]


@dataclass(frozen=True)
class Feed:
    """Runs text (rows, tokens) through the model, or through one block: for hooks on its layers."""

    ids: Tensor
    run: Callable[[Before], object]

    @property
    def tokens(self) -> int:
        """Tokens that are run."""
        return int(self.ids.numel())

    def __call__(self, before: Before) -> None:
        """Run all of it; `before` is told of each batch."""
        self.run(before)


def model_feed(host: ModelHost, ids: Tensor, batch_size: int, *, head: bool = False) -> Feed:
    """The whole decoder, batch after batch, and the head only if it is watched as well."""

    def run(before: Before) -> None:
        for rows in batches(len(ids), batch_size):
            before(rows.start * ids.shape[1], ids[rows].numel())
            if head:
                host.logits(ids[rows])
            else:
                host.hidden_only(ids[rows])

    return Feed(ids, run)


@dataclass
class BlockRun:
    """One decoder block with its weights in memory, and the hidden states that enter it, batch by batch."""

    index: int
    block: nn.Module
    ids: Tensor
    calls: Sequence[BlockCall]
    inputs: Sequence[Tensor]
    _outputs: list[Tensor] | None = field(default=None, init=False)

    def call(self, batch: int, hidden: Tensor) -> Tensor:
        """The block's output for `hidden` in place of the batch's own input."""
        return _first(self.calls[batch].run(self.index, self.block, hidden))

    @torch.no_grad()
    def run(self, before: Before | None = None) -> list[Tensor]:
        """The block over all batches, with the weights that are installed now."""
        out, place = [], 0
        for batch, hidden in enumerate(self.inputs):
            tokens = hidden.shape[0] * hidden.shape[1]
            if before is not None:
                before(place, tokens)
            out.append(self.call(batch, hidden))
            place += tokens
        if self._outputs is None:
            self._outputs = out
        return out

    def forget(self) -> None:
        """Drop what ran before the block's weights were changed for good."""
        self._outputs = None

    def first(self) -> Tensor:
        """The block's output for the first batch, run now."""
        return self.run()[0]

    def feed(self) -> Feed:
        """This block alone, run on the text."""
        return Feed(self.ids, self.run)

    def outputs(self) -> list[Tensor]:
        """What the first run gave; it is run now if nobody did. This enters the next block."""
        return self.run() if self._outputs is None else self._outputs


@dataclass(frozen=True)
class BlockCall:
    """What the model hands to its blocks for one batch beside the hidden state: masks, positions."""

    arguments: Sequence[tuple[tuple[Any, ...], Mapping[str, Any]]]
    hidden: Tensor

    def run(self, index: int, block: nn.Module, hidden: Tensor) -> Any:
        """Call the block on `hidden`."""
        rest, kwargs = self.arguments[index]
        return block(hidden, *rest, **kwargs)


class ModelHost:
    """A causal language model in the compute dtype that is fastest here, weights as loaded.

    With a stream its weights are in memory block by block: every method gives the same numbers, and those
    that take all sequences at once (`sweep`, `blocks_in_turn`) read each block once for all of them.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        units: Sequence[Unit],
        stream: WeightStream | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.units = {u.name: u for u in units}
        self.stream = stream
        self.planned: dict[str, str] = {}
        self.on_enter: Callable[[int], None] | None = None
        found = _block_names(model, units)
        self.blocks = [model.get_submodule(name) for name in found]
        self.original: Mapping[str, Tensor]
        if stream is None:
            self.original = {m.name: self.linear(m.name).weight.data for u in units for m in u.linears}
            return
        if loose := [u.name for u in units if u.block is None]:
            raise UsageError(
                "a unit outside the decoder blocks cannot be searched block by block",
                where=loose[0],
                next_step="leave it 16-bit, or run on a machine whose memory holds the whole model",
            )
        attach(model, {name: b for b, name in enumerate(found)}, stream.files, stream)
        self.original = Originals(stream, {m.name: self.block_of(u.name) for u in units for m in u.linears})
        for index, block in enumerate(self.blocks):
            block.__dict__["forward"] = self._entered_forward(index)

    @classmethod
    def load(
        cls,
        path: str | Path,
        units: Sequence[Unit],
        *,
        trust_remote_code: bool = False,
        streamed: bool = False,
        dtype: torch.dtype | None = None,
    ) -> ModelHost:
        """Load in `dtype`; left out: bfloat16 on a GPU, float32 on the CPU (the faster type without
        AVX512-BF16/AMX).

        Raises:
            EnvironmentProblem: not enough memory. UsageError: transformers cannot load it.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        cuda = torch.cuda.is_available()
        dtype = dtype or (torch.bfloat16 if cuda else torch.float32)
        stream = None
        try:
            if streamed:
                device = torch.device("cuda" if cuda else "cpu")
                stream = WeightStream(WeightFiles(Path(path)), dtype, device)
                model = empty_model(Path(path), dtype, trust_remote_code=trust_remote_code)
            else:
                model = AutoModelForCausalLM.from_pretrained(
                    path, dtype=dtype, trust_remote_code=trust_remote_code
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
        if cuda and not streamed:
            model = model.to("cuda")
        model.eval()
        model.requires_grad_(False)
        return cls(model, tokenizer, units, stream)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The compute type."""
        return self.linear(next(iter(self.units.values())).linears[0].name).weight.dtype

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
        with self.skipping(start, inputs.hidden[start]):
            return self.logits(ids)

    @contextmanager
    def skipping(self, start: int, hidden: Tensor) -> Iterator[None]:
        """Blocks before `start` hand on `hidden` instead of being run."""
        with self._replaced(
            [_constant(hidden, tuple_output=_returns_tuple(block)) for block in self.blocks[:start]]
        ):
            yield

    @contextmanager
    def _replaced(self, forwards: Sequence[Callable[..., Any]]) -> Iterator[None]:
        """Other forwards for the first blocks."""
        touched = self.blocks[: len(forwards)]
        before = [block.__dict__.get("forward") for block in touched]
        for block, forward in zip(touched, forwards, strict=True):
            block.__dict__["forward"] = forward
        try:
            yield
        finally:
            for block, forward in zip(touched, before, strict=True):
                block.__dict__.pop("forward", None)
                if forward is not None:
                    block.__dict__["forward"] = forward

    @contextmanager
    def entered(self, block: int) -> Iterator[None]:
        """The block's weights in memory, formats planned for its units installed."""
        stream = self.stream
        if stream is None or stream.holds(block):
            yield
            return
        assert isinstance(self.original, Originals)
        linears = [m.name for u in self.units.values() if u.block == block for m in u.linears]
        planned = {m.name for u in self.planned if self.block_of(u) == block for m in self.units[u].linears}
        with stream.loaded(block, skip={f"{name}.weight" for name in planned}):
            self.original.keep({n: self.linear(n).weight.data for n in linears if n not in planned})
            try:
                if self.on_enter is not None:
                    self.on_enter(block)
                yield
            finally:
                self.original.drop(linears)
                for name in linears:
                    self.linear(name).__dict__.pop("forward", None)

    def in_memory(self, block: int) -> bool:
        """Whether the weights of the block are in memory now."""
        return self.stream is None or self.stream.holds(block)

    def _entered_forward(self, index: int) -> Callable[..., Any]:
        block = self.blocks[index]

        def forward(*args: Any, **kwargs: Any) -> Any:
            with self.entered(index):
                return type(block).forward(block, *args, **kwargs)

        return forward

    @torch.no_grad()
    def block_calls(self, ids: Tensor, batch_size: int) -> list[BlockCall]:
        """How the model calls its blocks for each batch, and the hidden state that enters the first."""
        out = []
        for rows in batches(len(ids), batch_size):
            seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
            first: list[Tensor] = []
            with self._replaced([_note(block, seen, first) for block in self.blocks]):
                self.hidden_only(ids[rows])
            out.append(BlockCall(arguments=seen, hidden=first[0]))
        return out

    def blocks_in_turn(
        self, ids: Tensor, batch_size: int, calls: Sequence[BlockCall] | None = None
    ) -> Iterator[BlockRun]:
        """Every block with its weights in memory once, for all batches of `ids`.

        Memory: two hidden states of all tokens, and what one batch takes inside a block.
        """
        calls = self.block_calls(ids, batch_size) if calls is None else calls
        hidden: Sequence[Tensor] = [call.hidden for call in calls]
        for index, block in enumerate(self.blocks):
            with self.entered(index):
                run = BlockRun(index, block, ids, calls, hidden)
                yield run
                hidden = run.outputs()

    def sweep(self, ids: Tensor, batch_size: int) -> Iterator[tuple[slice, Tensor]]:
        """Logits of every batch with its rows. A stream runs all batches through a block, then the next:
        a pass over all sequences reads the weights once; without one, batches are independent."""
        if self.stream is None:
            for rows in batches(len(ids), batch_size):
                yield rows, self.logits(ids[rows])
            return
        final: Sequence[Tensor] = ()
        for run in self.blocks_in_turn(ids, batch_size):
            final = run.outputs()
        with self.head_entered():
            for rows, hidden in zip(batches(len(ids), batch_size), final, strict=True):
                yield rows, self.logits_after(ids[rows], hidden)

    @torch.no_grad()
    def logits_after(self, ids: Tensor, hidden: Tensor) -> Tensor:
        """Logits when the last block has put out `hidden`."""
        with self.skipping(len(self.blocks), hidden):
            return self.logits(ids)

    @contextmanager
    def head_entered(self) -> Iterator[None]:
        """The output projection in memory."""
        head = self.model.get_output_embeddings()
        key = next((n for n, m in self.model.named_modules() if m is head), None)
        if self.stream is None or not self.stream.knows(key):
            yield
            return
        with self.stream.loaded(key):
            yield

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


def batches(rows: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` rows."""
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def _note(
    block: nn.Module, seen: list[tuple[tuple[Any, ...], dict[str, Any]]], first: list[Tensor]
) -> Callable[..., Any]:
    """A forward that notes its other arguments and hands the hidden state on."""
    as_tuple = _returns_tuple(block)

    def forward(*args: Any, **kwargs: Any) -> Any:
        hidden = _hidden(args, kwargs)
        if not first:
            first.append(hidden)
        seen.append((args[1:], {k: v for k, v in kwargs.items() if k != "hidden_states"}))
        return (hidden,) if as_tuple else hidden

    return forward


def _hidden(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
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


def _block_names(model: nn.Module, units: Sequence[Unit]) -> list[str]:
    """Module names of the decoder blocks in order, found by the names of the units' linears."""
    found: dict[int, str] = {}
    for unit in units:
        if unit.block is None:
            continue
        name = unit.linears[0].name
        marker = f".{unit.block}."
        if marker not in name:
            raise UsageError("cannot locate the decoder block of a unit", where=name)
        found[unit.block] = name[: name.index(marker)] + f".{unit.block}"
    if not found or sorted(found) != list(range(len(found))):
        raise UsageError(
            "the decoder blocks are not numbered from 0 without gaps",
            got=f"blocks {sorted(found)[:5]}...",
            next_step="advisor inspect MODEL",
        )
    return [found[i] for i in sorted(found)]
