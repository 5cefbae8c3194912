"""Each command as one call; what a recipe needs is imported with it, and torch only where a model is opened."""
