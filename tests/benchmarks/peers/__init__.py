"""Nightrecs and other libraries on the same rows, each in an environment of its own: `make bench-peers`."""
