"""The tests; imported before the library is, so that its types are checked the quick way."""

from tests.typechecks import check_types_quickly

check_types_quickly()
