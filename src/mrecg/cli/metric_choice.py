"""A metric of the caller's, by name."""

from mrecg.errors import DataError
from mrecg.metrics import Metric
from mrecg.paper.networks.lookup import import_own

__all__ = ["find_metric"]


def find_metric(name: str) -> Metric:
    """Return the metric that `package:function` names: a function, an object, or a class that is made without arguments.

    Raises:
        DataError: it cannot be imported or made.
    """
    module, _, attribute = name.partition(":")
    try:
        found = getattr(import_own(module), attribute)
        return found() if isinstance(found, type) else found
    except (Exception, SystemExit) as error:  # other people's code may raise anything
        raise DataError(
            f"The metric '{name}' cannot be made: {type(error).__name__}: {error}; give package:function."
        ) from error
