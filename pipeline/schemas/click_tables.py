"""The table of clicks on published lists."""

from pipeline.schemas.table import BIG, FLOAT, INT, TEXT, Column, Table

REALISED_CLICKS = Table(
    "realised_clicks", "How often items of published lists were clicked where they were shown, from `[impressions]`",
    ("run_id", "list", "source", "place"),
    {"run_id": Column(TEXT, "Night that published the lists"),
     "list": Column(TEXT, "NAME of the list, or attribute=value; empty: the default list"),
     "source": Column(TEXT, "Source of the row: model, fallback, explore, holdback, promoted; all: every source"),
     "place": Column(INT, "Rank of the item in the list; 0: every place"),
     "shown": Column(BIG, "Impressions: rows of the file that count"),
     "clicked": Column(BIG, "Those that were clicked"),
     "rate": Column(FLOAT, "clicked / shown"),
     "ci_low": Column(FLOAT, "Lower end of Wilson's 95 % interval, which takes impressions as independent"),
     "ci_high": Column(FLOAT, "Upper end of it"),
     "measured_by": Column(TEXT, "Night that counted them")},
    volatile=("run_id", "measured_by"),
)  # fmt: skip
