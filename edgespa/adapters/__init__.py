"""Adapters: small trained changes of frozen weights, and the program that carries them."""
