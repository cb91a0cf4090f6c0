"""`medfl monitor`: a deployed model on new patches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medfl.cli.commands.common import ModelRef, open_terminal
from medfl.errors import DriftAlarm


def monitor(
    model: ModelRef,
    site: Annotated[
        list[str] | None,
        typer.Option(
            "--site", help="A site file, or a folder of images without labels; several are told together too."
        ),
    ] = None,
    sums: Annotated[
        list[str] | None,
        typer.Option("--sums", metavar="FILE", help="sums.json of a site whose patches are not here; several merge."),
    ] = None,
    out: Annotated[str, typer.Option(metavar="DIR", help="Where monitor.json and report.html go.")] = "monitoring",
    baseline: Annotated[
        str | None, typer.Option(metavar="FILE", help="Compare with this earlier monitor.json in place of the run.")
    ] = None,
    pipeline: Annotated[str | None, typer.Option(help="Pipeline file, where the run is not on this machine.")] = None,
) -> None:
    """Watch a deployed model: class mix, calibration, drift of scores and stain; exit code 4 with an alarm."""
    with open_terminal() as terminal:
        from medfl.pipeline.monitor_sites import monitor as watch
        from medfl.pipeline.trained_model import find_model
        from medfl.report.monitor_page import monitor_tables, monitored_places, verdict, write_monitoring
        from medfl.tracking.log_monitoring import log_monitoring

        trained = find_model(model)
        files = [Path(file) for file in sums or []]
        result = watch(trained, site or [], pipeline, Path(baseline) if baseline else None, files)
        page = write_monitoring(result, Path(out))
        tracking = log_monitoring(result, trained.run.path if trained.run else None)
        for part in monitor_tables(result):
            terminal.table(part.title, part.columns, part.rows)
        for name, entry in monitored_places(result).items():
            terminal.say(f"{name} is compared with {entry['compared_with']}", *(f"{name}: {n}" for n in entry["notes"]))
        terminal.say(verdict(result), f"Page: {page}", f"Sums and figures: {page.with_name('monitor.json')}")
        terminal.say(f"What a site may send: {page.with_name('sums.json')}", tracking)
        if result["alarm"]:
            places = sorted({alarm["site"] for alarm in result["alarms"]})
            raise DriftAlarm(f"alarm at {', '.join(places)}; look at {page}")
