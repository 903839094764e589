"""For tests of programs and of services: a simulated service in virtual time, and a real nats-server of their own."""

from parrot_mq.testing.latency_model import A100_7B, A100_13B, A6000_7B, LatencyModel
from parrot_mq.testing.nats_server import running_nats_server
from parrot_mq.testing.network import NetworkConditions
from parrot_mq.testing.service import SimulatedProcess, SimulatedService, simulated_service
from parrot_mq.testing.simulated_engine import SimulatedEngine
from parrot_mq.testing.simulated_requests import SimulatedPrefill, SimulatedRequest, SimulatedSegment, count_tokens
from parrot_mq.testing.simulated_worker import SimulatedWorker, SimulatedWorkerConfig, simulated_worker
from parrot_mq.testing.virtual_time import (
    SimulatedClock,
    SimulationDeadlock,
    SimulationError,
    SimulationStuck,
    SimulationTimeout,
    VirtualTimeLoop,
    run_simulation,
)

__all__ = [
    "A100_7B",
    "A100_13B",
    "A6000_7B",
    "LatencyModel",
    "NetworkConditions",
    "SimulatedClock",
    "SimulatedEngine",
    "SimulatedPrefill",
    "SimulatedProcess",
    "SimulatedRequest",
    "SimulatedSegment",
    "SimulatedService",
    "SimulatedWorker",
    "SimulatedWorkerConfig",
    "SimulationDeadlock",
    "SimulationError",
    "SimulationStuck",
    "SimulationTimeout",
    "VirtualTimeLoop",
    "count_tokens",
    "run_simulation",
    "running_nats_server",
    "simulated_service",
    "simulated_worker",
]
