"""Files that other programs run, and the proof that they compute what was simulated."""
