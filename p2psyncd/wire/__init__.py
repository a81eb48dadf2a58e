"""Bytes and messages, without any I/O: framing, codec, and the session and pairing state machines."""
