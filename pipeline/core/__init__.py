"""What every package may use: errors, file operations, paths, seeds, bootstrap, progress, redaction, faults."""

__all__ = [
    "bootstrap",
    "child_processes",
    "errors",
    "fault_injection",
    "filesystem",
    "paths",
    "progress",
    "redaction",
    "seeding",
    "stage_call",
    "suggest",
    "terminal",
]
