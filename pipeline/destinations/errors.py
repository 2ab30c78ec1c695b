"""Errors of destinations. Their messages have no credentials and no values of the tables."""

from pipeline.storage.file_stores import StoreDown, StoreError


class NotDelivered(StoreError):
    """A destination can't take the tables. Trying again tonight would not help."""


class NotNow(NotDelivered, StoreDown):
    """A destination does not answer, or readers hold its tables: trying again may help."""
