"""What a run found out; nothing here needs torch."""
