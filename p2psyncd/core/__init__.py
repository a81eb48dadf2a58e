"""The pure heart: versions, items, knowledge, summaries and the decision for one item. No I/O, no clock."""
