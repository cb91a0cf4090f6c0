"""Federated pathology: one model, many hospitals, no image moved."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medfl.data.sources.program_patches import SitePatches as SitePatches
    from medfl.errors import GateFailed as GateFailed
    from medfl.errors import MedflError as MedflError
    from medfl.errors import RunFailed as RunFailed
    from medfl.pipeline.classifier import PatchClassifier as PatchClassifier
    from medfl.pipeline.classifier import SlideClassifier as SlideClassifier
    from medfl.pipeline.classifier import load_model as load_model
    from medfl.pipeline.library import evaluate as evaluate
    from medfl.pipeline.library import register as register
    from medfl.pipeline.library import resume as resume
    from medfl.pipeline.library import run as run
    from medfl.pipeline.run_result import EvaluationResult as EvaluationResult
    from medfl.pipeline.run_result import RunResult as RunResult
    from medfl.pipeline.run_result import RunTables as RunTables
    from medfl.study.library_study import Study as Study
    from medfl.study.library_study import StudyTables as StudyTables

_HOMES = {
    "run": "medfl.pipeline.library",
    "resume": "medfl.pipeline.library",
    "evaluate": "medfl.pipeline.library",
    "register": "medfl.pipeline.library",
    "load_model": "medfl.pipeline.classifier",
    "Study": "medfl.study.library_study",
    "StudyTables": "medfl.study.library_study",
    "RunResult": "medfl.pipeline.run_result",
    "RunTables": "medfl.pipeline.run_result",
    "EvaluationResult": "medfl.pipeline.run_result",
    "PatchClassifier": "medfl.pipeline.classifier",
    "SlideClassifier": "medfl.pipeline.classifier",
    "SitePatches": "medfl.data.sources.program_patches",
    "MedflError": "medfl.errors",
    "RunFailed": "medfl.errors",
    "GateFailed": "medfl.errors",
}
"""What a program may use: its name and the module it comes from, which is imported at first use only."""
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'medfl' has no attribute {name!r}")
    part = getattr(import_module(_HOMES[name]), name)
    globals()[name] = part
    return part


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
