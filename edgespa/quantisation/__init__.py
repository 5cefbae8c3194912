"""The mathematics of int8, for files of any format: ranges, what one scale cannot hold, rounding, biases."""
