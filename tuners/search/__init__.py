"""The search: sensitivity, exact warm start, Optuna over prices, choice among finalists."""
