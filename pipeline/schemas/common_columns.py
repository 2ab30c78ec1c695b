"""Columns that several tables have."""

from pipeline.schemas.table import INT, TEXT, Column

USER = Column(TEXT, "User id, exactly as in the source")
ITEM = Column(TEXT, "Item id, exactly as in the source")
RANK = Column(INT, "1 is the best")
RUN = Column(TEXT, "Night that wrote the row")
MODEL = Column(TEXT, "Label of the model in the recipe, or one that the gate adds: incumbent, popularity_floor")
