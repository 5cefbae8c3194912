"""Out, to go on elsewhere: the compact network for PyTorch, as a module, an exported program, or Python source."""
