"""Device, precision, threads and memory of a run."""

import os

import torch

from pipeline.core.memory import parse_bytes, total_memory


def resolve_device(name: str = "auto") -> torch.device:
    """The device: `auto` is CUDA if available, else the CPU; other names are torch's. ValueError: it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device = {name!r}, but torch {torch.__version__} sees no CUDA device; use 'auto' or 'cpu'")
    return device


def autocast(device: torch.device, precision: str = "auto") -> torch.autocast:
    """Mixed precision: `auto` is bfloat16 on CUDA hardware that supports it, else float32.

    On a CPU without AMX `bf16` is many times slower than float32, so `auto` never selects it on CPUs.
    """
    if precision not in ("auto", "fp32", "bf16"):
        raise ValueError(f"precision = {precision!r}: use auto, fp32 or bf16")
    native = device.type == "cuda" and torch.cuda.is_bf16_supported()
    enabled = precision == "bf16" or (precision == "auto" and native)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def set_threads(threads: int, processes: int = 1) -> None:
    """Limit torch's threads to `threads`; 0 means one per core, divided among `processes`."""
    torch.set_num_threads(threads or max((os.cpu_count() or 1) // processes, 1))


def on_device(device: torch.device) -> str:
    """The kind of device for the keys of models: results are equal only within a kind."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def memory_budget(limit: str | None, device: torch.device) -> int:
    """Bytes that one fit may allocate: `limit`, e.g. "4GB"; by default half of the RAM, or what is free on CUDA."""
    if limit is not None:
        return parse_bytes(limit)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return total_memory() // 2
