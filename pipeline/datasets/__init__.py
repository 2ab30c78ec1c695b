"""The data sets: one TOML each, and the built-in sample."""
