"""What is published: item and user tables, similar items, business rules, the database, checks, churn, explanations."""

__all__ = [
    "active_users", "boosts", "business_rules", "checks", "churn", "database", "drift", "explanation", "explore",
    "holdback", "item_columns", "item_conditions", "item_tables", "list_ids", "logical_hash", "on_request",
    "promotions", "reasons", "shared_lists", "similar_items", "user_lists", "wanted_lists",
]  # fmt: skip
