"""Accuracy against seconds, with other tools for post-training quantization."""
