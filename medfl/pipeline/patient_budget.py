"""From `training.dp_sgd` of a pipeline to the noise of a site, and what it does not go with."""

from __future__ import annotations

from medfl import config
from medfl.errors import MedflError
from medfl.runs.patient_ledger import patient_noise, sampling_rate
from medfl.site.patient_gradients import PatientPrivacy
from medfl.site.shared_model import LocalTrainingConfig, SharedModel


def patient_privacy(pipeline: config.Pipeline, work: LocalTrainingConfig, patches: int) -> PatientPrivacy | None:
    """Bound, noise and sampling with which the budget of a site of so many training patches lasts for the planned
    rounds; None where nobody asks for it. Raises MedflError as `patient_noise` does."""
    budget = pipeline.training.dp_sgd
    if budget is None or not patches:
        return None
    rate, steps = sampling_rate(work.batch_size, patches), work.steps(patches) * work.rounds
    noise = patient_noise(budget.epsilon, budget.delta, rate, steps)
    return PatientPrivacy(budget.clip, noise, rate, budget.seeded)


def check_patient_privacy(pipeline: config.Pipeline, shared: SharedModel) -> None:
    """Raise MedflError where the model could not be trained with differential privacy of patients."""
    if pipeline.training.dp_sgd is None:
        return
    if buffers := shared.model.buffer_layout.size:
        raise MedflError(
            f"`training.dp_sgd`: {pipeline.model.backbone} has BatchNorm, whose statistics ({buffers:,} values) mix "
            f"the patients of a batch and leave the site as they are; take `model.train: head`, or a backbone with "
            f"group or layer normalisation, such as `backbone: resnet18` with `args: {{norm_layer: groupnorm}}`"
        )
    if shared.precision == "fp16":
        raise MedflError(
            "`training.precision`: fp16 scales gradients, which `training.dp_sgd` bounds; use bf16 or float32"
        )
