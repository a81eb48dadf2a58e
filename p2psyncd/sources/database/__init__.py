"""SQLite databases that unmodified apps use, kept equal row by row."""
