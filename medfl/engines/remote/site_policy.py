"""What a site lets be done with its data: its own `policy.yaml`, and which pipelines a person there has approved.

Both lie in the site's party folder. Nothing runs at a site before one of the two says so, and a pipeline that was
changed since is another one. The limits hold in both cases, and also where there is no file.
"""

from __future__ import annotations

import getpass
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from medfl import config
from medfl.config.fields import ConfigSection, Count, Positive
from medfl.config.yaml_file import read_mapping, validate
from medfl.data.atomic_file import write_text
from medfl.engines.remote.party_files import PARTY
from medfl.errors import MedflError
from medfl.messages import MeasureRequest, Request, StainRequest, TrainRequest
from medfl.methods.core.chain import MethodChain, build_chain
from medfl.methods.differential_privacy import private_link
from medfl.plain_text import visible
from medfl.runs.digests import json_digest
from medfl.runs.privacy_ledger import epsilon
from medfl.runs.run_identity import identity

POLICY, APPROVED = "policy.yaml", "approved.json"
SHOWN = 12  # characters of a digest that are shown, and at least asked for


class NotPermitted(MedflError):
    """The site does not permit it; the sentence is made of numbers and names and may be told."""


class NotApproved(NotPermitted):
    """A person at the site has to read the pipeline first."""


class SitePolicy(ConfigSection):
    """A site's own rules.

    Attributes:
        approve: `each` pipeline is approved by a person; `rules`: what keeps the rest of this file may run.
        methods: links of a method that may act here; null for all.
        max_rounds: a pipeline may have so many at most.
        min_count: a pipeline's disclosure floor must be as high.
        max_epsilon: a pipeline must have `dp` or `training.dp_sgd`, and spend so much at most over all its rounds.
        splits: whose figures may be asked for.
        messages_a_round: so many questions are answered in one round of a run, or after the last.
        members: whether it may be measured how well training patches can be told from test patches.
        stain: whether numbers on the stain of training patches may be asked for.
        subgroups: whether figures of subgroups may be asked for, with the words of their columns.
        secure_aggregation: whether a pipeline must have updates summed behind masks.
    """

    approve: Literal["each", "rules"] = "each"
    methods: list[str] | None = None
    max_rounds: Count | None = None
    min_count: Count = 1
    max_epsilon: Positive | None = None
    splits: tuple[Literal["train", "val", "test"], ...] = ("val", "test")
    messages_a_round: int = Field(40, ge=4)
    members: bool = True
    stain: bool = True
    subgroups: bool = True
    secure_aggregation: bool = False


def read_policy(folder: Path) -> SitePolicy:
    """The policy in a party's folder; the default one where there is none. Raises MedflError."""
    file = folder / POLICY
    return validate(SitePolicy, read_mapping(file, "policy"), file) if file.is_file() else SitePolicy()


def pipeline_digest(folder: Path) -> str:
    """SHA-256, as hexadecimal text, of all that the figures of a party's pipeline depend on: where its data lie, device
    and threads may change (`medfl.runs.run_identity`). Raises MedflError."""
    return json_digest(identity(folder / "pipeline.yaml"))


def approve(folder: Path, digest: str) -> None:
    """Note that the pipeline of this digest, or of its beginning, may run here.

    Raises:
        MedflError: the folder holds another pipeline, or cannot be written.
    """
    here = pipeline_digest(folder)
    if len(digest) < SHOWN or not here.startswith(digest.lower()):
        raise MedflError(
            f"--approve {visible(digest)}: the pipeline here is {here[:SHOWN]}; read it, then name that one"
        )
    noted = {**_approved(folder), here: {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "by": _user()}}
    try:
        write_text(folder / APPROVED, json.dumps(noted, indent=1) + "\n")
    except OSError as error:
        raise MedflError(
            f"{folder / APPROVED} cannot be written: {error.strerror}; put the kit where its user may write"
        ) from None


def check_permitted(folder: Path, pipeline: config.Pipeline, site: str) -> SitePolicy:
    """The policy under which a party's pipeline may run here, where it is this site.

    Raises:
        NotPermitted: it breaks a rule of the policy. NotApproved: nobody has approved it.
        MedflError: the policy cannot be read.
    """
    policy, digest = read_policy(folder), pipeline_digest(folder)
    if broken := list(_broken(policy, pipeline, _role(pipeline, site))):
        raise NotPermitted(
            f"the policy of this site does not permit the pipeline {digest[:SHOWN]}: {'; '.join(broken)}"
        )
    if policy.approve == "each" and digest not in _approved(folder):
        raise NotApproved(f"nobody at this site has approved the pipeline {digest[:SHOWN]} yet")
    return policy


def how_to_approve(kit: Path) -> str:
    """The command by which a person approves the pipeline of a site's kit."""
    return f"`medfl deploy join {kit} --approve {pipeline_digest(kit / PARTY)[:SHOWN]}` approves it"


class Questions:
    """Counts what a run asks of a site, and holds it against the policy.

    Args:
        policy: of the site.
        rounds: that the approved pipeline has.
        earlier: (run, round) of each question that was answered before this process began.
        trained: how often this site had trained in each run by then.
        budgeted: whether the pipeline has `training.dp_sgd`, whose noise is that of `rounds` rounds, repeated ones
            counted.
    """

    def __init__(
        self,
        policy: SitePolicy,
        rounds: int,
        earlier: Iterable[tuple[str, int]],
        trained: Iterable[str] = (),
        budgeted: bool = False,
    ) -> None:
        self.policy = policy
        self.rounds = rounds
        self._answered = Counter(earlier)
        self._trained = Counter(trained)
        self._budgeted = budgeted

    def check(self, run: str, request: Request) -> None:
        """Count one more question. Raises NotPermitted."""
        policy = self.policy
        if request.round > self.rounds:
            raise NotPermitted(f"round {request.round} of a pipeline that was approved with {self.rounds}")
        if isinstance(request, TrainRequest) and self._budgeted:
            if self._trained[run] >= self.rounds:
                raise NotPermitted(f"{self.rounds} rounds were trained, and the budget of its patients is spent")
            self._trained[run] += 1
        if isinstance(request, StainRequest):
            if not policy.stain:
                raise NotPermitted("the policy of this site does not permit numbers on the stain of its patches")
        elif other := sorted(set(request.splits) - set(policy.splits)):
            raise NotPermitted(f"the policy of this site does not permit figures of {', '.join(other)} data")
        if isinstance(request, MeasureRequest) and request.members and not policy.members:
            raise NotPermitted("the policy of this site does not permit to tell training patches from test patches")
        if isinstance(request, MeasureRequest) and request.monitoring and not policy.stain:
            raise NotPermitted("the policy of this site does not permit the stain of its test patches to be monitored")
        self._answered[run, request.round] += 1
        if self._answered[run, request.round] > policy.messages_a_round:
            raise NotPermitted(f"more than {policy.messages_a_round} questions in round {request.round}")


def in_words(folder: Path, pipeline: config.Pipeline, site: str) -> Iterator[str]:
    """What the pipeline would do at a site, a sentence a line, its digest last."""
    chain, training = build_chain(pipeline.method), pipeline.training
    role = _role(pipeline, site)
    yield f"{pipeline.name}: {pipeline.description}" if pipeline.description else pipeline.name
    yield f"Classes: {', '.join(pipeline.task.classes)}. Other sites: {_names(pipeline, site)}."
    if role == "train":
        hidden = ", behind masks: the server sees the sites' sum" if training.secure_aggregation else ""
        yield (
            f"{site} trains in {training.rounds} rounds; method: {chain}. Its update leaves after each of them{hidden}."
        )
    else:
        yield f"{site} does not train; it is measured, in up to {training.rounds} rounds and once at the end."
    yield (
        f"Figures leave of validation and test data, none that stands on fewer than {pipeline.disclosure.min_count} "
        f"patients; no patch, name or single score does."
    )
    if columns := pipeline.evaluation.columns:
        yield f"Figures of subgroups leave, too, with the words of these columns: {', '.join(columns)}."
    if pipeline.evaluation.monitoring:
        yield "Sums over patients of scores and stain of test data leave, and become part of the model's facts."
    yield f"Differential privacy: {_privacy(pipeline, chain)}."
    registry = pipeline.registry
    yield f"Registry: {f'the model is registered as {registry.name}' if registry else 'the model is not registered'}."
    yield f"Pipeline {pipeline_digest(folder)[:SHOWN]}, {folder / 'pipeline.yaml'}"


def _role(pipeline: config.Pipeline, site: str) -> str | None:
    return next(each.role for each in pipeline.all_sites if each.name == site)


def _broken(policy: SitePolicy, pipeline: config.Pipeline, role: str | None) -> Iterator[str]:
    chain = build_chain(pipeline.method)
    if policy.methods is not None and (
        other := sorted({method.name for method in chain.methods} - set(policy.methods))
    ):
        yield f"`methods` does not have {', '.join(other)}"
    if policy.max_rounds is not None and pipeline.training.rounds > policy.max_rounds:
        yield f"it has {pipeline.training.rounds} rounds, `max_rounds` is {policy.max_rounds}"
    if pipeline.disclosure.min_count < policy.min_count:
        yield f"its disclosure floor is {pipeline.disclosure.min_count}, `min_count` is {policy.min_count}"
    if pipeline.evaluation.columns and not policy.subgroups:
        yield f"it asks for subgroups by {', '.join(pipeline.evaluation.columns)}, and `subgroups` is false"
    if pipeline.evaluation.monitoring and not policy.stain:
        yield "`evaluation.monitoring` has the stain of test patches told, `stain` is false"
    if _tells_stain(pipeline, role) and not policy.stain:
        yield "`data.normalise` or `training.augment.exchange` has the stain of training patches told, `stain` is false"
    if pipeline.evaluation.members and not policy.members:
        yield f"`evaluation.members` is {pipeline.evaluation.members} and not 0, `members` is false"
    if other := sorted({"test", *(["val"] if role == "train" else [])} - set(policy.splits)):
        yield f"it asks for figures of {', '.join(other)} data, which `splits` does not have"
    if policy.secure_aggregation and not pipeline.training.secure_aggregation:
        yield "its updates leave as they are, and `secure_aggregation` asks for masked sums"
    if policy.max_epsilon is not None:
        spent = _epsilon(pipeline, chain)
        if spent is None:
            yield "it has no `dp` and no `training.dp_sgd`, and `max_epsilon` asks for one"
        elif spent > policy.max_epsilon:
            yield f"it spends an epsilon of {spent:.3g}, `max_epsilon` is {policy.max_epsilon:g}"


def _tells_stain(pipeline: config.Pipeline, role: str | None) -> bool:
    normalise = pipeline.data.normalise
    asked = bool(normalise and normalise.reference != "fixed") or bool(pipeline.training.augment.exchange)
    return role == "train" and asked


def _epsilon(pipeline: config.Pipeline, chain: MethodChain) -> float | None:
    """What a site spends that is drawn in every round; with `dp_sgd` each of its patients."""
    if pipeline.training.dp_sgd is not None:
        return pipeline.training.dp_sgd.epsilon
    link = private_link(chain)
    return None if link is None else epsilon(link.noise, pipeline.training.rounds, link.delta)


def _privacy(pipeline: config.Pipeline, chain: MethodChain) -> str:
    if (budget := pipeline.training.dp_sgd) is not None:
        return f"of each patient, epsilon {budget.epsilon:g} at delta {budget.delta:g} over all rounds"
    link = private_link(chain)
    return f"of the whole site, noise {link.noise:g} at clip {link.clip:g}" if link else "none"


def _names(pipeline: config.Pipeline, site: str) -> str:
    return ", ".join(sorted(each.name for each in pipeline.all_sites if each.name != site)) or "none"


def _approved(folder: Path) -> Mapping[str, Any]:
    file = folder / APPROVED
    try:
        noted = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError):
        noted = None
    if not isinstance(noted, dict):
        raise MedflError(f"{file} is damaged; remove it, and approve the pipeline again")
    return noted


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a number without a name
        return "unknown"
