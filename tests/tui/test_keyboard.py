"""The keyboard alone: forms, jumps, ways out of a field, footers that say them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from textual import events
from textual.pilot import Pilot
from textual.widgets import Input
from textual.widgets._footer import FooterKey

from advisor.pipeline.inputs import RunInputs
from advisor.tui.app import AdvisorApp
from advisor.tui.session import Session
from tests.tui.driving import drive, opened, shows, text, until
from tests.tui.test_choices import twin


def focused(app: AdvisorApp) -> str | None:
    """The id of what has the keyboard."""
    return None if app.focused is None else app.focused.id


def footer(app: AdvisorApp) -> list[str]:
    """What the footer offers."""
    return [key.description for key in app.screen.query(FooterKey)]


def test_the_form_of_a_run_is_filled_in_without_a_mouse() -> None:
    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "4", "tune")
        await pilot.press("e")
        await until(pilot, lambda: focused(app) == "budget")
        await until(pilot, lambda: footer(app)[:2] == ["Next field", "Done"])
        await pilot.press(*"40%", "enter")
        await until(pilot, lambda: focused(app) == "trials")
        await pilot.press(*"12x7", "down")  # no letters in a number
        await until(pilot, lambda: focused(app) == "through")
        await pilot.press("h", "enter")
        await until(pilot, lambda: focused(app) == "speed")
        await pilot.press(*"12.5", "enter")
        await until(pilot, lambda: focused(app) == "method")
        await pilot.press("right", "enter")
        await until(pilot, lambda: focused(app) == "recover")
        await pilot.press("l", "l", "enter")
        await until(pilot, lambda: focused(app) == "stages-panel")
        assert twin(app) == (
            "$ advisor tune MODEL --budget 40% --trials 127 --max-ms-per-token 12.5 --method rtn "
            "--recover 100 --through validate"
        )
        await pilot.press("e", "down", "up")
        await until(pilot, lambda: focused(app) == "budget")
        await pilot.press("escape")
        await until(pilot, lambda: focused(app) == "stages-panel")
        await until(pilot, lambda: "Start/resume" in footer(app))
        await opened(app, pilot, "7", "runs")

    drive(scenario, gpu=None)


def test_the_fold_has_the_goals_and_is_no_part_of_the_way_while_it_is_closed() -> None:
    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "4", "tune")
        assert "max KL" not in text(app)
        await pilot.press("m")
        await until(pilot, lambda: focused(app) == "objective")
        await shows(app, pilot, "objective", "max KL", "memory", "sensitivity", "latency")
        await pilot.press("right", "enter")
        await until(pilot, lambda: focused(app) == "max-kl")
        await pilot.press(*"0.05", "enter")
        await until(pilot, lambda: focused(app) == "memory")
        await pilot.press(*"4GiB", "enter")
        await until(pilot, lambda: focused(app) == "sensitivity")
        choices = get_args(RunInputs.model_fields["sensitivity"].annotation)
        await pilot.press(*["right"] * len(choices), "enter")  # as many as the type has
        await until(pilot, lambda: focused(app) == "latency")
        await pilot.press("right")
        assert twin(app) == (
            "$ advisor tune MODEL --budget 5.5bits --objective fastest --max-kl 0.05 --memory 4GiB "
            f"--sensitivity {choices[-1]} --latency estimated --through export"
        )
        await pilot.press("m")
        await until(pilot, lambda: focused(app) == "stages-panel")
        assert "max KL" not in text(app)
        await opened(app, pilot, "7", "runs")
        await opened(app, pilot, "4", "tune")  # what is not as it begins is not hidden
        await shows(app, pilot, "objective", "max KL")

    drive(scenario, gpu=None, size=(80, 24))


def test_a_wrong_value_is_marked_at_its_field_and_starts_nothing() -> None:
    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        def wrong() -> list[str | None]:
            return [w.id for w in app.screen.query(".-wrong")]

        await opened(app, pilot, "4", "tune")
        await pilot.press("e", *"5.5 apples")
        assert not wrong()  # not while it is typed
        await pilot.press("enter")
        await shows(app, pilot, "budget: not a memory budget; allowed: a size")
        assert wrong() == ["budget"]
        await pilot.press("up", *"6bits")
        await until(pilot, lambda: not wrong())
        assert "not a memory budget" not in text(app)
        await pilot.press("escape", "m", "right", "escape", "m", "s")
        await shows(app, pilot, "max KL: the fastest plan needs a limit on what it may lose")
        assert (wrong(), focused(app)) == (["max-kl"], "max-kl")
        assert app.working() is None
        await pilot.press("0", "enter")
        await shows(app, pilot, "max KL: a number above 0")
        assert "--max-kl" not in twin(app)
        await pilot.press("up", *"0.1", "enter", *"much", "enter")
        await shows(app, pilot, "memory: not a memory limit; allowed: auto, resident, streamed")
        assert wrong() == ["memory"]
        await pilot.press("up", *"streamed", "enter", *["right"] * 9, "escape", "s")
        await shows(app, pilot, "memory: a quick search holds the whole model")
        assert wrong() == ["memory"]

    drive(scenario, gpu=None, model="m", size=(80, 24))


def test_trials_follow_a_quick_sensitivity_unless_they_were_chosen() -> None:
    def trials(app: AdvisorApp) -> str:
        return app.screen.query_one("#trials", Input).value

    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "4", "tune")
        await pilot.press("m", "enter", "enter", "enter", *["right"] * 3)
        await shows(app, pilot, "quick")
        await until(pilot, lambda: "--sensitivity quick" in twin(app))
        assert trials(app) == "0"
        assert "--trials" not in twin(app)
        await pilot.press("left")
        await until(pilot, lambda: "--sensitivity fast" in twin(app))
        assert trials(app) == "32"
        app.screen.query_one("#trials", Input).value = "5"
        await pilot.press("right")
        await until(pilot, lambda: "--sensitivity quick" in twin(app))
        assert "--trials 5" in twin(app)

    drive(scenario, gpu=None, model="m", size=(80, 24))


def test_a_run_for_speed_opens_with_its_goals(recorded: Path) -> None:
    written = recorded / "inputs.yaml"
    goals = "objective: fastest\nmax_kl: 0.02\nmemory: 4GiB\n"
    written.write_text(written.read_text() + goals)

    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "4", "tune")
        await shows(app, pilot, "fastest", "0.02", "4GiB")
        assert "--objective fastest --max-kl 0.02 --memory 4GiB" in twin(app)
        assert "--run" in twin(app)

    drive(scenario, run=recorded)


def test_keys_typed_ahead_go_where_they_are_meant() -> None:
    """All at once, as on a machine that is too busy to read them one by one."""

    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        keys = [
            "4",
            "e",
            *"6bits",
            "enter",
            *"27",
            "enter",
            "h",
            "enter",
            "enter",
            "right",
            "escape",
            "S",
            "1",
        ]
        for key in keys:
            app.post_message(events.Key(key, key if len(key) == 1 else None))
        await until(pilot, lambda: app.current_mode == "hardware")
        await opened(app, pilot, "4", "tune")
        wanted = "$ advisor tune MODEL --budget 6bits --trials 27 --method rtn --through validate"
        assert twin(app) == wanted

    drive(scenario, gpu=None)


def test_a_letter_jumps_to_a_field_or_a_list(recorded: Path) -> None:
    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "4", "tune")
        await pilot.press("e", "ctrl+o")  # out of a field too
        await shows(app, pilot, "a letter goes there", " a ", " s ")
        await pilot.press("s")
        await until(pilot, lambda: focused(app) == "trials")
        await pilot.press("ctrl+o")
        await shows(app, pilot, "a letter goes there")
        await pilot.press("escape")
        await until(pilot, lambda: len(app.screen_stack) == 1)
        assert focused(app) == "trials"
        await pilot.press("ctrl+o")
        await shows(app, pilot, "a letter goes there")
        await pilot.press("7")
        await until(pilot, lambda: app.current_mode == "runs")
        await pilot.press("ctrl+o")
        await shows(app, pilot, "a letter goes there")
        await pilot.resize_terminal(100, 30)
        await until(pilot, lambda: len(app.screen_stack) == 1)

    drive(scenario, run=recorded)


def test_another_question_does_not_go_into_the_run_that_is_open(recorded: Path) -> None:
    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "4", "tune")
        await shows(app, pilot, "--run")
        assert "--yes" in twin(app)  # what it was asked besides
        await pilot.press("e", *"3bits")
        await until(pilot, lambda: "--budget 3bits" in twin(app))
        assert "--run" not in twin(app)
        await pilot.press(*["backspace"] * 5, *"7bits")
        await until(pilot, lambda: "--run" in twin(app))

    drive(scenario, run=recorded)


def test_options_without_a_field_are_kept() -> None:
    session = Session(
        model="m",
        through="search",
        more={"seed": 3, "formats": ("W8A8", "BF16"), "offline": True, "eval_tokens": 64},
        methods={"W4A16": "awq", "W8A8": "smoothquant"},
        more_serving={"pipeline_parallel_size": 2, "enforce_eager": True},
    )
    assert session.tune_command()[4:] == [
        "--pp", "2", "--enforce-eager", "--method", "W4A16=awq,W8A8=smoothquant", "--seed", "3",
        "--formats", "W8A8,BF16", "--offline",
    ]  # fmt: skip
    session.choose_model("other")
    assert session.tune_command()[4:] == ["--method", "W4A16=awq,W8A8=smoothquant"]  # a form shows it
