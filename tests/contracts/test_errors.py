"""Every error of the gallery and of the service has a row in the one table."""

import pytest

from gallery.errors import GalleryError
from service.errors import ERROR_TABLE, ServiceError, status_and_code


def family(ancestor):
    """A class and everything below it."""
    yield ancestor
    for child in ancestor.__subclasses__():
        yield from family(child)


LEAVES = [error for base in (GalleryError, ServiceError) for error in family(base) if error is not base]


@pytest.mark.parametrize("error", LEAVES, ids=lambda error: error.__name__)
def test_every_error_has_a_status_and_a_code(error):
    status, code = status_and_code(error)
    assert 400 <= status < 600 and code.replace("_", "").isalpha()


def test_no_row_stands_for_an_error_that_is_gone():
    assert set(ERROR_TABLE) <= set(LEAVES)


def test_a_class_outside_both_trees_has_no_row():
    with pytest.raises(KeyError, match="ZeroDivisionError has no row"):
        status_and_code(ZeroDivisionError)
