"""The latency column: what every layer takes in every format, and what a plan takes per token."""
