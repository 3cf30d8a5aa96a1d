"""Reading folders: what a sound checkpoint says, and every way in which one can be refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles.errors import AdvisorError, EnvironmentProblem, UsageError
from profiles.models import KvKind, read_model
from profiles.models.headers import read_header
from tests.models.files import LLAMA, header_of, llama_tensors, write_model, write_raw, write_tensors


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return write_model(tmp_path / "llama", LLAMA, llama_tensors())


def test_a_sound_folder(llama: Path) -> None:
    profile = read_model(str(llama))
    assert profile.source == "local"
    assert profile.assumptions == ()
    assert profile.num_parameters == sum(_numel(s) for _, s in llama_tensors().values())
    assert [item.role for item in profile.linears][:1] == ["embed"]
    fused = {item.fused for item in profile.linears if item.block == 1}
    prefix = "model.layers.1."
    assert fused == {
        prefix + "self_attn.qkv_proj",
        prefix + "self_attn.o_proj",
        prefix + "mlp.gate_up_proj",
        prefix + "mlp.down_proj",
    }
    assert [(k.kind, k.kv_heads, k.head_dim) for k in profile.kv_layers] == [(KvKind.FULL, 2, 16)] * 2


def test_tied_head_is_counted_once(tmp_path: Path) -> None:
    tied = LLAMA | {"tie_word_embeddings": True}
    folder = write_model(tmp_path / "m", tied, llama_tensors())
    profile = read_model(str(folder))
    assert "lm_head" not in {item.role for item in profile.linears}
    assert profile.num_parameters == sum(_numel(s) for _, s in llama_tensors(tied).values())
    assert any("counted once" in a for a in profile.assumptions)


def test_tied_model_that_stores_the_head_only(tmp_path: Path) -> None:
    tensors = llama_tensors()
    del tensors["model.embed_tokens.weight"]
    profile = read_model(str(write_model(tmp_path / "m", LLAMA | {"tie_word_embeddings": True}, tensors)))
    assert "lm_head.weight" in {t.name for t in profile.tensors}


def test_shards_and_index(llama: Path) -> None:
    table = llama_tensors()
    (llama / "model.safetensors").unlink()
    first = dict(list(table.items())[:7])
    rest = {k: v for k, v in table.items() if k not in first}
    write_tensors(llama / "a.safetensors", first)
    write_tensors(llama / "b.safetensors", rest)
    write_tensors(llama / "stray.safetensors", {"adapter.weight": ("F32", [4, 4])})
    weight_map = dict.fromkeys(first, "a.safetensors") | dict.fromkeys(rest, "b.safetensors")
    index = llama / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert {t.name for t in read_model(str(llama)).tensors} == set(table)
    (llama / "b.safetensors").unlink()
    _refused(llama, "files of the checkpoint are missing")
    index.write_text(json.dumps({"weight_map": {"x": "../../etc/passwd"}}))
    _refused(llama, "outside the checkpoint")
    index.write_text(json.dumps({"weight_map": weight_map | {"ghost": "a.safetensors"}}))
    write_tensors(llama / "b.safetensors", rest)
    _refused(llama, "are in no file")


def test_multi_token_prediction_layers_are_left_out(tmp_path: Path) -> None:
    extra = llama_tensors() | {"model.layers.2.eh_proj.weight": ("BF16", [64, 128])}
    profile = read_model(str(write_model(tmp_path / "m", LLAMA, extra)))
    assert all("layers.2." not in t.name for t in profile.tensors)
    assert any("multi-token-prediction" in a for a in profile.assumptions)


def test_path_problems(tmp_path: Path, llama: Path) -> None:
    for source, words in {
        str(tmp_path / "absent"): "no such model",
        str(llama / "config.json"): "a folder, not a file",
        "": "no model named",
        "bad\0name": "no model named",
        "a/b/c/d": "no such model",
    }.items():
        with pytest.raises(UsageError, match=words):
            read_model(source, offline=True)
    empty = tmp_path / "empty"
    empty.mkdir()
    _refused(empty, "empty")
    (llama / "config.json").unlink()
    _refused(llama, "no config.json")


def test_weights_that_are_absent_or_pickled(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    _refused(folder, "no weights")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    error = _refused(folder, "pickle")
    assert error.next_step is not None
    assert "safetensors" in error.next_step
    (folder / "config.json").unlink()
    _refused(folder, "pickle")
    (folder / "pytorch_model.bin").rename(folder / "model.gguf")
    _refused(folder, "GGUF")


@pytest.mark.parametrize("cut", [3, 8, 40, -1])
def test_truncated_files(llama: Path, cut: int) -> None:
    file = llama / "model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    _refused(llama, "truncated")


def test_trailing_bytes_are_refused(llama: Path) -> None:
    with (llama / "model.safetensors").open("ab") as file:
        file.write(b"payload")
    _refused(llama, "extra bytes")


ENTRY = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "no tensors"),
        (b'{"a": 3}', "no description"),
        (b'{"a": {}, "a": {}}', "twice"),
        (json.dumps({"a": ENTRY | {"shape": [-2, -2]}}).encode(), "bad shape"),
        (json.dumps({"a": ENTRY | {"shape": [2.0, 2]}}).encode(), "bad shape"),
        (json.dumps({"a": ENTRY | {"shape": [True, 4]}}).encode(), "bad shape"),
        (json.dumps({"a": ENTRY | {"shape": [1 << 40, 1 << 40]}}).encode(), "absurdly large"),
        (json.dumps({"a": ENTRY | {"dtype": "F33"}}).encode(), "unknown dtype"),
        (json.dumps({"a": ENTRY | {"dtype": ["F32"]}}).encode(), "unknown dtype"),
        (json.dumps({"a": ENTRY | {"data_offsets": [16, 0]}}).encode(), "bad data_offsets"),
        (json.dumps({"a": ENTRY | {"data_offsets": [0, 12]}}).encode(), "fill its bytes"),
        (json.dumps({"a": ENTRY, "b": ENTRY}).encode(), "gap or an overlap"),
        (json.dumps({"a": ENTRY | {"data_offsets": [8, 24]}}).encode(), "gap or an overlap"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_malicious_headers(llama: Path, header: bytes, words: str) -> None:
    write_raw(llama / "model.safetensors", header, bytes(16))
    _refused(llama, words)


def test_a_ten_gigabyte_header_is_not_read(llama: Path) -> None:
    write_raw(llama / "model.safetensors", b"{}", length=10_000_000_000)
    _refused(llama, "too long")


def test_two_files_with_one_tensor(llama: Path) -> None:
    write_tensors(llama / "again.safetensors", {"model.norm.weight": ("BF16", [64])})
    _refused(llama, "same tensor")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_size": -64}, "hidden_size"),
        ({"hidden_size": float("nan")}, "hidden_size"),
        ({"hidden_size": float("inf")}, "hidden_size"),
        ({"hidden_size": "64"}, "hidden_size"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"num_hidden_layers": True}, "num_hidden_layers"),
        ({"vocab_size": 10**18}, "vocab_size"),
        ({"head_dim": -1}, "head_dim"),
        ({"num_key_value_heads": 2.5}, "num_key_value_heads"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"layer_types": ["full_attention"]}, "layer_types"),
        ({"layer_types": ["full_attention", "quantum_attention"]}, "not known"),
        ({"architectures": []}, "no architecture"),
        ({"architectures": "LlamaForCausalLM"}, "architectures"),
        ({"quantization_config": []}, None),
        ({"quantization_config": "int4"}, "quantization_config"),
        ({"quantization_config": {"bits": 4}}, "does not say its method"),
        ({"quantization_config": {"quant_method": "gptq", "bits": -4}}, "bits"),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, "config_groups"),
    ],
)
def test_absurd_configs(llama: Path, change: dict[str, Any], words: str | None) -> None:
    (llama / "config.json").write_text(json.dumps(LLAMA | change))
    if words is None:
        assert read_model(str(llama)).quantization is None
    else:
        _refused(llama, words)


def test_config_that_is_no_object(llama: Path) -> None:
    for text, words in (("[1]", "not a JSON object"), ("{nope", "not valid JSON"), ("", "not valid JSON")):
        (llama / "config.json").write_text(text)
        _refused(llama, words)


def test_missing_field_without_a_default(llama: Path) -> None:
    config = {k: v for k, v in LLAMA.items() if k not in ("hidden_size", "model_type")}
    (llama / "config.json").write_text(json.dumps(config))
    error = _refused(llama, "hidden_size is missing")
    assert error.where is not None
    assert error.where.endswith("config.json")


def test_defaults_are_named_as_assumptions(llama: Path) -> None:
    config = {k: v for k, v in LLAMA.items() if k != "max_position_embeddings"}
    (llama / "config.json").write_text(json.dumps(config))
    assert any("max_position_embeddings=2048" in a for a in read_model(str(llama)).assumptions)


def test_unknown_architecture(llama: Path) -> None:
    (llama / "config.json").write_text(json.dumps(LLAMA | {"architectures": ["LamaForCausalLM"]}))
    profile = read_model(str(llama))
    assert any("not in vLLM" in a for a in profile.assumptions)
    write_tensors(llama / "model.safetensors", {"blocks.0.time_mix.weight": ("F32", [4, 4])})
    error = _refused(llama, "unknown architecture")
    assert error.allowed is not None
    assert "LlamaForCausalLM" in error.allowed


def test_remote_code_is_refused_unless_asked_for(llama: Path) -> None:
    remote = LLAMA | {"auto_map": {"AutoModel": "modeling.X"}}
    (llama / "config.json").write_text(json.dumps(remote))
    assert read_model(str(llama)).assumptions == ()  # the engine has Llama itself: no code is run
    (llama / "config.json").write_text(json.dumps(remote | {"architectures": ["XForCausalLM"]}))
    error = _refused(llama, "code from its own repository")
    assert error.next_step is not None
    assert "trust_remote_code" in error.next_step
    profile = read_model(str(llama), trust_remote_code=True)
    assert any("remote code" in a for a in profile.assumptions)


def test_offline_without_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EnvironmentProblem) as caught:
        read_model("nobody/nothing-at-all", offline=True)
    assert "offline was asked for" in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(
    key=st.sampled_from([*LLAMA, "head_dim", "layer_types", "quantization_config", "rope_scaling"]),
    value=JSON,
)
def test_any_config_value_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: object
) -> None:
    folder = write_model(tmp_path_factory.mktemp("m"), LLAMA | {key: value}, llama_tensors())
    try:
        profile = read_model(str(folder))
    except AdvisorError:
        return
    assert profile.num_parameters > 0


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200), at=st.integers(0, 400), flip=st.integers(1, 255))
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, at: int, flip: int
) -> None:
    file = tmp_path_factory.mktemp("f") / "x.safetensors"
    header = json.dumps(header_of({"a": ("F32", [2, 3]), "b": ("BF16", [4])})).encode()
    sound = bytearray(len(header).to_bytes(8, "little") + header + bytes(32))
    sound[at % len(sound)] ^= flip
    for content in (bytes(sound), data, len(data).to_bytes(8, "little") + data):
        file.write_bytes(content)
        try:
            tensors = read_header(file)
        except UsageError:
            continue
        assert sum(t.nbytes for t in tensors) <= len(content)


def _numel(shape: list[int]) -> int:
    total = 1
    for dim in shape:
        total *= dim
    return total


def _refused(folder: Path, words: str) -> UsageError:
    with pytest.raises(UsageError, match=words) as caught:
        read_model(str(folder))
    return caught.value
