"""Which neighboring units are reconstructed jointly, and what a run will take."""
