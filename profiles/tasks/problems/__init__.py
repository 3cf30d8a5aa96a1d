"""Generators of the bundled `math` and `code` texts (`python -m profiles.tasks.problems.write`)."""
