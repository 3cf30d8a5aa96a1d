"""deploy/: every target is read back by its consumer's parser where there is one, else part by part."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import subprocess
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from profiles.footprint.schema import ServingSpec
from tests.bundle.conftest import Writer
from tests.validate.examples import cpu_device, cuda_device, hardware, plan, units
from tuners.plan import PrecisionPlan

GOLDEN = Path(__file__).parent / "golden"
GPU_FORMATS = ("W8A8", "FP8_DYNAMIC", "W4A16_G32", "BF16")


def as_plan(*formats: str) -> PrecisionPlan:
    """The example's four units in these formats."""
    chosen = dict(zip((u.name for u in units()), formats, strict=True))
    return PrecisionPlan(formats=chosen, label="6 bits", model_id="Example/Tiny-64")


@pytest.fixture
def gpu(write: Writer, tmp_path: Path) -> Path:
    """The deploy folder of a bundle for a GPU."""
    write(device=cuda_device(), floor=1.05, serving=ServingSpec(tensor_parallel_size=2, max_num_seqs=8))
    return tmp_path / "bundle" / "deploy"


def _all(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def _targets(deploy: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads((deploy / "targets.json").read_text())
    return found


@pytest.mark.parametrize(
    "name",
    [
        "kubernetes.yaml", "kserve.yaml", "production-stack-values.yaml", "llm-d-values.yaml",
        "tiny-64-6-bits.service", "llama.cpp/quantize.sh", "llama.cpp/Modelfile", "targets.json",
    ],
)  # fmt: skip
def test_golden(gpu: Path, name: str) -> None:
    golden = GOLDEN / name.replace("/", "-")
    if os.environ.get("ADVISOR_UPDATE_GOLDEN"):
        golden.write_text((gpu / name).read_text(encoding="utf-8"), encoding="utf-8")
    assert (gpu / name).read_text(encoding="utf-8") == golden.read_text(encoding="utf-8")


def test_kubernetes_asks_for_its_devices_and_waits_as_long_as_the_load_took(
    write: Writer, tmp_path: Path, gpu: Path
) -> None:
    deployment, service = _all(gpu / "kubernetes.yaml")
    pod = deployment["spec"]["template"]
    engine = pod["spec"]["containers"][0]

    assert (deployment["apiVersion"], deployment["kind"]) == ("apps/v1", "Deployment")
    assert deployment["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"]
    assert service["spec"]["selector"] == pod["metadata"]["labels"]
    assert service["spec"]["ports"][0]["targetPort"] == engine["ports"][0]["name"]
    assert engine["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert (
        engine["resources"]["limits"]["nvidia.com/gpu"] == engine["resources"]["requests"]["nvidia.com/gpu"]
    )
    assert {v["name"] for v in pod["spec"]["volumes"]} == {m["name"] for m in engine["volumeMounts"]}
    probe = engine["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 300  # 5 s were measured: the least is used
    assert all(isinstance(a, str) for a in engine["args"])

    from dataclasses import replace

    from advisor.bundle.targets import container
    from tests.validate.examples import measurement

    slow = measurement(load_seconds=100.0)
    context = _context(tmp_path)
    context = replace(context, report=context.report.model_copy(update={"quantized": slow}))
    assert container.startup_failures(context) * container.PROBE_PERIOD_S == 500


def _context(tmp_path: Path) -> Any:
    """A context as write_bundle makes it."""
    from advisor.bundle.context import BundleContext
    from tests.validate.examples import measurement, model, predictions
    from tuners.validate.report import compare

    report = compare(
        measurement(quantized=False), measurement(), plan=plan(), units=units(), device=cpu_device(),
        predicted=predictions(), floor=1.05,
    )  # fmt: skip
    return BundleContext(
        tmp_path / "checkpoint", model(), hardware(), plan(), units(), report, ServingSpec(), "generic"
    )


def test_vllm_reads_the_arguments_of_the_pod_back(gpu: Path) -> None:
    pytest.importorskip("vllm")
    import sys

    deployment = _all(gpu / "kubernetes.yaml")[0]
    arguments = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    kserve = _all(gpu / "kserve.yaml")[0]["spec"]["template"]["containers"][0]["env"]
    extra = next(shlex.split(e["value"]) for e in kserve if e["name"] == "VLLM_ADDITIONAL_ARGS")
    code = (
        "from vllm.entrypoints.launchers.cli_args import make_arg_parser\n"
        "from vllm.utils.argparse_utils import FlexibleArgumentParser\n"
        "import json, sys\n"
        "for given in json.loads(sys.argv[1]):\n"
        "    a = make_arg_parser(FlexibleArgumentParser()).parse_args(given)\n"
        "    print('ARGS' + json.dumps([a.model, a.max_model_len, a.tensor_parallel_size, a.max_num_seqs]))"
    )
    both = json.dumps([arguments, ["--model", "/mnt/models", *extra]])
    done = subprocess.run([sys.executable, "-c", code, both], capture_output=True, text=True, check=False)
    lines = [json.loads(x.removeprefix("ARGS")) for x in done.stdout.splitlines() if x.startswith("ARGS")]

    assert lines == [["/models/model", 512, 2, 8], ["/mnt/models", 512, 2, 8]], done.stderr[-2000:]


def test_kserve_is_an_llm_inference_service(gpu: Path) -> None:
    (service,) = _all(gpu / "kserve.yaml")

    assert service["apiVersion"] == "serving.kserve.io/v1alpha2"
    assert service["kind"] == "LLMInferenceService"
    assert set(service["spec"]) == {"model", "replicas", "router", "template"}
    assert service["spec"]["model"]["uri"].startswith("pvc://")
    assert service["spec"]["template"]["containers"][0]["name"] == "main"


def test_helm_values_have_the_fields_of_their_charts(gpu: Path) -> None:
    (stack,) = _all(gpu / "production-stack-values.yaml")
    spec = stack["servingEngineSpec"]["modelSpec"][0]
    assert spec["requestGPU"] == 2
    assert (spec["repository"], spec["tag"]) == ("vllm/vllm-openai", "v0.32.0")
    assert spec["vllmConfig"]["maxModelLen"] == 512
    assert spec["vllmConfig"]["tensorParallelSize"] == 2
    assert not {"--max-model-len", "--tensor-parallel-size"} & set(spec["vllmConfig"]["extraArgs"])

    (llm_d,) = _all(gpu / "llm-d-values.yaml")
    assert llm_d["decode"]["parallelism"]["tensor"] == 2
    assert llm_d["modelArtifacts"]["uri"].startswith("pvc://")
    assert llm_d["prefill"]["create"] is False


def test_the_unit_runs_the_bundle_and_does_not_restart_what_cannot_start(gpu: Path) -> None:
    text = (gpu / "tiny-64-6-bits.service").read_text()
    parsed = configparser.RawConfigParser(strict=False)
    parsed.optionxform = str  # type: ignore[assignment, method-assign]
    parsed.read_string(text)

    assert parsed["Service"]["ExecStart"].endswith("/run.sh")
    assert parsed["Service"]["RestartPreventExitStatus"] == "3 4"
    assert parsed["Service"]["TimeoutStartSec"] == "0"
    assert set(parsed.sections()) == {"Unit", "Service", "Install"}


def test_gguf_names_are_those_of_the_gguf_package(gpu: Path) -> None:
    gguf = pytest.importorskip("gguf")
    text = (gpu / "llama.cpp" / "quantize.sh").read_text()
    pairs = [
        shlex.split(x.removesuffix("\\"))[1].rsplit("=", 1)
        for x in text.splitlines()
        if "--tensor-type " in x
    ]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 1)
    expected = {
        names.get_name(m.name + ".weight", try_suffixes=(".weight",)): u for u in units() for m in u.linears
    }

    assert len(pairs) == 7
    for pattern, kind in pairs:
        matching = [n for n in expected if re.search(pattern, n)]
        assert len(matching) == 1
        assert kind.upper() in gguf.GGMLQuantizationType.__members__
        chosen = plan().formats[expected[matching[0]].name]
        assert kind == {"W8A8": "q8_0", "FP8_DYNAMIC": "q8_0", "W4A16_G32": "q4_0", "BF16": "bf16"}[chosen]
    assert subprocess.run(["bash", "-n", str(gpu / "llama.cpp" / "quantize.sh")], check=False).returncode == 0


def test_k_quants_only_where_rows_are_whole_super_blocks() -> None:
    from advisor.bundle.targets.llama_cpp import BITS, gguf_type
    from tuners.plan import UnitLinear

    def linear(inputs: int) -> UnitLinear:
        return UnitLinear(name="x", in_features=inputs, out_features=8)

    assert gguf_type("W4A16_G64", linear(1536)) == "q4_k"
    assert gguf_type("W4A16_G64", linear(576)) == "q4_0"
    gguf = pytest.importorskip("gguf")
    for name, bits in BITS.items():
        per_block, nbytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name.upper()]]
        assert nbytes * 8 / per_block == bits


def test_an_architecture_without_known_names_is_refused(write: Writer, tmp_path: Path) -> None:
    from tests.validate.examples import model

    write(model=model(architecture="UnknownForCausalLM"))

    refused = _targets(tmp_path / "bundle" / "deploy")["llama.cpp"]
    assert refused["written"] is False
    assert "no GGUF name is known" in refused["reason"]
    assert not (tmp_path / "bundle" / "deploy" / "llama.cpp").exists()


@pytest.mark.parametrize(
    ("formats", "device", "words"),
    [
        (GPU_FORMATS, cuda_device(), "no such kernel"),  # INT8 units
        (("FP8_DYNAMIC", "FP8_DYNAMIC", "W4A16_G32", "BF16"), cuda_device(), "groups of 64 or 128"),
        (("FP8_DYNAMIC",) * 4, cuda_device((8, 0)), "compute capability 8.9"),
        (("BF16",) * 4, cpu_device(), "NVIDIA GPUs"),
    ],
)
def test_tensorrt_llm_refuses_what_it_would_not_run(
    formats: tuple[str, ...], device: Any, words: str, tmp_path: Path
) -> None:
    from dataclasses import replace

    from advisor.bundle.targets.registry import Refused
    from advisor.bundle.targets.tensorrt_llm import render

    context = replace(_context(tmp_path), plan=as_plan(*formats), hardware=hardware(device))
    with pytest.raises(Refused, match=words):
        render(context)


def test_the_modelopt_recipe_says_the_plan(tmp_path: Path) -> None:
    from dataclasses import replace

    from advisor.bundle.targets.tensorrt_llm import render

    chosen = as_plan("FP8_DYNAMIC", "NVFP4", "W4A16_G64", "BF16")
    context = replace(_context(tmp_path), plan=chosen, hardware=hardware(cuda_device((10, 0))))
    files = render(context).files
    recipe = yaml.safe_load(files["tensorrt-llm/modelopt_recipe.yaml"])
    entries = recipe["quantize"]["quant_cfg"]

    assert entries[0] == {"quantizer_name": "*", "enable": False}
    by_name = {e["quantizer_name"]: e for e in entries[1:]}
    prefix = "model.layers.0"
    assert by_name[f"{prefix}.mlp.up_proj.weight_quantizer"]["cfg"]["block_sizes"][-1] == 64
    assert by_name[f"{prefix}.self_attn.q_proj.weight_quantizer"]["cfg"] == {"num_bits": "e4m3", "axis": 0}
    assert not any("down_proj" in name for name in by_name)
    expected = json.loads(files["tensorrt-llm/expected_layers.json"])["quantization"]["quantized_layers"]
    assert set(expected) == {n.rsplit(".", 1)[0] for n in by_name}
    served = yaml.safe_load(files["tensorrt-llm/trtllm.yaml"])
    assert served["max_seq_len"] == 512
    (tmp_path / "recipe.yaml").write_text(files["tensorrt-llm/modelopt_recipe.yaml"])

    with warnings.catch_warnings():  # its own schema and loader, where it is installed
        warnings.simplefilter("ignore")
        config = pytest.importorskip("modelopt.torch.quantization.config")
        loading = pytest.importorskip("modelopt.recipe")
        parsed = config.QuantizeConfig.model_validate(recipe["quantize"])
        assert type(loading.load_recipe(str(tmp_path / "recipe.yaml"))).__name__ == "ModelOptPTQRecipe"
    assert len(parsed.quant_cfg) == len(entries)


def test_a_plan_that_needs_the_plugin_gets_no_published_image(write: Writer, tmp_path: Path) -> None:
    write()
    found = _targets(tmp_path / "bundle" / "deploy")

    for name in ("kubernetes", "kserve", "production-stack"):
        assert found[name]["written"] is False
        assert "plugin" in found[name]["reason"]
    assert found["systemd"]["written"]


def test_a_failed_validation_is_deployed_nowhere(write: Writer, tmp_path: Path) -> None:
    write(floor=1.01)
    deploy = tmp_path / "bundle" / "deploy"

    assert [p.name for p in deploy.rglob("*") if p.is_file()] == ["targets.json"]
    assert all("validation failed" in t["reason"] for t in _targets(deploy).values())


def test_provenance_lists_inputs_versions_and_seeds(write: Writer, tmp_path: Path) -> None:
    import hashlib

    from tests.validate.examples import model

    source = tmp_path / "original"
    source.mkdir()
    (source / "config.json").write_text("{}")
    write(model=model(path=str(source), revision="abc"), inputs={"seed": "7", "budget": '"6bits"'})
    text = (tmp_path / "bundle" / "provenance.json").read_text()
    found = json.loads(text)

    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.6")
    base = next(c for c in found["components"] if c.get("bom-ref") == "base")
    assert base["version"] == "abc"
    assert base["components"][0]["hashes"][0]["content"] == hashlib.sha256(b"{}").hexdigest()
    properties = {p["name"]: p["value"] for p in found["metadata"]["properties"]}
    assert properties["advisor:input.seed"] == "7"
    assert properties["advisor:plan"] == plan().key
    assert any(c["name"] == "torch" and c["purl"].startswith("pkg:pypi/torch@") for c in found["components"])
    assert str(tmp_path) not in text


def test_provenance_is_valid_by_the_cyclonedx_rules(write: Writer, tmp_path: Path) -> None:
    write()
    found = json.loads((tmp_path / "bundle" / "provenance.json").read_text())

    refs = [found["metadata"]["component"]["bom-ref"], *(c["bom-ref"] for c in found["components"])]
    assert len(refs) == len(set(refs))
    for entry in found["dependencies"]:
        assert {entry["ref"], *entry["dependsOn"]} <= set(refs)
    kinds = {c["type"] for c in found["components"]}
    assert kinds <= {"machine-learning-model", "library"}
