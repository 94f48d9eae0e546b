"""One module for each question that the page answers."""
