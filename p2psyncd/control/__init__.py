"""HTTP with JSON on the control socket."""
