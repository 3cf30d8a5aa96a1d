"""Encoders that serve embeddings: BERT, (XLM-)RoBERTa, ModernBERT, NomicBERT."""

from __future__ import annotations

from collections.abc import Callable

from profiles.models.config import Config
from profiles.models.synthesise.attention import linear
from profiles.models.synthesise.style import Shapes


def _norm(name: str, width: int, bias: bool = True) -> Shapes:
    shapes: Shapes = [(f"{name}.weight", (width,))]
    return [*shapes, (f"{name}.bias", (width,))] if bias else shapes


def _bert(config: Config) -> Shapes:
    hidden, inner = config.count("hidden_size", low=1), config.count("intermediate_size", low=1)
    at = "embeddings."
    shapes: Shapes = [
        (at + "word_embeddings.weight", (config.vocab, hidden)),
        (at + "position_embeddings.weight", (config.count("max_position_embeddings", low=1), hidden)),
        (at + "token_type_embeddings.weight", (config.count("type_vocab_size", 2, low=1), hidden)),
        *_norm(at + "LayerNorm", hidden),
    ]
    for i in range(config.num_layers):
        at = f"encoder.layer.{i}."
        for name in ("query", "key", "value"):
            shapes += linear(f"{at}attention.self.{name}", hidden, hidden, True)
        shapes += linear(at + "attention.output.dense", hidden, hidden, True)
        shapes += _norm(at + "attention.output.LayerNorm", hidden)
        shapes += linear(at + "intermediate.dense", inner, hidden, True)
        shapes += linear(at + "output.dense", hidden, inner, True)
        shapes += _norm(at + "output.LayerNorm", hidden)
    return shapes + linear("pooler.dense", hidden, hidden, True)


def _modernbert(config: Config) -> Shapes:
    hidden, inner = config.count("hidden_size", low=1), config.count("intermediate_size", low=1)
    shapes: Shapes = [("embeddings.tok_embeddings.weight", (config.vocab, hidden))]
    shapes += _norm("embeddings.norm", hidden, False)
    for i in range(config.num_layers):
        at = f"layers.{i}."
        if i:
            shapes += _norm(at + "attn_norm", hidden, False)
        shapes += linear(at + "attn.Wqkv", 3 * hidden, hidden) + linear(at + "attn.Wo", hidden, hidden)
        shapes += _norm(at + "mlp_norm", hidden, False)
        shapes += linear(at + "mlp.Wi", 2 * inner, hidden) + linear(at + "mlp.Wo", hidden, inner)
    return shapes + _norm("final_norm", hidden, False)


def _nomic(config: Config) -> Shapes:
    hidden, inner = config.count("hidden_size", low=1), config.count("intermediate_size", low=1)
    shapes: Shapes = [
        ("embeddings.word_embeddings.weight", (config.vocab, hidden)),
        ("embeddings.token_type_embeddings.weight", (config.count("type_vocab_size", 2, low=1), hidden)),
        *_norm("emb_ln", hidden),
    ]
    for i in range(config.num_layers):
        at = f"encoder.layers.{i}."
        shapes += linear(at + "attn.Wqkv", 3 * hidden, hidden) + linear(at + "attn.out_proj", hidden, hidden)
        for name in ("fc11", "fc12"):
            shapes += linear(f"{at}mlp.{name}", inner, hidden)
        shapes += linear(at + "mlp.fc2", hidden, inner)
        shapes += _norm(at + "norm1", hidden) + _norm(at + "norm2", hidden)
    return shapes


ENCODERS: dict[str, Callable[[Config], Shapes]] = {
    "bert": _bert,
    "roberta": _bert,
    "xlm-roberta": _bert,
    "modernbert": _modernbert,
    "nomic_bert": _nomic,
}
"""Encoders by `model_type`."""
