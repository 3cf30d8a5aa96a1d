"""A plan as one GGUF file of mixed types, for llama.cpp and what is built on it."""
