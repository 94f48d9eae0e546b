"""From a model and images to a prepared model: a graph with quantizers, cut into units."""
