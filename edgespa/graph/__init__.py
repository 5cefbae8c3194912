"""The traced program: what belongs together in it, and how it is made smaller."""
