"""A base, what a task adds to it, and the files that hold it."""
