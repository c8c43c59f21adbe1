"""Pipelines that survive anything: each finished step is a row, and whoever is alive goes on."""

from services.kit.journal.change_log import Change
from services.kit.journal.changes import ChangeFeed
from services.kit.journal.engine import Engine
from services.kit.journal.model import (
    Claim,
    Definition,
    Ended,
    Family,
    NewPipeline,
    PipelineState,
    Places,
    RetryPolicy,
    Run,
    SkipStep,
    Step,
    StepContext,
    StepRecord,
    StepState,
)
from services.kit.journal.pipelines import Pipelines
from services.kit.journal.postgres import PostgresJournal

__all__ = [
    "Change",
    "ChangeFeed",
    "Claim",
    "Definition",
    "Ended",
    "Engine",
    "Family",
    "NewPipeline",
    "PipelineState",
    "Pipelines",
    "Places",
    "PostgresJournal",
    "RetryPolicy",
    "Run",
    "SkipStep",
    "Step",
    "StepContext",
    "StepRecord",
    "StepState",
]
