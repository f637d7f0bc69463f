"""The stand-in for Kaggle that tests drive, with its faults."""

from pipelines.tools.kaggle_standin import (
    CLOSED_PROXY,
    Body,
    Competition,
    Cut,
    Delay,
    Drop,
    Html,
    Kernel,
    Lost,
    Request,
    Stall,
    Standin,
    Status,
    Submission,
    Truncated,
)

__all__ = [
    "CLOSED_PROXY",
    "Body",
    "Competition",
    "Cut",
    "Delay",
    "Drop",
    "Html",
    "Kernel",
    "Lost",
    "Request",
    "Stall",
    "Standin",
    "Status",
    "Submission",
    "Truncated",
]
