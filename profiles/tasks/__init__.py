"""Tasks: how sensitive each is, and the texts that measure it."""

from profiles.tasks.registry import list_tasks, load_task
from profiles.tasks.schema import PriorLoss, Sensitivity, TaskProfile, TextSplits

__all__ = ["PriorLoss", "Sensitivity", "TaskProfile", "TextSplits", "list_tasks", "load_task"]
