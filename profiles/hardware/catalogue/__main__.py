"""`python -m profiles.hardware.catalogue build` writes devices.json from the YAML families."""

from __future__ import annotations

import sys

from profiles.hardware.catalogue.build import COMPILED, build, compiled_text


def main(arguments: list[str]) -> int:
    """Build, or with `check` only compare; 1 when the file is out of date."""
    text = compiled_text()
    if arguments == ["check"]:
        same = COMPILED.exists() and COMPILED.read_text(encoding="utf-8") == text
        print("up to date" if same else "out of date: run build")
        return 0 if same else 1
    if arguments != ["build"]:
        print("usage: python -m profiles.hardware.catalogue build|check", file=sys.stderr)
        return 2
    COMPILED.write_text(text, encoding="utf-8")
    print(f"{COMPILED}: {len(build())} devices")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
