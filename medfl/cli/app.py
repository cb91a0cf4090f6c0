"""The command line: which commands there are, and how an error leaves the program."""

from __future__ import annotations

import errno
import gc
import os
import sys
from typing import Annotated

import typer

from medfl.cli.commands.audit_commands import audit_app
from medfl.cli.commands.backbones_command import backbones
from medfl.cli.commands.cache_commands import cache_app
from medfl.cli.commands.compare_command import compare
from medfl.cli.commands.data_commands import data_app
from medfl.cli.commands.deploy_commands import deploy_app
from medfl.cli.commands.doctor_command import doctor
from medfl.cli.commands.dossier_command import dossier
from medfl.cli.commands.feature_commands import features_app
from medfl.cli.commands.init_commands import init_app
from medfl.cli.commands.methods_command import methods
from medfl.cli.commands.monitor_command import monitor
from medfl.cli.commands.predict_command import predict
from medfl.cli.commands.purge_command import purge
from medfl.cli.commands.report_command import report
from medfl.cli.commands.run_commands import evaluate, export, register, resume, run, track
from medfl.cli.commands.site_commands import sites_app
from medfl.cli.commands.slide_commands import slides_app
from medfl.cli.commands.study_command import study
from medfl.cli.standard_streams import STATUS, complain, guard_standard_streams, write_data
from medfl.errors import MedflError
from medfl.idle_threads import wait_briefly

RARELY = (50_000, 20, 50)
"""How seldom Python looks for garbage: the libraries are a million objects that live to the end, and looking through
them is a tenth of what their imports take."""
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import would ask the network for a newer version


wait_briefly()


def _tell_version(asked: bool) -> None:
    if asked:
        from medfl.runs.versions import installed_version

        write_data(f"medfl {installed_version()}\n")
        raise typer.Exit


app = typer.Typer(
    name="medfl",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    run,
    resume,
    evaluate,
    predict,
    monitor,
    export,
    register,
    track,
    study,
    compare,
    report,
    dossier,
    purge,
    methods,
    backbones,
    doctor,
):
    app.command()(command)
app.add_typer(data_app, name="data")
app.add_typer(cache_app, name="cache")
app.add_typer(sites_app, name="sites")
app.add_typer(slides_app, name="slides")
app.add_typer(features_app, name="features")
app.add_typer(init_app, name="init")
app.add_typer(deploy_app, name="deploy")
app.add_typer(audit_app, name="audit")


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Federated training and honest evaluation of pathology models: no image leaves its site."""


def main() -> None:
    """Entry point: an error the user can mend is one sentence and an exit code, never a traceback."""
    guard_standard_streams()
    gc.set_threshold(*RARELY)
    if "torch" not in sys.modules:  # what takes seconds, most of the time, is its import
        STATUS.start("medfl: loading")
    try:
        app()
    except MedflError as error:
        complain(f"medfl: {error}")
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" for {error.filename}" if error.filename else ""
        complain(f"medfl: there is no room on the disk{where}; make some, and give the same command again")
        sys.exit(MedflError.exit_code)
    finally:
        STATUS.end()
