"""The calibration images' activations between units, and where they are stored."""
