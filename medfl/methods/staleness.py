"""The weight of a late reply, which FedAsync and FedBuff share."""


def staleness(age: int, exponent: float) -> float:
    """(age + 1)^-exponent, 1 for a fresh reply."""
    return float((age + 1) ** -exponent)
