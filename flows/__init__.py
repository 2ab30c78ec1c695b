"""What runs, and how people start it; the only importers of Prefect."""
