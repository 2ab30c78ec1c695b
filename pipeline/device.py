"""Where and in which precision to compute; resolved once a run."""

import os

import torch


def resolve_device(name: str = "auto") -> torch.device:
    """`auto` is CUDA where there is one, else the CPU; anything else is what torch calls it."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device = {name!r}, but torch {torch.__version__} sees no CUDA device; use 'auto' or 'cpu'"
        )
    return device


def autocast(device: torch.device, precision: str = "auto") -> torch.autocast:
    """Mixed precision where the hardware has it: `auto` is bfloat16 on CUDA that supports it, else float32.

    `bf16` on a CPU without AMX is many times slower than float32, so `auto` never picks it there.
    """
    if precision not in ("auto", "fp32", "bf16"):
        raise ValueError(f"precision = {precision!r}: use auto, fp32 or bf16")
    native = device.type == "cuda" and torch.cuda.is_bf16_supported()
    enabled = precision == "bf16" or (precision == "auto" and native)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def set_threads(threads: int) -> None:
    """Limit torch's threads to `threads`; 0 leaves one a core."""
    torch.set_num_threads(threads or os.cpu_count() or 1)


def on_device(device: torch.device) -> str:
    """The kind of device as it enters the keys of models: results are the same only within a kind."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
