"""The steps of `make gpu-check`: each measures one thing on random data and returns its results."""

import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from flows.cli.doctor import device_parity
from pipeline.evaluation import ranking_metrics, segments
from pipeline.evaluation.eval_task import EvalTask
from pipeline.models import MODELS
from pipeline.models.ops import history_products
from pipeline.ranking.ranks import holdout_ranks, top_k
from pipeline.training.context import FitContext
from pipeline.training.interactions import Interactions

Found = dict[str, Any]
ML1M = 6040, 3706, 900_000
ML20M = 138_000, 27_000, 17_700_000
GOWALLA = 29_858, 40_981, 1_000_000
CUTOFFS = (5, 10, 20)
DEVICE_TESTS = (
    "tests/conformance/test_families.py",
    "tests/evaluation/test_ranking_metrics.py",
    "tests/training/test_step_graphs.py",
)
"""Files of tests with the marker `device` that need one card and no optional package."""


@dataclass(frozen=True)
class Step:
    """One measurement and its time limit."""

    run: Callable[[torch.device, bool], Found]
    seconds: int = 60


def drawn(shape: tuple[int, int, int], device: torch.device, small: bool, seed: int = 0) -> Interactions:
    """Random distinct rows, about as many as `shape` (users, items, rows), with realistic skew of users and items."""
    n_users, n_items, n = (max(size // 40, 30) for size in shape) if small else shape
    random = torch.Generator(device).manual_seed(seed)

    def skewed(size: int, power: float, n: int) -> torch.Tensor:
        ends = torch.cumsum((torch.arange(size, device=device).double() + 10) ** -power, 0)  # (size,)
        points = torch.rand(n, device=device, dtype=torch.float64, generator=random) * ends[-1]
        return torch.searchsorted(ends, points).clamp(max=size - 1)

    keys = torch.unique(skewed(n_users, 0.6, 2 * n) * n_items + skewed(n_items, 0.8, 2 * n))
    keys = keys[torch.randperm(len(keys), device=device, generator=random)[:n].sort().values]
    users, items = keys // n_items, keys % n_items
    vectors = [torch.randn(size, 4, device=device, generator=random) for size in (n_users, n_items)]
    liking = (vectors[0][users] * vectors[1][items]).sum(1)
    times = torch.randint(10**12, (len(keys),), device=device, generator=random)
    order = torch.argsort(times)
    order = order[torch.argsort(users[order], stable=True)]
    stars = (3.5 + liking / 2).round().clamp(1, 5)
    return Interactions(users[order], items[order], n_users, n_items, stars[order], times[order])


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def fresh(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak(device: torch.device) -> float | None:
    return torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None


def fit(family: str, shape: tuple[int, int, int] = ML1M, epochs: int = 4, **keys: Any) -> Callable[..., Found]:
    """Epochs of a gradient family, or of ials: the fastest one after the first, then one with a profiler."""

    def run(device: torch.device, small: bool) -> Found:
        train = drawn(shape, device, small)
        config = MODELS[family].Config.model_validate(keys)
        fresh(device)
        times: list[float] = [time.perf_counter()]

        def log(epoch: int, values: dict[str, float]) -> None:
            synchronize(device)
            times.append(time.perf_counter())

        context = FitContext(device, "auto", log=log, epochs=epochs)
        context.memory = torch.cuda.mem_get_info()[0] if device.type == "cuda" else None
        MODELS[family](config, train.n_users, train.n_items).fit(train, context)
        took = [end - start for start, end in pairwise(times)]
        epoch = min(took[1:])
        found: Found = {"epoch_s": epoch, "first_epoch_s": took[0], "rows": len(train), "peak_gib": peak(device)}
        found["rows_a_second"] = len(train) / epoch  # positives; negatives are not counted
        if hasattr(config, "batch_size"):
            found |= profiled(family, config, train, device, epoch)
        return found

    return run


def batch_of(family: str, config: Any, n: int) -> int:
    size = config.batch_size // (1 + config.n_negatives) if family == "ncf" else config.batch_size
    return min(max(size, 1), n) if size else n


def profiled(family: str, config: Any, train: Interactions, device: torch.device, epoch_s: float) -> Found:
    """Kernels, launches and synchronisations per step, over one epoch of the first users."""
    rows_of = {"sasrec", "multvae", "recvae"}  # steps go over users
    n_users, n = train.n_users, len(train)
    batch = batch_of(family, config, n_users if family in rows_of else n)
    steps = -(-(n_users if family in rows_of else n) // batch)
    found: Found = {"batch": batch, "step_ms": 1000 * epoch_s / steps}
    if device.type != "cuda":
        return found
    part = train if family in rows_of or steps <= 200 else train.select(torch.arange(n, device=device) < 200 * batch)
    steps_of_part = -(-(n_users if family in rows_of else len(part)) // batch)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    profiler = torch.profiler.profile(activities=activities, acc_events=True)

    def log(epoch: int, values: dict[str, float]) -> None:
        synchronize(device)
        if epoch == 2:
            profiler.start()
        if epoch == 3:
            profiler.stop()

    context = FitContext(device, "auto", log=log, epochs=3, memory=torch.cuda.mem_get_info()[0])
    if family == "lightgcn":
        config = config.model_copy(update={"epochs": 3})
    MODELS[family](config, part.n_users, part.n_items).fit(part, context)
    with tempfile.TemporaryDirectory() as folder:
        profiler.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(f"{folder}/trace.json").read_text())["traceEvents"]
    kernels = sum(e["dur"] for e in events if e.get("cat") in ("kernel", "gpu_memset", "gpu_memcpy")) / 1000
    calls = [e["name"] for e in events if e.get("cat") in ("cuda_runtime", "cuda_driver")]
    launches = sum("Launch" in name for name in calls)
    syncs = sum("Synchronize" in name and "Device" not in name for name in calls)
    found["kernels_ms"] = kernels / steps_of_part
    found["kernels"] = round(sum(e.get("cat") == "kernel" for e in events) / steps_of_part, 1)
    found["busy"] = found["kernels_ms"] / found["step_ms"]
    found |= {"launches": round(launches / steps_of_part, 2), "syncs": round(syncs / steps_of_part, 3)}
    return found


def whole_fit(family: str, shape: tuple[int, int, int] = ML1M, **keys: Any) -> Callable[..., Found]:
    """Seconds of one fit with the family's defaults, without validation."""

    def run(device: torch.device, small: bool) -> Found:
        train = drawn(shape, device, small)
        config = MODELS[family].Config.model_validate(keys)
        fresh(device)
        seconds = []
        for _ in range(2):  # the first loads libraries
            synchronize(device)
            started = time.perf_counter()
            model = MODELS[family](config, train.n_users, train.n_items)
            model.fit(train, FitContext(device, "auto"))
            synchronize(device)
            seconds.append(time.perf_counter() - started)
            del model
        return {"fit_s": min(seconds), "first_fit_s": seconds[0], "rows": len(train), "peak_gib": peak(device)}

    return run


def lists(device: torch.device, small: bool) -> Found:
    """Top 10 for 138 k users and 27 k items by dot products of 64 numbers, with the users' rows masked."""
    train = drawn(ML20M, device, small)
    model = MODELS["mf"](MODELS["mf"].Config(), train.n_users, train.n_items).to(device).eval()
    users, history = torch.arange(train.n_users, device=device), train.history()
    x, q = model.user_vectors(), model.item_vectors()
    fresh(device)
    took = repeated(device, lambda: top_k(model, users, history, history, 10))
    out = torch.empty(8192, len(q), device=device)
    product = repeated(device, lambda: [torch.mm(part, q.T, out=out[: len(part)]) for part in x.split(8192)])
    got = top_k(model, users[:2000], history[users[:2000]], history[users[:2000]], 10)
    with torch.no_grad():
        scores = model.score(users[:2000], history[users[:2000]]).double()
    rows = history[users[:2000]]
    scores[rows.rows, rows.items] = -torch.inf
    best = scores.topk(10, dim=1).values
    same = float((scores.gather(1, got.items) - best).abs().max())
    return {"top_10_s": took, "product_alone_s": product, "worse_than_best": same, "peak_gib": peak(device)}


def scores(device: torch.device, small: bool) -> Found:
    """Top 10 of EASE for 138 k users and 27 k items: rows of weights are summed, or multiplied by dense histories."""
    train = drawn(ML20M, device, small)
    model = MODELS["ease"](MODELS["ease"].Config(max_side=50_000), train.n_users, train.n_items).to(device).eval()
    model.weights = torch.randn(train.n_items, train.n_items, device=device)
    users, history = torch.arange(train.n_users, device=device), train.history()
    fresh(device)
    took = repeated(device, lambda: top_k(model, users, history, history, 10), 3)
    some = history[users[:2000]]
    summed = history_products.times(some, model.weights)
    dense = some.dense() @ model.weights
    part = repeated(device, lambda: history_products.times(some, model.weights))
    dense_part = repeated(device, lambda: some.dense() @ model.weights)
    return {
        "top_10_s": took, "summed_2000_s": part, "dense_2000_s": dense_part,
        "largest_difference": float((summed - dense).abs().max()), "peak_gib": peak(device),
    }  # fmt: skip


def little_memory(device: torch.device, small: bool) -> Found:
    """Lists, ranks and a fit on a card of which only a part may be used: they go on in smaller parts."""
    if device.type != "cuda":
        return {"skipped": "only a card runs out of memory here"}
    train = drawn(ML20M, device, small)
    held = torch.rand(len(train), generator=torch.Generator().manual_seed(0)).to(device) < 0.02
    model = MODELS["mf"](MODELS["mf"].Config(), train.n_users, train.n_items).to(device).eval()
    users, history, holdout = torch.arange(train.n_users, device=device), train.history(), train.select(held).history()
    whole = top_k(model, users, history, history, 10)
    ranks = holdout_ranks(model, users, history, None, holdout, 10)
    fresh(device)
    used = torch.cuda.memory_reserved()
    total = torch.cuda.get_device_properties(device).total_memory
    found: Found = {"limit_gib": (used + 700 * 2**20) / 2**30}
    try:
        torch.cuda.set_per_process_memory_fraction((used + 700 * 2**20) / total)
        lists_again = top_k(model, users, history, history, 10)
        ranks_again = holdout_ranks(model, users, history, None, holdout, 10)
        found["equal"] = torch.equal(whole.items, lists_again.items) and torch.equal(ranks.ranks, ranks_again.ranks)
        del lists_again, ranks_again, whole, ranks
        fresh(device)
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 6 * 2**30) / total)
        config = MODELS["multvae"].Config(batch_size=20_000, epochs=1)
        MODELS["multvae"](config, train.n_users, train.n_items).fit(train, FitContext(device, "auto", epochs=1))
        found["fit_peak_gib"] = peak(device)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    return found if found["equal"] else {**found, "failed": "lists or ranks differ"}


def repeated(device: torch.device, work: Callable[[], Any], times: int = 4) -> float:
    """Seconds of the fastest run, the first one not counted."""
    seconds = []
    for _ in range(times):
        synchronize(device)
        started = time.perf_counter()
        work()
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def evaluation(shape: tuple[int, int, int]) -> Callable[..., Found]:
    """Ranks and all records of the protocol `full`, as a night evaluates one model on one split."""

    def run(device: torch.device, small: bool) -> Found:
        everything = drawn(shape, device, small)
        held = torch.rand(len(everything), generator=torch.Generator().manual_seed(0)).to(device) < 0.1
        train, test = everything.select(~held), everything.select(held)
        model = MODELS["mf"](MODELS["mf"].Config(), train.n_users, train.n_items).to(device).eval()
        users, history, holdout = torch.arange(train.n_users, device=device), train.history(), test.history()
        task = EvalTask(users, history, history, holdout, train.item_counts(), history)
        scope = ranking_metrics.Scope("mf", "test")

        def ranks() -> Any:
            return holdout_ranks(model, users, history, history, holdout, max(CUTOFFS), fallback=task.popular)

        def records() -> Any:
            made = ranking_metrics.summarise(found, CUTOFFS, scope, popular=task.popular)
            made += segments.by_segment(found, task, CUTOFFS, scope)
            return made + segments.beyond_accuracy(found, task, CUTOFFS, scope)

        found = ranks()
        started = time.perf_counter()
        n = len(records())
        first = time.perf_counter() - started
        return {
            "ranks_s": repeated(device, ranks),
            "records_s": repeated(device, records),
            "first_records_s": first,
            "records": n,
        }

    return run


def parity_in(precision: str) -> Callable[..., Found]:
    """Compare every family on the CPU and on the device in a precision; fails if one differs too much."""

    def run(device: torch.device, small: bool) -> Found:
        other = replace(device_parity.Side(device.type), precision=precision)
        wrong = [result for result in device_parity.compare(device_parity.Side("cpu"), other) if not result.passed]
        return {"failed": str(wrong)} if wrong else {"families": len(MODELS), "passed": True}

    return run


def device_tests(device: torch.device, small: bool) -> Found:
    """Run the tests with the marker `device`."""
    several = ["-n", "4"] if find_spec("xdist") else []
    command = [sys.executable, "-m", "pytest", "-q", "-m", "device", "-p", "no:cacheprovider", *several, *DEVICE_TESTS]
    done = subprocess.run(command, capture_output=True, text=True)
    output = done.stdout.strip().splitlines()
    last = output[-1] if output else done.stderr[-300:]
    if done.returncode:
        return {
            "failed": last,
            "tests": [line[:300] for line in output if line.startswith(("FAILED", "ERROR", "E  "))][:40],
        }
    return {"passed": last}


STEPS: dict[str, Step] = {
    "mf": Step(fit("mf")),
    "ncf": Step(fit("ncf")),
    "pmf": Step(fit("pmf")),
    "lightgcn": Step(fit("lightgcn")),
    "sasrec": Step(fit("sasrec")),
    "multvae": Step(fit("multvae")),
    "recvae": Step(fit("recvae", epochs=5)),
    "mf 20m": Step(fit("mf", ML20M, epochs=3)),
    "ials 64 20m": Step(fit("ials", ML20M, epochs=4, embedding_dim=64)),
    "ials 256 20m": Step(fit("ials", ML20M, epochs=4, embedding_dim=256)),
    "ease": Step(whole_fit("ease")),
    "ease 27k items": Step(whole_fit("ease", ML20M, max_side=50_000)),
    "ease 41k items": Step(whole_fit("ease", GOWALLA, max_side=50_000), 90),
    "slim": Step(whole_fit("slim")),
    "item_knn": Step(whole_fit("item_knn")),
    "graph_filter": Step(whole_fit("graph_filter")),
    "rp3beta": Step(whole_fit("rp3beta")),
    "bpmf": Step(whole_fit("bpmf")),
    "popularity": Step(whole_fit("popularity")),
    "lists": Step(lists),
    "lists of ease": Step(scores),
    "little memory": Step(little_memory),
    "evaluate 1m": Step(evaluation(ML1M)),
    "evaluate 41k": Step(evaluation(GOWALLA)),
    "parity fp32": Step(parity_in("fp32"), 90),
    "parity bf16": Step(parity_in("bf16"), 90),
    "parity auto": Step(parity_in("auto"), 90),
    "device tests": Step(device_tests, 240),
}
"""By name, quick ones first."""
