"""Which model is published: leaderboard, incumbent, pairwise comparison and the gate."""

__all__ = ["comparison", "gate", "incumbent", "leaderboard"]
