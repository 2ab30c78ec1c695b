"""What is published: item and user tables, similar items, business rules, the database, checks, churn, explanations."""

__all__ = [
    "business_rules", "checks", "churn", "database", "drift", "explanation", "item_tables", "logical_hash",
    "similar_items", "user_lists",
]  # fmt: skip
