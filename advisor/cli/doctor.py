"""`advisor doctor`: the state of the installation as text to paste."""

from __future__ import annotations

from advisor.cli.options import Json
from profiles.errors import ExitCode

MARKS = {"ok": "ok      ", "info": "        ", "warning": "warning ", "problem": "PROBLEM "}


def doctor(*, json: Json = False) -> int:
    """Versions, devices, disk and known conflicts. Exit code 3 when something must be repaired."""
    from advisor.cli.output import print_json
    from advisor.doctor import examine

    checks = examine()
    if json:
        print_json(checks)
    else:
        for check in checks:
            print(f"{MARKS[check.state]}{check.name}: {check.text}")
            if check.next_step:
                print(f"        next: {check.next_step}")
    broken = any(c.state == "problem" for c in checks)
    return int(ExitCode.ENVIRONMENT if broken else ExitCode.OK)
