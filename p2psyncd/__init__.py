"""p2psyncd keeps folders and SQLite databases equal on paired devices of one network."""

from __future__ import annotations

__all__ = ["PROTOCOL_VERSION", "__version__"]

__version__ = "0.1.0"

# Highest version of the wire protocol that this program speaks; docs/protocol.md lists them.
PROTOCOL_VERSION = 1
