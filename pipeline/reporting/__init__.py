"""Output for people about a night: the HTML report, plots, the digest and notifications."""

__all__ = ["data_profile", "formatting", "html", "markdown", "night", "notifications", "plots", "published_tables"]
