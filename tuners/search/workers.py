"""Several processes on one price study, through its storage.

A worker loads the model, opens the study by name and takes trials until the number asked for is claimed. With
more than one process the order of trials depends on timing: a seed no longer reproduces the study.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from profiles.errors import AdvisorError, RunFailed
from tuners.child import child_main, run_child
from tuners.events import Emit, Event, Message, TrialFinished
from tuners.search.schema import SearchSpec
from tuners.search.setup import Setup
from tuners.search.study import PlanSearch
from tuners.search.trials import Trials, fail_abandoned, finished, open_storage


@contextlib.contextmanager
def helping(spec: SearchSpec, search: PlanSearch, emit: Emit) -> Iterator[None]:
    """Start the further workers, let the caller work, then see to it that every trial is finished.

    A worker that dies costs its running trial, which is marked failed and made up for here.
    """
    count = spec.settings.workers - 1
    if count < 1 or finished(search.prices) >= search.price_trials:
        yield
        return
    search.seed_trials()
    stop = threading.Event()

    def passed_on(event: Event) -> None:
        if isinstance(event, (TrialFinished, Message)):
            emit(event)

    def help_out(number: int) -> None:
        try:
            run_child(
                "tuners.search.workers",
                spec.model_copy(update={"study_name": search.name}),
                emit=passed_on,
                log_path=spec.run_dir / "logs" / f"search-worker-{number}.log",
                stage="search",
                cancelled=stop.is_set,
            )
        except AdvisorError as exc:
            if not stop.is_set():
                emit(Message(stage="search", level="warning", text=f"worker {number}: {exc}"))

    threads = [threading.Thread(target=help_out, args=(n,), daemon=True) for n in range(1, count + 1)]
    for thread in threads:
        thread.start()
    try:
        search.run_prices()
        for thread in threads:
            thread.join()
        fail_abandoned(search.prices)
        search.trials.remember(search.prices)
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def work(spec: SearchSpec, emit: Emit) -> None:
    """Take trials of the study that `spec` names."""
    setup = Setup(spec, emit)
    table = setup.load_table()
    if table is None or spec.study_name is None:
        raise RunFailed(
            "a worker found no sensitivity table", where=str(setup.cache), next_step="run the search again"
        )
    PlanSearch(
        spec.units,
        table,
        Trials(spec.units, setup.search, spec.settings, emit, setup.pace()),
        spec.budget_bytes,
        open_storage(spec.settings.storage, spec.run_dir),
        spec.settings,
        emit,
        name=spec.study_name,
        worker=True,
    ).run()


if __name__ == "__main__":
    child_main(SearchSpec, work)
