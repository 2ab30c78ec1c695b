"""Top-N lists and ranks. All lists come from `ranks.top_k`, which masks, applies rules and breaks ties."""

from typing import Any

__all__ = ["joint_ranks", "pruned_topk", "ranks", "recommend", "sampled_candidates", "servable", "top_k"]


def __getattr__(name: str) -> Any:
    """`top_k`, which the code of registered models imports from here. Torch is imported only when it is asked for."""
    if name == "top_k":
        from pipeline.ranking.ranks import top_k

        return top_k
    raise AttributeError(name)
