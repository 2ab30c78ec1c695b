"""Which model is published: leaderboard, incumbent, pairwise comparison and the gate."""

# pyright: reportUnsupportedDunderAll=false
__all__ = [
    "challenge", "comparison", "cost", "fit_cost", "gain", "gate", "incumbent", "leaderboard", "list_changes",
    "over_nights",
]  # fmt: skip
