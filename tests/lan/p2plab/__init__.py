"""A laboratory for real daemons: hosts in network namespaces on one bridge, devices on them, trees to sync."""
