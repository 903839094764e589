"""Pipelines: an event on a subject or in a stream starts an LLM graph, and what comes of it is published."""

from parrot_mq.messages import DeadEvent
from parrot_mq.pipelines.dead import dead_events
from parrot_mq.pipelines.events import Event, EventFormat, encode_event, read_event
from parrot_mq.pipelines.file import load_pipeline
from parrot_mq.pipelines.mapping import Field
from parrot_mq.pipelines.pipeline import Limits, Pipeline, Result, Source, pipeline
from parrot_mq.pipelines.runner import PipelineRunner, PipelineStatistics

__all__ = [
    "DeadEvent",
    "Event",
    "EventFormat",
    "Field",
    "Limits",
    "Pipeline",
    "PipelineRunner",
    "PipelineStatistics",
    "Result",
    "Source",
    "dead_events",
    "encode_event",
    "load_pipeline",
    "pipeline",
    "read_event",
]
