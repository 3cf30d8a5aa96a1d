"""Set up an environment and run something in it; only the standard library, for Python 3.11 and newer.

    python scripts/bootstrap.py [--dev] [--flavour cpu|gpu] -- COMMAND ...

Uses the active virtual environment, else creates .venv beside this folder. Installs the flavour's lock
files and the project; does nothing when the stamp in the environment says that they are in already.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MINIMUM = (3, 11)
DISK_GIB = {"cpu": 6, "gpu": 20}
"""Free space to ask for before the first installation: the CPU flavour takes about 4 GiB installed."""
LOCKS = {"cpu": ("cpu.lock",), "gpu": ("gpu.lock", "gpu-quantize.lock")}
RESOLVED_BY_PIP = {"gpu.lock"}
"""Locks of direct pins only; every other lock is complete and installed with --no-deps."""


def say(text: str) -> None:
    """Progress goes to stderr: stdout belongs to the command that is run."""
    print(f"[setup] {text}", file=sys.stderr, flush=True)


def fail(what: str, next_step: str) -> None:
    """Stop with what is wrong and what to do; 3 is the exit code for the environment."""
    print(f"[setup] {what}\n[setup]   next: {next_step}", file=sys.stderr)
    sys.exit(3)


def environment_python() -> Path:
    """The interpreter of the active virtual environment, or of .venv, created if need be."""
    if sys.version_info < MINIMUM:
        fail(f"Python {sys.version.split()[0]} is too old", "install Python 3.11 or newer, or set PYTHON=")
    if sys.prefix != sys.base_prefix:
        return Path(sys.executable)
    python = ROOT / ".venv" / "bin" / "python"
    works = python.exists() and subprocess.run([python, "-m", "pip", "--version"], capture_output=True)
    if works and works.returncode == 0:
        return python
    say(f"creating .venv with Python {sys.version.split()[0]}")
    shutil.rmtree(ROOT / ".venv", ignore_errors=True)
    made = subprocess.run([sys.executable, "-m", "venv", str(ROOT / ".venv")], capture_output=True, text=True)
    if made.returncode:
        lines = (made.stdout + made.stderr).strip().splitlines() or ["python -m venv failed"]
        fail(lines[0], "install your system's venv package (Debian: python3-venv), then run this again")
    return python


def clean_environment() -> dict[str, str]:
    """The environment without what would let other installations leak in."""
    return {
        k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "PIP_REQUIRE_VIRTUALENV")
    }


def wanted_stamp(flavour: str, locks: list[Path]) -> dict[str, str]:
    """What the environment must hold: hashes of the locks and of the project's metadata."""
    files = [*locks, ROOT / "pyproject.toml"]
    stamp = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
    return {**stamp, "flavour": flavour, "root": str(ROOT)}


def pip(python: Path, what: str, *arguments: str) -> None:
    """One pip step with its time."""
    say(f"{what} ...")
    start = time.monotonic()
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "install", *arguments]
    code = subprocess.run(command, env=clean_environment(), stdout=2).returncode
    if code:
        fail(
            f"pip ended with {code} while {what}",
            "read pip's last lines above; running the same command again goes on from here",
        )
    say(f"{what}: {time.monotonic() - start:.0f} s")


def install(python: Path, flavour: str, dev: bool) -> None:
    """Bring the environment to what the locks say; a second call finds nothing to do."""
    names = [*LOCKS[flavour], *(["dev.lock"] if dev else [])]
    locks = [ROOT / "requirements" / n for n in names]
    stamp_path = python.parent.parent / f".advisor-{flavour}{'-dev' if dev else ''}.json"
    wanted = wanted_stamp(flavour, locks)
    try:
        if json.loads(stamp_path.read_text()) == wanted:
            return
    except (OSError, ValueError):
        pass
    free_gib = shutil.disk_usage(python.parent).free / 2**30
    if free_gib < DISK_GIB[flavour] and not stamp_path.exists():
        fail(
            f"{free_gib:.1f} GiB are free, the installation wants {DISK_GIB[flavour]}",
            "free disk space, or activate a virtual environment on another disk",
        )
    for lock in locks:
        extra = () if lock.name in RESOLVED_BY_PIP else ("--no-deps",)
        pip(python, f"installing requirements/{lock.name}", *extra, "-r", str(lock))
    if flavour == "cpu":
        # A no-op beside the CPU build of torch; the default build needs its own libraries as well.
        torch = next(p for p in locks[0].read_text().split() if p.startswith("torch=="))
        pip(python, "checking what torch needs", "--quiet", "-c", str(locks[0]), torch)
    pip(python, "installing advisor", "--quiet", "--no-deps", "--no-build-isolation", "-e", str(ROOT))
    stamp_path.write_text(json.dumps(wanted, indent=1))


def main() -> None:
    """Set up, then become the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dev", action="store_true", help="with the test tools")
    parser.add_argument("--flavour", choices=sorted(LOCKS), default=os.environ.get("ADVISOR_FLAVOUR", "cpu"))
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and the command to run")
    options = parser.parse_args()
    if options.flavour not in LOCKS:
        fail(f"ADVISOR_FLAVOUR={options.flavour} is unknown", f"one of {', '.join(sorted(LOCKS))}")
    python = environment_python()
    install(python, options.flavour, options.dev)
    command = [c for i, c in enumerate(options.command) if not (i == 0 and c == "--")]
    if not command:
        say(f"ready: source {python.parent}/activate")
        return
    environment = clean_environment()
    environment["PATH"] = f"{python.parent}{os.pathsep}{environment.get('PATH', '')}"
    environment["VIRTUAL_ENV"] = str(python.parent.parent)
    os.chdir(ROOT)
    os.execvpe(command[0], command, environment)


if __name__ == "__main__":
    main()
