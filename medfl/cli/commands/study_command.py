"""The command that compares: many runs of one pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medfl.cli.commands.common import Set, open_terminal
from medfl.errors import RunFailed

if TYPE_CHECKING:
    from medfl.cli.terminal import Terminal
    from medfl.study.study_file import StudyPlan


def study(
    file: Annotated[str, typer.Argument(metavar="STUDY", help="A study file (YAML).")],
    set_: Set = None,
    out: Annotated[
        str | None, typer.Option(help="Study folder; default studies/<name>. Started again, it goes on.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, each in a process of its own.")] = 1,
    leave_one_site_out: Annotated[
        bool,
        typer.Option("--leave-one-site-out", help="STUDY is a pipeline: each training site in turn is the unseen one."),
    ] = False,
    tables_only: Annotated[
        bool, typer.Option("--tables", help="Train nothing: compute everything again from the tables of the folder.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say which runs are missing; train nothing.")] = False,
) -> None:
    """Compare methods over seeds and partitions: means with intervals, paired differences, stability."""
    from medfl.study import study_file

    loaded = (study_file.leave_one_site_out if leave_one_site_out else study_file.load_study)(file, set_ or [])
    folder = Path(out or f"studies/{loaded.file.name}" + ("-leave-one-site-out" if leave_one_site_out else ""))
    with open_terminal("every finished round is kept. Start the study again to go on") as terminal:
        from medfl.study.execute import core_sentences, missing

        for notice in loaded.notices:
            terminal.say(notice)
        todo = missing(loaded, folder)
        terminal.say(
            f"{loaded.file.name}: {len(loaded.runs)} runs, {len(loaded.runs) - len(todo)} of them done, in {folder}"
        )
        if dry_run:
            for run in todo:
                terminal.say(f"  missing: {run.title}")
            terminal.say(*core_sentences(loaded, jobs))
            return
        if todo and not tables_only:
            terminal.say(*core_sentences(loaded, jobs))
        _carry_out(loaded, folder, jobs, terminal, train=not tables_only)


def _carry_out(plan: StudyPlan, folder: Path, jobs: int, terminal: Terminal, train: bool) -> None:
    from medfl.study.endpoint_text import design_sentences, endpoint_sentences, endpoint_tables
    from medfl.study.execute import Finished, carry_out
    from medfl.study.text_tables import headline, text_tables
    from medfl.study.write_up import write_up

    count = 0

    def say(done: Finished) -> None:
        nonlocal count
        count += 1
        outcome = f"FAILED: {done.problem}" if done.problem else f"{done.seconds:.0f} s"
        terminal.say(f"  {count:3d}  {done.run.title}: {outcome}")

    failed = carry_out(plan, folder, jobs, say) if train else []
    done = write_up(plan, folder, failed, tracked=train)
    for shown in (*endpoint_tables(done.findings), *text_tables(done.findings)):
        terminal.table(shown.title, shown.columns, shown.rows)
    said = [*design_sentences(done.findings), *endpoint_sentences(done.findings), *headline(done.findings)]
    terminal.say(*said, *done.lines)
    if failed:
        raise RunFailed(f"{len(failed)} of {len(plan.runs)} runs failed; start the study again to try them once more")
