"""Which methods there are: those built in, and those of installed packages."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from medfl.errors import MedflError, nearest

if TYPE_CHECKING:
    from medfl.methods.core.chain import Method

BUILT_IN = {
    "dp": "medfl.methods.differential_privacy:Dp",
    "ecgr": "medfl.methods.ecgr:Ecgr",
    "fedadagrad": "medfl.methods.fedopt:FedAdagrad",
    "fedadam": "medfl.methods.fedopt:FedAdam",
    "fedasync": "medfl.methods.fedasync:FedAsync",
    "fedavgm": "medfl.methods.fedopt:FedAvgM",
    "fedbn": "medfl.methods.fedbn:FedBN",
    "fedbuff": "medfl.methods.fedbuff:FedBuff",
    "fedgmr": "medfl.methods.fedgmr:FedGMR",
    "fednova": "medfl.methods.fednova:FedNova",
    "fedprox": "medfl.methods.fedprox:FedProx",
    "fedyogi": "medfl.methods.fedopt:FedYogi",
    "finetune": "medfl.methods.finetune:FineTune",
    "krum": "medfl.methods.krum:Krum",
    "lips": "medfl.methods.lips:Lips",
    "median": "medfl.methods.coordinate_wise:Median",
    "norm_clip": "medfl.methods.norm_bounds:NormClip",
    "norm_guard": "medfl.methods.norm_bounds:NormGuard",
    "pflalign": "medfl.methods.pflalign:PFLAlign",
    "scaffold": "medfl.methods.scaffold:Scaffold",
    "trimmed_mean": "medfl.methods.coordinate_wise:TrimmedMean",
}


def known_methods() -> dict[str, str]:
    """Method name -> import path, from installed packages (entry points `medfl.methods`) and built in, which wins."""
    return {entry.name: entry.value for entry in entry_points(group="medfl.methods")} | BUILT_IN


def method_class(name: str) -> type[Method]:
    """The method class of a method name. Raises MedflError with the nearest names."""
    known = BUILT_IN if name in BUILT_IN else known_methods()  # looking through all packages takes its time
    if name not in known:
        close = nearest(name, known)
        raise MedflError(
            f"`method`: there is no method {name!r}.{close} Known: {', '.join(sorted(known))}; [] is FedAvg"
        )
    module, _, attribute = known[name].partition(":")
    found: type[Method] = getattr(import_module(module), attribute)
    return found
