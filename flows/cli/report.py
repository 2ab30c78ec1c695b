"""`nightrecs report`: the path of a night's report. It is written if it is missing or older than the journal."""

import json
import webbrowser
from argparse import Namespace

from pipeline.core.console import log
from pipeline.core.errors import UnreadableInput
from pipeline.core.paths import Home
from pipeline.core.suggest import nearest
from pipeline.datasets.names import dataset_name, unknown_dataset
from pipeline.storage import journal


def report(options: Namespace) -> None:
    """Print the path of the report of the newest night, or of `--run`."""
    home, dataset = Home.resolve(options.home), dataset_name(options.dataset)
    nights = journal.run_ids(home, dataset)
    if not nights:
        raise UnreadableInput(unknown_dataset(home, dataset))
    run_id = options.run or nights[-1]
    if run_id not in nights:
        raise UnreadableInput(
            f"there is no night {run_id!r} of {dataset}{nearest(run_id, nights)}; `nightrecs runs {dataset}` lists them"
        )
    path = home.report(dataset, run_id)
    record = home.journal(dataset) / run_id / "run.json"
    if not path.is_file() or path.stat().st_mtime_ns < record.stat().st_mtime_ns:
        from pipeline.reporting.html import page  # imports altair, which takes a second

        path = page.write(home, dataset, run_id)
    outcome = journal.read_run(home, dataset, run_id)["outcome"]
    print(json.dumps({"run_id": run_id, "outcome": outcome, "report": str(path)}) if options.json else path)
    if options.open and not webbrowser.open(path.as_uri()):
        log.info("no browser could be started; open the file yourself")
