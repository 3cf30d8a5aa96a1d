"""The terminal interface: screens over the same functions and the same event stream as the CLI."""
