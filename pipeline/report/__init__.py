"""The report of a night: one HTML file that tells what happened, for people; it needs no network and no server."""
