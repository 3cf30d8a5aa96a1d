"""Ask from Python what `advisor fit` answers: python examples/fit_from_python.py MODEL [GPU]."""

from __future__ import annotations

import sys

from advisor.pipeline.facts import gather
from advisor.pipeline.footprint import footprints
from advisor.pipeline.inputs import RunInputs
from profiles.footprint.schema import ServingSpec


def main(model: str, gpu: str | None = None) -> None:
    """Print the verdict of every uniform format."""
    spec = ServingSpec(max_model_len=2048, concurrency=4)
    facts = gather(RunInputs(model=model, gpu=gpu, task="generic", serving=spec, offline=True))
    for label, answer in footprints(facts, spec).items():
        size, how = answer.weights.value, answer.weights.provenance
        print(f"{label}: {answer.verdict.value}, weights {size / 2**20:,.1f} MiB ({how})")


if __name__ == "__main__":
    main(*sys.argv[1:3])
