"""Native functions: hosts that serve people's own functions as steps of programs. No code travels."""

from parrot_mq.native.host import NativeHost
from parrot_mq.native.loading import load_functions
from parrot_mq.native.statistics import HostStatistics, ServedStatistics
from parrot_mq.native.work import current_call

__all__ = ["HostStatistics", "NativeHost", "ServedStatistics", "current_call", "load_functions"]
