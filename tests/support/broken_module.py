"""Can't be imported."""

raise RuntimeError("planted")
