"""Measurements of accuracy, exported files, coverage and speed, and the tables of the documents made from them.

Each folder is one benchmark: `python -m benchmarks.accuracy --help`, from the root of the repository.
"""
