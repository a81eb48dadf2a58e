"""The running daemon: configuration, replicas, anti-entropy, supervision."""
