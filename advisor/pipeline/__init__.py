"""The stages of a run, one file each, in the order profile, footprint, search, quantize, validate, export."""
