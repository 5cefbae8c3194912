"""This machine: files that are whole or not there, processes of our own, a quiet terminal, a good end."""
