"""Which bits where: the harm of single units, widths that fit a budget, and the cheapest recipe within a drop of accuracy."""
