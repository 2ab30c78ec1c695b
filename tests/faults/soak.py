"""`make soak`: many nights in a row, with data that grows, lines that break and faults that strike at random.

The promise is checked after each. At the end a night that does everything again, undisturbed, has to give the same hash.
`python -m tests.faults.soak --nights 30 --seed 1`
"""

import argparse
import contextlib
import io
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from flows.cli import main as main_of_nightrecs
from pipeline.core.fault_injection import ACTIONS, POINTS

from .ground import DATASET, WITH_GRADIENT, Ground, rows
from .killed import often_checkpointed

BROKEN = ("{u},{i},5", "{u},{i},five,{t}", ",{i},3,{t}", '{u},"{i},3,{t}', "{u},{i},NaN,{t}", "{u},{i},3,{t}000000", "")
STRUCK = 0.75
"""Share of nights that something happens to."""


class Soak:
    """One home, night after night."""

    def __init__(self, root: Path, seed: int):
        self.draw = random.Random(seed)
        self.ground = Ground(root / "soak", recipe=WITH_GRADIENT, source="max_reject_rate = 0.5")
        self.root, self.lines = root, [",".join(map(str, record)) for record in rows()]
        self.live: str | None = None
        self.seen: Counter[str] = Counter()

    def night(self, number: int) -> str:
        """Let the data grow, strike, check; what happened."""
        self._grow()
        fault = self._fault()
        if fault.startswith("SIG"):
            night = self.ground.start(before=often_checkpointed)
            time.sleep(self.draw.random() * 3)
            if night.process.is_alive():
                night.signal(signal.Signals[fault])
            ended = night.end(met=False)
        else:
            ended = self.ground.night(code=None, fault=fault, before=often_checkpointed)
        codes = _may_end(fault)
        assert ended.code in codes, f"{fault}: exit {ended.code}, not {sorted(codes)}: {ended.output[-800:]}"
        if ended.code == 1:
            assert "planted" in ended.output, f"{fault}: exit 1 by itself: {ended.output[-800:]}"
        live, ids = self.ground.promise(), self.ground.run_ids()
        assert live in (self.live, ids[-1] if ids else None), f"{fault}: {live} is live, before it was {self.live}"
        if ended.code == 0:
            assert live == ids[-1], f"{fault}: exit 0, and the night is not live"
        outcomes = [self.ground.record(n)["outcome"] for n in range(len(ids))]
        assert "running" not in outcomes[:-1], f"{fault}: nights before the last never ended: {outcomes}"
        published = [run_id for run_id, outcome in zip(ids, outcomes, strict=True) if outcome == "published"]
        assert live is None or live in published or live == ids[-1], f"{live} is live, its journal says otherwise"
        self.live = live
        self.seen[fault.split(":")[0] or "undisturbed"] += 1
        return f"night {number:>3}  {fault or 'undisturbed':<36} exit {ended.code:>4}  live {live}"

    def finish(self) -> str:
        """A night here, and one in a copy that has to do everything again, publish the same."""
        fresh = Ground(self.root / "fresh").copy_of(self.ground)
        shutil.rmtree(fresh.home.lake(DATASET))  # the same earlier nights, and nothing to go on from
        self.ground.night()
        fresh.night()
        here, there = self.ground.record(), fresh.record()
        assert self.ground.promise() == here["run_id"]
        assert here["champion"] == there["champion"], (here["champion"], there["champion"])
        assert here["logical_hash"] == there["logical_hash"], "another hash than undisturbed"
        home = self.ground.home
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            assert main_of_nightrecs(["--home", str(home.root), "gc", DATASET]) == 0
        leftovers = [p.name for p in (*home.generations(DATASET).glob(".*"), *home.lake(DATASET).glob("*/.*-*"))]
        assert not leftovers, f"gc left {leftovers}"
        assert self.ground.promise() == here["run_id"], "gc took too much"
        return str(here["logical_hash"])

    def _grow(self) -> None:
        """Some new rows, now and then broken ones between them."""
        for _ in range(self.draw.randrange(0, 12)):
            user, item, time_ = self.draw.randrange(60), self.draw.randrange(30), 1_100_000 + len(self.lines)
            self.lines.append(f"u{user},i{item},{self.draw.randint(1, 5)},{time_}")
        if self.draw.random() < 0.5:
            text = self.draw.choice(BROKEN).format(u="u1", i="i1", t=1_200_000)
            self.lines.insert(self.draw.randrange(len(self.lines)), text)
        text = "\n".join(["user,item,rating,t", *self.lines]) + "\n"
        (self.ground.source / "a.csv").write_text(text)

    def _fault(self) -> str:
        if self.draw.random() > STRUCK:
            return ""
        if self.draw.random() < 0.15:
            return self.draw.choice(["SIGTERM", "SIGINT"])
        action = self.draw.choices(ACTIONS, weights=[2, 1, 1])[0]
        return f"{self.draw.choice(POINTS)}:{action}@{self.draw.choice([1, 1, 1, 2, 3])}"


def _may_end(fault: str) -> set[int]:
    """Exit codes; 0 always, as a night may never come to the point, or end before the signal."""
    if fault.startswith("SIG"):
        number = signal.Signals[fault]
        return {0, 128 + number, -number}  # the last where it comes before the night can catch it
    return {0, *{"kill": [-signal.SIGKILL], "": []}.get(fault.partition("@")[0].rpartition(":")[2], [1])}


def main() -> int:
    """Nights until one breaks the promise, or all have kept it."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--nights", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="soak-") as place:
        soak = Soak(Path(place), options.seed)
        try:
            for number in range(1, options.nights + 1):
                print(soak.night(number), flush=True)
            digest = soak.finish()
        except AssertionError as error:
            print(f"FAIL, seed {options.seed}: {error}", flush=True)
            return 1
    minutes = (time.monotonic() - started) / 60
    struck = options.nights - soak.seen["undisturbed"]
    print(
        f"{options.nights} nights, {struck} struck by a fault, seed {options.seed}: the promise held after each, "
        f"the end is as undisturbed ({digest[:8]}); {minutes:.1f} minutes"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
