"""The p2psync client."""
