"""The model in torch: loading, decoder blocks, quantized variants of its linears (child processes only)."""
