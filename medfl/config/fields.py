"""What the keys of both kinds of file are made of."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
NAME_PATTERN = r"^[a-z0-9][a-z0-9-]{0,62}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Transform = str | dict[str, dict[str, Any]]
Rgb = tuple[float, float, float]


class ConfigSection(BaseModel):
    """One mapping of a file: unknown keys, non-finite numbers, and true or false for a number are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and info.field_name:
            kind = cls.model_fields[info.field_name].annotation
            kinds = {kind, *get_args(kind)}
            kinds |= {part for each in kinds for part in get_args(each)}
            if kinds & {int, float} and bool not in kinds:
                raise ValueError("a number is asked for, and YAML reads `yes`, `no`, `on` and `off` as true and false")
        return value
