"""Errors of destinations. Their messages have no credentials and no values of the tables."""


class NotDelivered(Exception):
    """A destination can't take the tables. Trying again tonight would not help."""


class NotNow(NotDelivered):
    """A destination does not answer, or readers hold its tables: trying again may help."""
