"""`nightrecs doctor`: checks the installation, the home and the device. Each finding has a fix."""

import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from flows.cli.doctor import home as home_checks
from flows.cli.doctor import installation, shared_home
from pipeline.core.paths import Home

OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    status: str
    check: str
    found: str
    fix: str = ""


Check = Callable[[Home], Iterator[tuple[str, str, str]]]


def doctor(options: Namespace) -> int:
    """Print each finding; exit code 1 if a check failed."""
    home = Home.resolve(options.home)
    findings = []
    for finding in examine(home, options.device, options.scale):
        findings.append(finding)
        if not options.json:
            print(f"{finding.status:<5} {finding.check:<12} {finding.found}", flush=True)
            if finding.fix:
                print(f"{'':<18} fix: {finding.fix}", flush=True)
    failed = sum(finding.status == FAIL for finding in findings)
    warned = sum(finding.status == WARN for finding in findings)
    if options.json:
        json.dump([asdict(finding) for finding in findings], sys.stdout, ensure_ascii=False, indent=1)
        print()
    else:
        print(f"\n{len(findings)} checks, {failed} failed, {warned} warnings", file=sys.stderr)
    return 1 if failed else 0


def examine(home: Home, device: str = "none", scale: bool = False) -> Iterator[Finding]:
    """Run all checks in order. A check that crashes counts as failed; the others still run.

    `scale`: also whether several hosts may use the home.
    """
    checks: dict[str, Check] = {
        **installation.CHECKS,
        **home_checks.CHECKS,
        **(shared_home.CHECKS if scale else {}),
        "device": lambda _: parity(device),
    }
    for name, check in checks.items():
        try:
            for status, found, fix in check(home):
                yield Finding(status, name, found, fix)
        except Exception as error:
            yield Finding(FAIL, name, f"the check crashed: {type(error).__name__}: {error}", "report this")


def parity(name: str) -> Iterator[tuple[str, str, str]]:
    """Compare every family on the CPU and on the device; without an accelerator, with one thread and with all."""
    import torch

    from flows.cli.doctor.device_parity import OVERLAP, QUALITY, SAME_STATE, K, Side
    from pipeline.training.device import resolve_device

    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    yield OK, f"cpu{''.join(f', cuda:{i} {what}' for i, what in enumerate(cuda))}", ""
    if name == "none":
        return
    try:
        device = resolve_device(name)
    except (ValueError, RuntimeError) as error:
        yield FAIL, str(error).splitlines()[0], "doctor --device cpu; or repair the driver or torch's build"
        return
    first, second = Side("cpu"), Side(str(device))
    if device.type == "cpu":
        first, second = Side("cpu", 1), Side("cpu", len(os.sched_getaffinity(0)))
        yield OK, f"no accelerator, so the CPU is compared with itself: {first} against {second}", ""
    else:
        yield OK, f"{first} against {second}", ""
    limits = (
        f"tolerance: one model's scores within {SAME_STATE:g} and {OVERLAP:.0%} of its top {K} the same; "
        f"fitted again, {OVERLAP:.0%} the same (closed forms) or hits within {QUALITY:g} (others)"
    )
    yield OK, limits, ""
    yield from _compared(first, second)
    if device.type == "cuda":  # as nights fit there
        mixed = Side(str(device), precision="auto")
        yield OK, f"{first} against {mixed}", ""
        yield from _compared(first, mixed)


def _compared(first: Any, second: Any) -> Iterator[tuple[str, str, str]]:
    """One line per family."""
    from flows.cli.doctor.device_parity import K, compare

    for result in compare(first, second):
        text = (
            f"{result.family:<12} scores differ by {result.score_difference:.1e}, top {K} "
            f"{result.overlap:.1%} the same; fitted again {result.fit_overlap:.1%}, "
            f"hits differ by {result.fit_quality:.3f}"
        )
        fix = "" if result.passed else "use --set device=cpu until driver, torch and hardware are checked"
        yield OK if result.passed else FAIL, text, fix
