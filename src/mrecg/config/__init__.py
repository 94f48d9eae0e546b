"""What a user chooses; nothing here needs torch."""
