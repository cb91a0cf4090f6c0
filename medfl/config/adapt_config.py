"""What is done at sites that never trained, beside measuring the model as it is."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from medfl.config.fields import ConfigSection
from medfl.metrics.remedies import PLAIN, Step, name_of, steps_of

AUTO = "auto"


class Adapt(ConfigSection):
    """Test-time adaptation at held-out sites, on unlabelled patches of half their source groups; figures of the other
    half stand beside the plain ones. `auto` chooses on validation data of training sites."""

    remedy: Literal["auto"] | Step | list[Step]
    patches: int = Field(256, ge=16)

    @field_validator("remedy")
    @classmethod
    def _goes_together(cls, value: str | list[Step]) -> str | list[Step]:
        if value == AUTO:
            return value
        steps = [value] if isinstance(value, str) else value
        if not steps:
            raise ValueError("no remedy is listed; name one, or remove `adapt`")
        steps_of("+".join(steps))
        return value

    @property
    def name(self) -> str:
        """The remedy as one word; "auto" where it is to be chosen."""
        if self.remedy == AUTO:
            return AUTO
        return name_of([self.remedy] if isinstance(self.remedy, str) else self.remedy)

    def may(self, step: Step) -> bool:
        """Whether a step is part of the remedy, or might be."""
        return self.remedy == AUTO or step in self.name.split("+")


def read_adapt(text: str) -> Adapt:
    """A remedy given at the command line, `batchnorm+em`. Raises ValueError for what is none."""
    if text == PLAIN:
        raise ValueError("no remedy is named")
    return Adapt(remedy=AUTO if text == AUTO else list(steps_of(text)))
