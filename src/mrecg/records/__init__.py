"""Results of a run as data; nothing here needs torch."""
