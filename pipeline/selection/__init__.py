"""Which model is published: leaderboard, incumbent, pairwise comparison and the gate."""

# pyright: reportUnsupportedDunderAll=false
__all__ = ["challenge", "comparison", "fit_cost", "gain", "gate", "incumbent", "leaderboard", "over_nights"]
