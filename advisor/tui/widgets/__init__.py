"""Small widgets that draw one thing each and know nothing of files or processes."""
