"""Identity, discovery, transport, pairing and content transfer between devices."""
