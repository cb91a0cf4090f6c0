"""What privacy, audit and subgroups cost: a round, or the closing measurement, with each on beside all off. CPU.

A round that has them off is the plain one, whose bytes are 4 (P + B) each way and site and whose time the sections
`plain`, `else` and `sites` measure; here it is what each is divided by.
"""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.speed.figure import Figure, interleaved
from benchmarks.speed.workload import METHOD, Rounds, store, work, workbench
from medfl.engines.remote.audit_log import AuditLog, asked, left
from medfl.engines.remote.site_policy import Questions, SitePolicy
from medfl.federation.masked_rounds import MaskedRounds
from medfl.messages import MeasureRequest, Reply, TrainRequest
from medfl.metrics.subgroups import SubgroupColumn
from medfl.site.masked_site import MaskedSite
from medfl.site.patient_gradients import PatientPrivacy
from medfl.site.site import Site

NETWORK = "test_efficientnet_gn"  # 0.1 M parameters and no BatchNorm, which differential privacy does not go with
SITES, STEPS, PATCHES, SIDE = 5, 20, 330, 64
OFF = "the same with all of them off"
PATIENTS = PatientPrivacy(clip=0.5, noise=1.0, rate=0.1)
DP: METHOD = [{"name": "dp", "clip": 1.0, "noise": 1.0, "delta": 1e-5}]


def game(sites: int = SITES, steps: int = STEPS, patches: int = PATCHES, **on: Any) -> Rounds:
    """Rounds of sites with nothing on, or with `method`, `patients` or `masked`."""
    stores = [store(f"site-{k}", patches, SIDE, seed=k) for k in range(sites)]
    bench = workbench(NETWORK, on.get("method", []))
    local = work(steps, patients=on.get("patients"))
    if not on.get("masked"):
        return Rounds(bench, stores, local)
    return Rounds(bench, stores, local, kind=MaskedSite, schedule=MaskedRounds(), masked=True)


GAMES: Mapping[str, Mapping[str, Any]] = {
    "off": {},
    "dp": {"method": DP},
    "training.secure_aggregation": {"masked": True},
    "training.dp_sgd": {"patients": PATIENTS},
}


def bytes_of(played: Rounds) -> tuple[int, int]:
    """Bytes down and up of one site in one round, those for keys and seeds of masks not counted."""
    record = played.play()
    ((down, up),) = {(entry["bytes_down"], entry["bytes_up"]) for entry in record["sites"].values()}
    return down, up


def rounds_with(repeats: int) -> Iterator[Figure]:
    """Time and bytes of a round with each on."""
    games = {name: game(**on) for name, on in GAMES.items()}
    sent = {name: bytes_of(played) for name, played in games.items()}
    seconds = dict(zip(games, interleaved([played.play for played in games.values()], repeats), strict=True))
    for name in games:
        detail: dict[str, float] = {"on_s": seconds[name], "off_s": seconds["off"]}
        detail |= {"down_on_kib": sent[name][0] / 1024, "up_on_kib": sent[name][1] / 1024}
        detail |= {"down_off_kib": sent["off"][0] / 1024, "up_off_kib": sent["off"][1] / 1024}
        if name != "off":
            yield Figure(
                f"round with `{name}`, {SITES} sites x {STEPS} steps",
                OFF,
                seconds[name] / seconds["off"],
                detail=detail,
            )


def audit(repeats: int) -> Iterator[Figure]:
    """What sites elsewhere add to a message, beside the line: the policy is asked, two parties write and sign."""
    played = game()
    weights, buffers = played.federation.state.weights, played.federation.state.buffers
    with tempfile.TemporaryDirectory() as folder:
        logs = [_signed_log(Path(folder) / party) for party in ("site", "server")]
        policy, number = SitePolicy(), 0

        def noted() -> None:
            nonlocal number
            questions = Questions(policy, 10**6, [])
            for k in range(SITES):
                request = TrainRequest(number, weights, buffers, ())
                questions.check("run", request)
                reply = Reply(f"site-{k}", number, samples=PATCHES, steps=STEPS, update=weights, buffers=buffers)
                logs[0].write("answered", **asked(request, "run", 400_000), **left(reply, 400_000))
                logs[1].write("received", site=reply.site, **asked(request, "run", 400_000), bytes_out=400_000)
            number += 1

        notes, plain = interleaved([noted, played.play], repeats)
    yield Figure(
        f"policy and signed audit logs of {SITES} sites and server, a round",
        "a round in one process",
        notes / plain,
        detail={"notes_s": notes, "round_s": plain},
    )


def _signed_log(kit: Path) -> AuditLog:
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    (kit / "startup").mkdir(parents=True)
    key = rsa.generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (kit / "startup" / "client.key").write_bytes(key)
    return AuditLog(kit / "medfl")


def subgroups(repeats: int) -> Iterator[Figure]:
    """The closing measurement of one site with two columns of subgroups of two values each."""
    bench, plain = workbench(NETWORK, []), store("site", 400, SIDE)
    plain = dataclasses.replace(
        plain, splits={"train": np.arange(2), "val": np.arange(2, 4), "test": np.arange(4, 400)}
    )
    codes = np.arange(400) // 5 % 2
    columns = tuple(SubgroupColumn(name, ("one", "other"), codes) for name in ("sex", "scanner"))
    sites = [
        Site("site", "held_out", each, work(1), bench)
        for each in (dataclasses.replace(plain, subgroups=columns), plain)
    ]
    weights, buffers = bench.model.weights(), bench.model.buffers()
    request = MeasureRequest(
        0, weights, buffers, ("test",), resamples=1000, temperature=1.0, thresholds={}, malignant=(), members=0
    )
    on, off = interleaved([functools.partial(site.handle, request) for site in sites], repeats)
    yield Figure(
        "closing measurement with `evaluation.subgroups`, two columns, 396 patches",
        OFF,
        on / off,
        detail={"on_s": on, "off_s": off},
    )


def options(repeats: int) -> Iterator[Figure]:
    """All of them."""
    torch.manual_seed(0)
    for section in (rounds_with, audit, subgroups):
        yield from section(repeats)
