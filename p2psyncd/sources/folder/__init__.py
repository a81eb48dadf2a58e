"""A folder as a source: scan, watch, ignore, stage, replace, history."""
