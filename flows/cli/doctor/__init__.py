"""`nightrecs doctor`: is the installation sound, is the home, is the device; each line says how to mend it."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from flows.cli.doctor import home as home_checks
from flows.cli.doctor import installation
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


def doctor(options: Any) -> int:
    """Print the findings as they come; exit code 1 where one failed."""
    home = Home.resolve(options.home)
    findings = []
    for finding in examine(home, options.device):
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


def examine(home: Home, device: str = "none") -> Iterator[Finding]:
    """All checks, in order. One that stumbles is a failure itself, not the end of the others."""
    checks: dict[str, Check] = {
        **installation.CHECKS,
        **home_checks.CHECKS,
        "device": lambda _: parity(device),
    }
    for name, check in checks.items():
        try:
            for status, found, fix in check(home):
                yield Finding(status, name, found, fix)
        except Exception as error:
            yield Finding(FAIL, name, f"the check crashed: {type(error).__name__}: {error}", "report this")


def parity(name: str) -> Iterator[tuple[str, str, str]]:
    """Devices, then every family on the CPU and on the device; without an accelerator, on 1 and on all threads."""
    import torch

    from flows.cli.doctor import device_parity as run
    from pipeline.training.device import resolve_device

    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    yield OK, f"cpu{''.join(f', cuda:{i} {what}' for i, what in enumerate(cuda))}", ""
    if name == "none":
        return
    try:
        device = resolve_device(name)
    except (ValueError, RuntimeError) as error:
        yield FAIL, str(error).splitlines()[0], "doctor --device cpu; or mend the driver, or torch's build"
        return
    first, second = run.Side("cpu"), run.Side(str(device))
    if device.type == "cpu":
        first, second = run.Side("cpu", 1), run.Side("cpu", len(os.sched_getaffinity(0)))
        yield OK, f"no accelerator, so the CPU is compared with itself: {first} against {second}", ""
    else:
        yield OK, f"{first} against {second}", ""
    limits = (
        f"tolerance: one model's scores within {run.SAME_STATE:g} and {run.OVERLAP:.0%} of its top {run.K} the same; "
        f"fitted anew, {run.OVERLAP:.0%} the same (closed forms) or hits within {run.QUALITY:g} (others)"
    )
    yield OK, limits, ""
    yield from _compared(first, second)
    if device.type == "cuda":  # as nights fit there
        mixed = run.Side(str(device), precision="auto")
        yield OK, f"{first} against {mixed}", ""
        yield from _compared(first, mixed)


def _compared(first: Any, second: Any) -> Iterator[tuple[str, str, str]]:
    """A line a family."""
    from flows.cli.doctor import device_parity as run

    for result in run.compare(first, second):
        text = (
            f"{result.family:<12} scores differ by {result.score_difference:.1e}, top {run.K} "
            f"{result.overlap:.1%} the same; fitted anew {result.fit_overlap:.1%}, "
            f"hits differ by {result.fit_quality:.3f}"
        )
        fix = "" if result.passed else "use --set device=cpu until driver, torch and hardware are checked"
        yield OK if result.passed else FAIL, text, fix
