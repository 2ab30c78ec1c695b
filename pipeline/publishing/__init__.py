"""What is published: item and user tables, similar items, business rules, the database, checks, churn, explanations."""

__all__ = [
<<<<<<< HEAD
    "boosts", "business_rules", "checks", "churn", "database", "explanation", "item_columns", "item_conditions",
    "item_tables", "logical_hash", "promotions", "reasons", "similar_items", "user_lists",
=======
    "business_rules", "checks", "churn", "database", "drift", "explanation", "item_tables", "logical_hash",
    "similar_items", "user_lists",
>>>>>>> wt-gate
]  # fmt: skip
