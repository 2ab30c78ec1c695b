"""What is published: tables of items and users, similar items, business rules, SQL checks, churn and explanations."""

__all__ = ["business_rules", "checks", "churn", "explanation", "item_tables", "similar_items"]
