"""From a program to a bundle: converters, quantisation, and the proof that each file computes what the program does."""
