"""The report page: from the record of a run, or of several, to one file that a browser shows."""
