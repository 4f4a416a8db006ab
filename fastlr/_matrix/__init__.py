"""Rules that see a tensor as a matrix: one module for each, and the driver, which knows none of them by name."""
