"""Pipelines that survive anything: each finished step is a row, and whoever is alive goes on."""

from services.kit.journal.engine import Engine
from services.kit.journal.model import (
    Claim,
    Definition,
    Ended,
    NewPipeline,
    PipelineState,
    RetryPolicy,
    Run,
    Step,
    StepContext,
    StepRecord,
    StepState,
    When,
)
from services.kit.journal.postgres import PostgresJournal

__all__ = [
    "Claim",
    "Definition",
    "Ended",
    "Engine",
    "NewPipeline",
    "PipelineState",
    "PostgresJournal",
    "RetryPolicy",
    "Run",
    "Step",
    "StepContext",
    "StepRecord",
    "StepState",
    "When",
]
