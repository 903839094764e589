"""The engine: synchronous, no asyncio, no bus. Importing this package imports no torch; `create_engine` does."""

from parrot_workers.engine.base import (
    Delta,
    Engine,
    EngineEvent,
    EngineStatistics,
    Failed,
    Finished,
    FinishReason,
    GenerationRequest,
    Prefilled,
    PrefillRequest,
    Started,
)
from parrot_workers.engine.factory import create_engine
from parrot_workers.engine.scripted import ScriptedEngine

__all__ = [
    "Delta",
    "Engine",
    "EngineEvent",
    "EngineStatistics",
    "Failed",
    "FinishReason",
    "Finished",
    "GenerationRequest",
    "PrefillRequest",
    "Prefilled",
    "ScriptedEngine",
    "Started",
    "create_engine",
]
