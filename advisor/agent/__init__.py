"""The loop that repairs: plan, quantize, validate, diagnose, change one thing, until a verdict."""

from advisor.agent.decide import decide
from advisor.agent.loop import run_agent
from advisor.agent.schema import AgentVerdict, Limits

__all__ = ["AgentVerdict", "Limits", "decide", "run_agent"]
