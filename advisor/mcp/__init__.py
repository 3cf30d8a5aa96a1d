"""Advisor for other agents: an MCP server whose tools answer with the product's own contracts."""
