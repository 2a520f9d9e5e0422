"""A found span as the tests of scoring and of views need it, without a model."""

from dataclasses import dataclass


@dataclass
class Found:
    """The fields of ``decoding.Candidate`` that are read there."""

    text: str
    start: int
    end: int
    probability: float
