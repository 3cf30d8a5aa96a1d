"""`advisor completion`: a script for the shell to load."""

from __future__ import annotations

from typing import Literal


def completion(shell: Literal["bash", "zsh", "fish"], /) -> int:
    """Print the completion script of a shell."""
    from advisor.cli.app import build_app

    print(build_app().generate_completion(shell=shell))
    return 0
