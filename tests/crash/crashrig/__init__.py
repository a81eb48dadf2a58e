"""The crash rig: real daemons on real folders, killed at chosen and random steps, then held against what was written."""
