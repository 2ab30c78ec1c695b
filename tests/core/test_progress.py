"""Who hears of progress: the listener of the context, and no other."""

import threading
from contextvars import copy_context

import pytest

from pipeline.core import progress


class Recorder(progress.ProgressListener):
    shows_epochs = True

    def __init__(self):
        self.events: list[object] = []

    def begin(self, stage):
        self.events.append(stage)

    def end(self):
        self.events.append("end")


def test_the_innermost_listener_hears_it_and_is_ended_whatever_happens():
    outer, inner = Recorder(), Recorder()
    with progress.listening(outer):
        with pytest.raises(ZeroDivisionError), progress.listening(inner):
            progress.listener().begin("clean")
            raise ZeroDivisionError
        assert progress.listener() is outer
    assert inner.events == ["clean", "end"] and outer.events == ["end"]
    assert not progress.listener().shows_epochs


def test_a_thread_without_the_context_has_no_progress_and_one_with_it_has():
    seen = []
    with progress.listening(Recorder()) as _:
        context = copy_context()
        for target in (
            lambda: seen.append(progress.listener().shows_epochs),
            lambda: context.run(lambda: seen.append(progress.listener().shows_epochs)),
        ):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
    assert seen == [False, True]
