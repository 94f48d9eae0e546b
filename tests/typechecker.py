"""The run-time check of annotations; an int may stand for a float, as in static typing."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
