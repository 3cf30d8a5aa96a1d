"""The writer as a child process: its memory goes with it."""

from __future__ import annotations

from tuners.child import child_main
from tuners.gguf.write import GgufSpec, write_gguf

if __name__ == "__main__":
    child_main(GgufSpec, write_gguf)
