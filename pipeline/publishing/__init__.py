"""What is published: item and user tables, similar items, business rules, the database, checks, churn, explanations."""

__all__ = [
    "active_users", "attribute_values", "audiences", "boosts", "business_rules", "checks", "churn", "cold_users",
    "database", "drift", "explanation", "explore", "holdback", "item_columns", "item_conditions", "item_tables",
    "list_ids", "list_parts", "listed_users", "lists_by_attribute", "logical_hash", "on_request", "promotions",
    "reasons", "rule_files", "shared_lists", "similar_items", "trending", "user_lists", "wanted_lists",
]  # fmt: skip
