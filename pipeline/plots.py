"""Pictures of a night, as PNG files."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def training_curve(info: dict[str, Any], path: Path) -> Path:
    """Loss and, where it was measured, the figure on valid, by epoch."""
    history = info["history"]
    epochs = [row["epoch"] for row in history]
    names = [name for name in history[0] if name != "epoch"]
    figure, axes = plt.subplots(1, len(names), figsize=(4.5 * len(names), 3.2), squeeze=False, layout="constrained")
    for axis, name in zip(axes[0], names, strict=True):
        axis.plot(epochs, [row.get(name) for row in history], marker="o", markersize=3)
        axis.set(xlabel="epoch", ylabel=name)
        if info.get("best_epoch"):
            axis.axvline(info["best_epoch"], color="grey", linestyle=":", label="kept")
            axis.legend()
    figure.suptitle(f"{info['label']} ({info['family']})")
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
