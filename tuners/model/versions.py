"""Versions of what is kept in caches, free of torch: a result of another version is not used again."""

VARIANTS = 3
"""Raised when the same model and text give other codes."""

PROFILES = 3
"""Raised when a task's profile would mean something else with the same variants."""
