"""Catalogue rows out of real `config.json` files: `python -m profiles.models.catalogue.build --help`.

A file is named `owner--name_config.json` (or lies in `owner/name/config.json`). A known row takes over the
real config and says so; when the tensors or the cache that follow from it differ from what the row said, the
difference is printed. A new row needs `--license` and `--tags`.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from profiles.errors import AdvisorError
from profiles.models.catalogue import catalogue_configs
from profiles.models.config import TEXT_CONFIGS, Config
from profiles.models.profile import build_profile, require_architecture
from profiles.models.schema import ModelProfile
from profiles.models.stored import stored_quantization
from profiles.models.synthesise import synthesise

HERE = Path(__file__).parent
NOT_FACTS = re.compile(
    r"(_token_id|_token_index|^id2label$|^label2id$|^initializer|dropout|^transformers_version$|^use_cache$|"
    r"^auto_map$|^_name_or_path$|_range$|_eps$|_act$|^hidden_activation$|^pruned_heads$|^rope_theta$|^output_|"
    r"^return_dict|^is_decoder|^is_encoder|^add_cross|^chunk_size_|^torchscript|penalty$|^num_beam|^top_[kp]$|"
    r"^typical_p$|^temperature$|_sample$|^no_repeat|^bad_words|_length$(?<!max_sequence_length)|early_stopping|"
    r"^problem_type$|^finetuning_task$|^tf_legacy|^use_bfloat16$|^remove_invalid|^forced_|^suppress_|^prefix$|"
    r"^begin_suppress|^sep_token|^time_step|^pretraining_tp$|^aux_loss|^router_aux|^diversity|^exponential_|"
    r"^decoder_start|^cross_attention|_softcapping$|^num_return|^task_specific|^rescale_|^residual_in_fp32$)"
)
"""Fields that say nothing about shapes, caches or dtypes."""


def facts_of(raw: dict[str, Any]) -> dict[str, Any]:
    """The config without training, generation and tokenizer fields, its nested configs likewise."""
    out: dict[str, Any] = {}
    for key, value in raw.items():
        if NOT_FACTS.search(key):
            continue
        nested = key in (*TEXT_CONFIGS, "vision_config") and isinstance(value, dict)
        out[key] = facts_of(value) if nested else value  # null is a fact: not the class's default
    return out


def profile_of(raw: dict[str, Any], model_id: str) -> ModelProfile:
    """The profile that follows from a config alone."""
    config = Config(raw, model_id)
    architecture = require_architecture(config, trust_remote_code=True)
    return build_profile(
        config,
        synthesise(config),
        architecture,
        model_id=model_id,
        source="catalogue",
        quantization=stored_quantization(config),
    )


def shape_of(profile: ModelProfile) -> tuple[Any, ...]:
    """What two configs of one model must agree in."""
    tensors = sorted((t.name, t.shape, t.dtype) for t in profile.tensors)
    return tensors, profile.kv_layers, profile.max_position_embeddings, profile.tie_word_embeddings


def parameters(profile: ModelProfile) -> int:
    """Logical weights of every linear and all other tensors; scales of packed weights are no parameters."""
    names = {item.name for item in profile.linears}
    weights = re.compile(r"(\.weight_packed|\.qweight|\.weight|_blocks)$")
    scales = re.compile(r"(scale|scales|zero_point|qzeros|g_idx|weight_shape|_scale_inv)$")
    beside = 0
    for tensor in profile.tensors:
        if scales.search(tensor.name) and not tensor.name.endswith("router.scale"):
            continue
        module = weights.sub("", tensor.name).replace(".*.", ".0.")
        if module not in names:
            beside += tensor.numel
    return sum(item.numel for item in profile.linears) + beside


def read(path: Path) -> tuple[str, dict[str, Any]]:
    """The model's id and its config."""
    name = path.name.removesuffix("_config.json").replace("--", "/", 1)
    if path.name == "config.json":
        name = "/".join(path.parent.parts[-2:])
    return name, json.loads(path.read_text(encoding="utf-8"))


def main() -> None:
    """Read the files named, update or add their rows, print what changed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configs", nargs="+", type=Path)
    parser.add_argument("--source", required=True, help="where the files are from")
    parser.add_argument("--file", default="others.jsonl", help="the file that new rows go to")
    parser.add_argument("--license", help="of new rows; without it they are listed, not added")
    parser.add_argument("--tags", default="chat", help="of new rows, a comma list")
    given = parser.parse_args()
    known = {name.lower(): name for name in catalogue_configs()}
    fresh: dict[str, dict[str, Any]] = {}
    for path in given.configs:
        name, raw = read(path)
        try:
            raw = facts_of(raw)
            profile = profile_of(raw, name)
        except AdvisorError as problem:
            print(f"{name}: {problem.what} ({problem.got})")
            continue
        row = {"id": name, "params": parameters(profile), "source": given.source, "config": raw}
        if name.lower() not in known:
            if given.license is None:
                print(f"{name}: new, {row['params'] / 1e9:.2f}B")
                continue
            row |= {"license": given.license, "tags": given.tags.split(",")}
        elif shape_of(profile) != shape_of(profile_of(catalogue_configs()[known[name.lower()]], name)):
            print(f"{name}: differs from the row, which stays")
            continue
        fresh[name.lower()] = row
    _write(fresh, known, HERE / given.file)


def _write(fresh: dict[str, dict[str, Any]], known: dict[str, str], target: Path) -> None:
    for file in sorted(HERE.glob("*.jsonl")):
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        merged = [{**row, **fresh.get(row["id"].lower(), {}), "id": row["id"]} for row in rows]
        if file == target:
            merged += [row for key, row in fresh.items() if key not in known]
        text = "".join(_line(row) for row in merged)
        if text != file.read_text(encoding="utf-8"):
            file.write_text(text, encoding="utf-8")
            print(f"{file.name}: {len(merged)} rows")


def _line(row: dict[str, Any]) -> str:
    ordered = {key: row[key] for key in ("id", "params", "license", "tags", "source", "config")}
    return json.dumps(ordered, ensure_ascii=False, separators=(",", ":")) + "\n"


if __name__ == "__main__":
    main()
