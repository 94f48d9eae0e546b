"""Measurements of accuracy, exported files, coverage and speed, and the tables of the documents made from them.

Each folder is one benchmark with one command line: `python -m benchmarks.accuracy --help`, from the root of the
repository. Results are in `results/`: one JSONL file per benchmark, sorted, in which recipes and environments are hashes
of entries in `recipes.jsonl` and `environments.jsonl` (`store.py`). What is in there already is not measured again; delete
its line to repeat it. Where only a new figure makes sense (`performance`), it replaces the old one.
"""
