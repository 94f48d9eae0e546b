"""Numbers: integer grids, ranges, learned rounding, learned activation steps, losses."""
