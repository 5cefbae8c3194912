"""What was found out about data and models, as plain values that are written to a file and read again; no torch."""
