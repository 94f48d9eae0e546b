"""Many runs: the cells of a grid, one after the other, on a Ray cluster, or as a Slurm array."""
