"""SQLite storage of shares, devices and events."""
