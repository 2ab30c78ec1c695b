"""Shared by every package: errors, file operations, paths, seeds, bootstrap, logging, progress, redaction, faults."""

# pyright: reportUnsupportedDunderAll=false
__all__ = [
    "bootstrap",
    "child_processes",
    "code_version",
    "collector",
    "console",
    "errors",
    "fault_injection",
    "filesystem",
    "memory",
    "mounts",
    "paths",
    "progress",
    "redaction",
    "run_ids",
    "seeding",
    "serial_means",
    "shares",
    "spread",
    "stage_call",
    "suggest",
    "targets",
    "terminal",
]
