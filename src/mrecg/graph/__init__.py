"""Capture a module as a graph, insert quantizers, and cut it into units."""
