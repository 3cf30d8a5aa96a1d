"""Rankings, recommendations and ingested boot logs from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from advisor.cli.rank import parse_params
from profiles.footprint import Footprint, Residuals
from profiles.provenance import Figure
from tests.app.test_startup import loaded

Cli = Callable[..., tuple[int, str, str]]
CliJson = Callable[..., Any]
GIB = 2**30


@pytest.fixture(autouse=True)
def _own_residuals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("profiles.footprint.residuals.residuals_path", lambda: tmp_path / "residuals.json")


def test_what_fits_a_gpu_is_filtered_and_ordered(cli_json: CliJson) -> None:
    answer = cli_json(
        "fit", "--gpu", "rtx-4090", "--task", "code", "--min-context", "16384", "--min-params", "7B",
        "--max-params", "16B", "--license", "Apache-2.0", "--fits-only", "--top", "5",
    )  # fmt: skip
    rows = answer["models"]
    assert 1 <= len(rows) == answer["shown"] <= 5
    for row in rows:
        assert row["verdict"] == "fits"
        assert "code" in row["tags"]
        assert row["license"] == "apache-2.0"
        assert 7e9 <= row["parameters"] <= 16e9
        assert row["longest_context"]["value"] >= 16384
        assert row["longest_context"]["provenance"] == "estimated"
        assert Figure.model_validate(row["weights"]).provenance.value == "exact"
        assert Figure.model_validate(row["decode_tokens_s"]).low > 0
    assert [r["parameters"] for r in rows] == sorted((r["parameters"] for r in rows), reverse=True)
    assert len({r["model"] for r in rows}) == len(rows)


def test_the_best_format_that_fits_is_shown(cli_json: CliJson) -> None:
    query = ("fit", "--gpu", "rtx-4090", "--min-params", "7B", "--max-params", "9B", "--context", "8192")
    everything = cli_json(*query, "--top", "1000")
    rows = [r for r in everything["models"] if r["verdict"] == "fits"]
    assert any(r["format"] == "16-bit" for r in rows)
    for row in rows:
        if row["format"] != "16-bit" and "16-bit" in row["other_formats"]:
            assert row["other_formats"]["16-bit"] != "fits"
    only = cli_json(*query, "--top", "1000", "--formats", "int4")
    assert {r["format"] for r in only["models"]} == {"int4"}


def test_several_devices_are_all_used(cli_json: CliJson) -> None:
    answer = cli_json("fit", "--gpu", "rtx-4090", "--count", "2", "--top", "1")
    assert answer["spec"]["tensor_parallel_size"] == 2
    assert answer["models"][0]["devices"] == 2


def test_devices_for_a_model_start_with_the_smallest(cli: Cli, cli_json: CliJson, tiny: Path) -> None:
    answer = cli_json("fit", tiny, "--gpus", "h100,rtx-4090,rtx-4090")
    assert [row["device"] for row in answer["devices"]] == [
        "NVIDIA GeForce RTX 4090", "NVIDIA H100 80GB HBM3",
    ]  # fmt: skip
    everything = cli_json("fit", tiny, "--gpus", "all", "--top", "1000")
    assert everything["found"] == everything["shown"] > 50
    assert any(not row["kernels_checked"] for row in everything["devices"])
    code, out, _ = cli("fit", tiny, "--gpus", "all", "--top", "3")
    assert code == 0
    assert "~" in out
    assert f"{everything['found'] - 3} more" in out


def test_nothing_left_is_exit_1(cli: Cli) -> None:
    code, out, _ = cli("fit", "--gpu", "rtx-3060", "--min-params", "300B", "--fits-only")
    assert code == 1
    assert "widen the filters" in out


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ((), "no model given"),
        (("--gpus", "all"), "no model given"),
        (("--gpu", "rtx-4090", "--task", "cooking"), "--task"),
        (("--gpu", "rtx-4090", "--license", "nope"), "--license"),
        (("--gpu", "rtx-4090", "--min-params", "big"), "parameters"),
        (("--gpu", "rtx-4090", "--top", "0"), "--top"),
        (("--gpu", "rtx-4090", "--formats", "int3"), "int3"),
        (("--gpu", "rtx-4090", "--explain"), "--explain"),
        (("x", "--license", "mit"), "--license"),
        (("x", "--top", "3"), "--top"),
        (("x", "--gpus", "all", "--gpu", "h100"), "--gpus"),
    ],
)
def test_wrong_questions_are_refused(cli: Cli, tokens: tuple[str, ...], words: str) -> None:
    code, out, err = cli("fit", *tokens)
    assert (code, out) == (2, "")
    assert words in err
    assert "Traceback" not in err


@pytest.mark.parametrize("names", [",", "rtx-9999"])
def test_unknown_devices_are_refused(cli: Cli, tiny: Path, names: str) -> None:
    code, _, err = cli("fit", tiny, "--gpus", names)
    assert code == 2
    assert "allowed" in err


@pytest.mark.parametrize(
    ("text", "count"), [("8B", 8 * 10**9), ("700m", 7 * 10**8), ("1.5e9", 1_500_000_000)]
)
def test_parameters_are_counted(text: str, count: int) -> None:
    assert parse_params(text) == count


def test_recommendations_have_reasons_with_sources(cli: Cli, cli_json: CliJson, tiny: Path) -> None:
    query = ("recommend", tiny, "--task", "code", "--use", "prod", "--gpu", "rtx-3090")
    answer = cli_json(*query)
    assert (answer["task"], answer["use"]) == ("code", "production")
    assert [c["rank"] for c in answer["choices"]] == list(range(1, len(answer["choices"]) + 1))
    first = answer["choices"][0]
    assert any(r["stance"] == "for" and r["source"] for r in first["reasons"])
    code, out, _ = cli(*query)
    assert code == 0
    assert first["option"]["title"] in out
    assert all(d["option"]["title"] in out for d in answer["dropped"])
    assert ("Conflicts" in out) == bool(answer["conflicts"])


def test_another_use_is_another_order(cli_json: CliJson, tiny: Path) -> None:
    def order(use: str) -> list[str]:
        answer = cli_json("recommend", tiny, "--use", use, "--gpu", "h100")
        return [c["option"]["id"] for c in answer["choices"]]

    assert order("quality-critical") != order("cost-optimized")


@pytest.mark.parametrize("tokens", [("--use", "world-peace"), ("--task", "no-such-task"), ("--gpu", "zx81")])
def test_unknown_words_are_refused(cli: Cli, tiny: Path, tokens: tuple[str, str]) -> None:
    code, out, err = cli("recommend", tiny, *tokens)
    assert (code, out) == (2, "")
    assert tokens[1] in err


def _log(path: Path, found: Footprint, model: str | None, shift: float) -> Path:
    """A log as the engine of that prediction would print it, with `shift` bytes less KV cache."""
    start = f"(v0.32.0) with config: model='{model}', " if model else "(v0.32.0) with config: "
    path.write_text(
        f"INFO Initializing a V1 LLM engine {start}dtype=torch.bfloat16, max_seq_len=256\n"
        f"INFO Model loading took {found.weights.value / GIB:.9f} GiB memory and 3.5 seconds\n"
        f"INFO Available KV cache memory: {(found.kv_bytes.value - shift) / GIB:.9f} GiB\n"
    )
    return path


def _fit(cli_json: CliJson, model: Path, *gpu: str) -> Footprint:
    plans = cli_json("fit", model, "--context", "256", *gpu)["plans"]
    return Footprint.model_validate(plans["uniform 16-bit"])


def test_an_ingested_log_corrects_later_predictions(
    cli: Cli, cli_json: CliJson, tiny: Path, tmp_path: Path
) -> None:
    here = ("--gpu", "rtx-4090")
    before, other = _fit(cli_json, tiny, *here), _fit(cli_json, tiny, "--gpu", "h100")
    log = _log(tmp_path / "boot.log", before, str(tiny), GIB)
    util = ("--gpu-memory-utilization", "0.92")
    answer = cli_json("ingest", log, *here, "--no-save")
    lines = {line["line"]: line for line in answer["lines"]}
    assert set(lines) == {"weights", "kv_bytes"}
    assert lines["kv_bytes"]["error"] == pytest.approx(GIB, rel=1e-3)
    assert answer["saved"] is None
    assert _fit(cli_json, tiny, *here) == before

    code, out, _ = cli("ingest", log, *here)
    assert code == 0
    assert "give --gpu-memory-utilization" in " ".join(out.split())  # 1 GiB might be another share
    assert _fit(cli_json, tiny, *here) == before

    code, out, _ = cli("ingest", log, *here, *util)
    assert code == 0
    assert "RTX 4090" in out
    assert len(Residuals.load(tmp_path / "residuals.json").buckets) == 1
    after = _fit(cli_json, tiny, *here)
    assert after.kv_bytes.value == pytest.approx(before.kv_bytes.value - GIB, rel=1e-3)
    assert "ingested here" in after.kv_bytes.source
    assert "law corrected by 1 boot log" in cli("fit", tiny, *here)[1]
    ranked = cli_json("fit", tiny, "--gpus", "rtx-4090", "--context", "256")["devices"][0]
    assert ranked["kv_bytes"]["value"] == pytest.approx(after.kv_bytes.value, rel=1e-6)
    assert _fit(cli_json, tiny, "--gpu", "h100") == other

    kept = cli_json("ingest", log, *here, *util)["saved"]
    assert kept["residual"]["count"] == 2
    again = _fit(cli_json, tiny, *here)
    assert again.kv_bytes.value == pytest.approx(after.kv_bytes.value, rel=1e-6)


def test_an_ingested_log_teaches_its_engine_version(
    cli: Cli, cli_json: CliJson, tiny: Path, tmp_path: Path
) -> None:
    here, newer = ("--gpu", "rtx-4090"), ("--engine-version", "0.61.0")
    assert cli("fit", tiny, *here, *newer)[0] == 2
    log = _log(tmp_path / "boot.log", _fit(cli_json, tiny, *here), str(tiny), 0)
    log.write_text(log.read_text().replace("v0.32.0", "v0.61.2"))
    assert cli("ingest", log, *here, "--gpu-memory-utilization", "0.92")[0] == 0
    code, out, err = cli("fit", tiny, *here, *newer)
    assert code == 0, err
    assert "0.61 is newer than the laws" in " ".join(out.split())


def test_bad_logs_are_refused(cli: Cli, tiny: Path, tmp_path: Path, cli_json: CliJson) -> None:
    empty = tmp_path / "empty.log"
    empty.write_text("hello\n")
    nameless = _log(tmp_path / "nameless.log", _fit(cli_json, tiny, "--gpu", "rtx-4090"), None, 0)
    for log, words in ((empty, "no line"), (tmp_path / "gone.log", "cannot read"), (nameless, "--model")):
        code, out, err = cli("ingest", log)
        assert (code, out) == (2, "")
        assert words in err
    foreign = tmp_path / "foreign.log"
    foreign.write_text("INFO Model loading took 15.3 GiB memory and 3 seconds\n")
    code, _, err = cli("ingest", foreign, "--model", tiny, "--gpu", "rtx-4090")
    assert code == 2
    assert "not this model's" in err
    assert not (tmp_path / "residuals.json").exists()


def test_the_new_answers_import_nothing_heavy(tiny: Path) -> None:
    assert loaded(["recommend", "--help"]) == "HEAVY 0 []"
    assert loaded(["ingest", "--help"]) == "HEAVY 0 []"
    assert loaded(["fit", "--gpu", "rtx-4090", "--top", "1"]) == "HEAVY 0 []"
    assert loaded(["recommend", str(tiny), "--gpu", "rtx-4090"]) == "HEAVY 0 []"


def test_json_is_one_document(cli: Cli) -> None:
    _, out, _ = cli("fit", "--gpu", "rtx-4090", "--top", "1", "--json")
    assert json.loads(out)["shown"] == 1
