"""Why a row was kept or dropped: the values of `row_ledger.reason`."""

from enum import StrEnum


class Reason(StrEnum):
    """Why a row was kept or dropped. Every row of a stage has exactly one reason; `kept` rows go to the next stage."""

    KEPT = "kept"
    # ingest
    COMMENT = "comment"
    REPEATED_HEADER = "repeated_header"
    EMPTY_LINE = "empty_line"
    TOO_FEW_FIELDS = "too_few_fields"
    TOO_MANY_FIELDS = "too_many_fields"
    BROKEN_QUOTE = "broken_quote"
    BAD_ENCODING = "bad_encoding"
    BAD_JSON = "bad_json"
    NESTED_VALUE = "nested_value"
    LINE_TOO_LONG = "line_too_long"
    EMPTY_USER = "empty_user"
    EMPTY_ITEM = "empty_item"
    ID_TOO_LONG = "id_too_long"
    RATING_NOT_A_NUMBER = "rating_not_a_number"
    RATING_NOT_FINITE = "rating_not_finite"
    TIMESTAMP_UNREADABLE = "timestamp_unreadable"
    TIMESTAMP_OUT_OF_RANGE = "timestamp_out_of_range"
    FORGOTTEN = "forgotten"
    AFTER_AS_OF = "after_as_of"
    # clean
    UNKNOWN_EVENT = "unknown_event"
    WITHDRAWAL = "withdrawal"
    WITHDRAWN = "withdrawn"
    QUANTITY_UNREADABLE = "quantity_unreadable"
    QUANTITY_NOT_POSITIVE = "quantity_not_positive"
    OVER_DAILY_CAP = "over_daily_cap"
    EVENT_NOT_LEARNT = "event_not_learnt"
    DUPLICATE = "duplicate"
    KEEP_IF = "keep_if"
    USER_NOT_SAMPLED = "user_not_sampled"
    BELOW_MIN_INTERACTIONS = "below_min_interactions"
    # impressions
    NOT_SHOWN = "not_shown"
    UNKNOWN_LIST = "unknown_list"
    NOT_IN_LIST = "not_in_list"
    # split
    COLD_IN_HOLDOUT = "cold_in_holdout"
    NOT_IN_PUBLISHED_SPLIT = "not_in_published_split"


NO_ROWS = (Reason.COMMENT, Reason.REPEATED_HEADER)
"""Lines that are no rows: comments with the lines before the header, and headers of files that were joined."""
LEFT_OUT = (Reason.FORGOTTEN, Reason.AFTER_AS_OF, *NO_ROWS)
"""Reasons that ingest leaves lines out which are no rejects: valid rows of a forgotten user or after the time of a
replay, and lines that are no rows."""
