"""Time on a machine: a stopwatch, and the density that meets a budget."""
