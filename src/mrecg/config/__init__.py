"""The choices of a user; nothing here needs torch."""
