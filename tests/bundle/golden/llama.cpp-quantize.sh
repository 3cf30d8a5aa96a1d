#!/usr/bin/env bash
# Example/Tiny-64 for llama.cpp, with the plan's width for every layer. Run in a llama.cpp checkout:
#   ./quantize.sh ORIGINAL_MODEL_DIR [IMATRIX]     (not this bundle's model/: that is already quantized)
# Another quantizer than the one that was validated: measure it (llama-perplexity) before it serves.
set -euo pipefail
model="${1:?the original model, in 16 bits}"
imatrix=()
[[ -n "${2:-}" ]] && imatrix=(--imatrix "$2")
python convert_hf_to_gguf.py "$model" --outtype bf16 --outfile model-bf16.gguf
llama-quantize "${imatrix[@]}" \
  --token-embedding-type bf16 --output-tensor-type bf16 \
  --tensor-type '^blk\.0\.attn_q\.weight$=q8_0' \
  --tensor-type '^blk\.0\.attn_k\.weight$=q8_0' \
  --tensor-type '^blk\.0\.attn_v\.weight$=q8_0' \
  --tensor-type '^blk\.0\.attn_output\.weight$=q8_0' \
  --tensor-type '^blk\.0\.ffn_gate\.weight$=q4_0' \
  --tensor-type '^blk\.0\.ffn_up\.weight$=q4_0' \
  --tensor-type '^blk\.0\.ffn_down\.weight$=bf16' \
  model-bf16.gguf model.gguf q8_0
