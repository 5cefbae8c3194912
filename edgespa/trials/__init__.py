"""A search over settings: what may vary, which trials go on, what is best, and its record on disk; without torch."""
