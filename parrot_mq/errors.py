"""Every error a user can meet, in one tree.

    ParrotError
      ConfigurationError        CheckpointError, PipelineError
      ProcessFailed
      CodecError                MalformedMessage, UnknownMessageType, UnsupportedSchemaVersion
      ProgramError              InvalidName, SignatureError, TemplateError, CallError, GraphCycleError,
                                DuplicateProducer, VariableAlreadySet, InputFailed, ModelNotServed, TaskCancelled,
                                DeadlineExceeded, SessionClosed, TransformError, QuotaExceeded, EventMismatch,
                                FunctionNotServed, FunctionFailed, FunctionTimedOut
      ActorError                ActorNotFound, ActorNameTaken, ActorStopped, ActorFailed, AskTimeout, MailboxFull,
                                RestartIntensityExceeded
      TransportError            ConnectFailed, ConnectionClosed, ConnectionLost, ServerTooOld, JetStreamUnavailable,
                                StreamMismatch, PermissionDenied, NoResponders, RequestTimeout, PublishRejected,
                                SubjectTaken, RecordChanged, PayloadTooLarge, BlobMissing, ConsumerTakenOver,
                                ServerStartFailed
      WorkerError               CapacityExhausted, ContextLengthExceeded, UnknownToken, NoTokenAllowed,
                                GenerationAborted, EngineFailure
      ServiceManagerError       ServiceManagerUnavailable, UnitRefused

An error takes facts, keeps them as attributes and writes its own sentence. `code` names its class on the wire and
`retryable` says whether trying again can help; `messages.ErrorInfo` carries both, and `rebuild_error` gives back the
same class.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "ActorError",
    "ActorFailed",
    "ActorNameTaken",
    "ActorNotFound",
    "ActorStopped",
    "AskTimeout",
    "BlobMissing",
    "CallError",
    "CapacityExhausted",
    "CheckpointError",
    "CodecError",
    "ConfigurationError",
    "ConnectFailed",
    "ConnectionClosed",
    "ConnectionLost",
    "ConsumerTakenOver",
    "ContextLengthExceeded",
    "DeadlineExceeded",
    "DuplicateProducer",
    "EngineFailure",
    "EventMismatch",
    "FunctionFailed",
    "FunctionNotServed",
    "FunctionTimedOut",
    "GenerationAborted",
    "GraphCycleError",
    "InputFailed",
    "InvalidName",
    "JetStreamUnavailable",
    "MailboxFull",
    "MalformedMessage",
    "ModelNotServed",
    "NoResponders",
    "NoTokenAllowed",
    "ParrotError",
    "PayloadTooLarge",
    "PermissionDenied",
    "PipelineError",
    "ProcessFailed",
    "ProgramError",
    "PublishRejected",
    "QuotaExceeded",
    "RecordChanged",
    "RequestTimeout",
    "RestartIntensityExceeded",
    "ServerStartFailed",
    "ServerTooOld",
    "ServiceManagerError",
    "ServiceManagerUnavailable",
    "SessionClosed",
    "SignatureError",
    "StreamMismatch",
    "SubjectTaken",
    "TaskCancelled",
    "TemplateError",
    "TransformError",
    "TransportError",
    "UnitRefused",
    "UnknownMessageType",
    "UnknownToken",
    "UnsupportedSchemaVersion",
    "VariableAlreadySet",
    "WorkerError",
    "rebuild_error",
]

Fact = str | int | float | bool | list[str] | None
_BY_CODE: dict[str, type[ParrotError]] = {}


class ParrotError(Exception):
    """Base of all errors of this project.

    Attributes:
        code: Stable name of the class on the wire.
        retryable: True if the same attempt may succeed later.
        message: The sentence for a person.
        facts: What the sentence was made from; each is an attribute too.
    """

    code: str = "error"
    retryable: bool = False

    def __init__(self, message: str, **facts: Fact) -> None:
        super().__init__(message)
        self.message = message
        self.facts = facts
        for name, value in facts.items():
            setattr(self, name, value)

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if "code" in cls.__dict__:
            _BY_CODE[cls.code] = cls

    def __reduce__(self) -> tuple[object, ...]:
        return rebuild_error, (self.code, self.message, self.facts, self.retryable)


def rebuild_error(
    code: str, message: str, facts: dict[str, Fact] | None = None, retryable: bool = False
) -> ParrotError:
    """Give back the error that another process raised.

    An unknown `code`, such as one that a native function chose, becomes a plain `ParrotError` that keeps it and
    `retryable`.
    """
    cls = _BY_CODE.get(code, ParrotError)
    error = cls.__new__(cls)
    ParrotError.__init__(error, message, **(facts or {}))
    if cls is ParrotError and (code, retryable) != (cls.code, cls.retryable):
        error.code, error.retryable = code, retryable
    return error


# -- configuration ---------------------------------------------------------------------------------------------------


class ConfigurationError(ParrotError, ValueError):
    """A setting is missing or malformed; the sentence names it and the expected form."""

    code = "configuration"


class CheckpointError(ConfigurationError):
    """A model folder is not a checkpoint that can be served."""

    code = "checkpoint"
    path: str

    def __init__(self, *, path: str, problem: str, remedy: str) -> None:
        super().__init__(f"cannot load a model from {path!r}: {problem}; {remedy}", path=path)


class PipelineError(ConfigurationError):
    """The declaration of a pipeline has a mistake; the sentence says where, and what to write instead."""

    code = "pipeline"
    where: str

    def __init__(self, *, where: str, problem: str, remedy: str) -> None:
        super().__init__(f"{where}: {problem}; {remedy}", where=where)


# -- codec -----------------------------------------------------------------------------------------------------------


class CodecError(ParrotError, ValueError):
    """Bytes on the bus are not the message they should be."""

    code = "codec"


class MalformedMessage(CodecError):
    """A field is missing or has the wrong form."""

    code = "malformed_message"
    message_type: str
    path: str
    expected: str

    def __init__(self, *, message_type: str, path: str, expected: str) -> None:
        sentence = f"malformed {message_type} message at {path}: {expected}"
        super().__init__(sentence, message_type=message_type, path=path, expected=expected)


class UnknownMessageType(CodecError):
    """The `type` field names no message that is understood here."""

    code = "unknown_message_type"
    found: str

    def __init__(self, *, found: str, known: Sequence[str]) -> None:
        super().__init__(
            f"unknown message type {found!r}; understood here: {', '.join(sorted(known))}",
            found=found,
            known=sorted(known),
        )


class UnsupportedSchemaVersion(CodecError):
    """The `Pmq-Schema` header names a version that this release does not read."""

    code = "unsupported_schema_version"
    found: str

    def __init__(self, *, found: str, supported: Sequence[str]) -> None:
        super().__init__(
            f"schema version {found!r} is not supported; supported: {', '.join(supported)}",
            found=found,
            supported=list(supported),
        )


# -- programs --------------------------------------------------------------------------------------------------------


class ProgramError(ParrotError):
    """Something is wrong with a program or with what it asked for."""

    code = "program"


class InvalidName(ProgramError, ValueError):
    """A tenant, session, variable, task or model name cannot be used."""

    code = "invalid_name"
    kind: str
    name: str

    def __init__(self, *, kind: str, name: str, rule: str) -> None:
        super().__init__(f"{kind} name {name!r} cannot be used: {rule}", kind=kind, name=name)


class SignatureError(ProgramError, ValueError):
    """A function cannot be called in programs: its signature, or what it returns, is not of the form that it takes."""

    code = "signature"


class TemplateError(ProgramError, ValueError):
    """A template does not fit its function; the sentence shows the template and the place."""

    code = "template"


class CallError(ProgramError, TypeError):
    """A function was called with values that it cannot take."""

    code = "call"


class GraphCycleError(ProgramError):
    """A task would wait for its own output."""

    code = "graph_cycle"
    cycle: list[str]

    def __init__(self, *, cycle: Sequence[str]) -> None:
        super().__init__(f"the task waits for its own output: {' -> '.join(cycle)}", cycle=list(cycle))


class DuplicateProducer(ProgramError):
    """Two tasks want to write one variable."""

    code = "duplicate_producer"
    variable: str

    def __init__(self, *, variable: str, producer: str) -> None:
        super().__init__(
            f"variable {variable!r} is already written by task {producer!r}", variable=variable, producer=producer
        )


class VariableAlreadySet(ProgramError):
    """A variable is set once; it has another value already."""

    code = "variable_already_set"
    variable: str

    def __init__(self, *, variable: str) -> None:
        super().__init__(
            f"variable {variable!r} is set already, to another value; a variable is set once", variable=variable
        )


class InputFailed(ProgramError):
    """A task was given up because a variable that it reads failed."""

    code = "input_failed"
    variable: str
    cause: str

    def __init__(self, *, variable: str, cause_code: str, cause: str) -> None:
        super().__init__(f"input {variable!r} failed: {cause}", variable=variable, cause_code=cause_code, cause=cause)


class ModelNotServed(ProgramError, LookupError):
    """No worker serves the model that a task names."""

    code = "model_not_served"
    model: str
    served: list[str]

    def __init__(self, *, model: str, served: Sequence[str]) -> None:
        names = ", ".join(sorted(served)) or "none"
        wanted = f"model {model!r} is not served" if model else "the task names no model, and not exactly one is served"
        super().__init__(f"{wanted}; served: {names}", model=model, served=sorted(served))


class TaskCancelled(ProgramError):
    """The task was cancelled before its output was complete."""

    code = "task_cancelled"

    def __init__(self, *, task: str) -> None:
        super().__init__(f"task {task!r} was cancelled", task=task)


class DeadlineExceeded(ProgramError, TimeoutError):
    """The time that was given for a value is over."""

    code = "deadline_exceeded"
    timeout_s: float

    def __init__(self, *, what: str, timeout_s: float) -> None:
        super().__init__(f"{what} was not done within {timeout_s:g} s", what=what, timeout_s=timeout_s)


class QuotaExceeded(ProgramError):
    """A tenant has as much unfinished work as it may have."""

    code = "quota_exceeded"
    retryable = True

    def __init__(self, *, tenant: str, what: str, limit: int) -> None:
        super().__init__(
            f"tenant {tenant!r} has {limit} {what}, as many as it may have; submit more when some are finished, or "
            f"raise its quota in the coordinator's configuration",
            tenant=tenant,
            what=what,
            limit=limit,
        )


class SessionClosed(ProgramError):
    """The session was closed; it takes no calls and its values are gone."""

    code = "session_closed"

    def __init__(self, *, session: str) -> None:
        super().__init__(f"session {session!r} is closed; open a new one", session=session)


class TransformError(ProgramError, ValueError):
    """A transform did not fit the text it was given, or a variable that has to be a list is none."""

    code = "transform"


class FunctionNotServed(ProgramError, LookupError):
    """Nobody takes calls of the native function that a task names."""

    code = "function_not_served"
    function: str

    def __init__(self, *, function: str, remedy: str) -> None:
        super().__init__(f"native function {function!r} is not served: {remedy}", function=function)


class FunctionFailed(ProgramError):
    """A native function ended with an error, or its answer cannot be used."""

    code = "function_failed"
    function: str
    problem: str

    def __init__(self, *, function: str, problem: str) -> None:
        super().__init__(f"native function {function!r} failed: {problem}", function=function, problem=problem)


class FunctionTimedOut(ProgramError, TimeoutError):
    """A native function gave no answer in the time that one call may take, or whoever ran it was lost."""

    code = "function_timed_out"
    retryable = True
    function: str

    def __init__(self, *, function: str, problem: str) -> None:
        super().__init__(f"native function {function!r} gave no answer: {problem}", function=function, problem=problem)


class EventMismatch(ProgramError, ValueError):
    """An event does not have what its pipeline reads."""

    code = "event_mismatch"
    where: str

    def __init__(self, *, where: str, problem: str) -> None:
        super().__init__(f"the event does not fit the pipeline at {where}: {problem}", where=where)


# -- actors ----------------------------------------------------------------------------------------------------------


class ActorError(ParrotError):
    """Something is wrong between actors."""

    code = "actor"


class ActorNotFound(ActorError, LookupError):
    """Nobody listens at an address."""

    code = "actor_not_found"
    address: str

    def __init__(self, *, address: str) -> None:
        super().__init__(f"there is no actor at {address!r}", address=address)


class ActorNameTaken(ActorError, ValueError):
    """Another actor of the system has the name."""

    code = "actor_name_taken"
    address: str

    def __init__(self, *, address: str) -> None:
        super().__init__(f"there is an actor at {address!r} already", address=address)


class ActorStopped(ActorError):
    """The actor stopped before it handled the message."""

    code = "actor_stopped"
    address: str

    def __init__(self, *, address: str) -> None:
        super().__init__(f"the actor {address!r} has stopped", address=address)


class ActorFailed(ActorError):
    """The actor raised while it handled the message."""

    code = "actor_failed"
    address: str

    def __init__(self, *, address: str, cause: str) -> None:
        super().__init__(f"the actor {address!r} failed: {cause}", address=address, cause=cause)


class AskTimeout(ActorError, TimeoutError):
    """No answer came in time."""

    code = "ask_timeout"
    retryable = True
    address: str

    def __init__(self, *, address: str, timeout_s: float) -> None:
        super().__init__(f"{address!r} did not answer within {timeout_s:g} s", address=address, timeout_s=timeout_s)


class MailboxFull(ActorError):
    """A bounded mailbox has no room now."""

    code = "mailbox_full"
    retryable = True
    address: str

    def __init__(self, *, address: str, capacity: int) -> None:
        super().__init__(
            f"the mailbox of {address!r} is full ({capacity} messages)", address=address, capacity=capacity
        )


class RestartIntensityExceeded(ActorError):
    """An actor failed too often in too short a time; its supervisor gives up."""

    code = "restart_intensity_exceeded"
    address: str

    def __init__(self, *, address: str, intensity: int, period_s: float) -> None:
        super().__init__(
            f"{address!r} failed more than {intensity} times in {period_s:g} s",
            address=address,
            intensity=intensity,
            period_s=period_s,
        )


# -- transport -------------------------------------------------------------------------------------------------------


class TransportError(ParrotError):
    """Something is wrong between this process and the NATS server."""

    code = "transport"


class ConnectFailed(TransportError, ConnectionError):
    """No server could be reached."""

    code = "connect_failed"
    retryable = True

    def __init__(self, *, servers: Sequence[str], reason: str) -> None:
        names = ", ".join(servers)
        super().__init__(
            f"cannot connect to NATS at {names}: {reason}; start one with `parrot-mq up`",
            servers=list(servers),
            reason=reason,
        )


class ConnectionClosed(TransportError, ConnectionError):
    """The connection was closed and is not coming back."""

    code = "connection_closed"

    def __init__(self, *, reason: str = "it was closed here") -> None:
        super().__init__(f"the NATS connection is closed: {reason}", reason=reason)


class ConnectionLost(TransportError, ConnectionError):
    """The connection broke while an answer was awaited; it is being made again."""

    code = "connection_lost"
    retryable = True

    def __init__(self, *, subject: str) -> None:
        super().__init__(
            f"the connection to NATS was lost while waiting for an answer on {subject!r}; it is being made again",
            subject=subject,
        )


class ServerTooOld(TransportError):
    """The server lacks features that are needed."""

    code = "server_too_old"

    def __init__(self, *, found: str, needed: str) -> None:
        super().__init__(
            f"nats-server {found} is too old; version {needed} or newer is needed", found=found, needed=needed
        )


class JetStreamUnavailable(TransportError):
    """The server runs without JetStream, or this account may not use it."""

    code = "jetstream_unavailable"

    def __init__(self, *, reason: str) -> None:
        super().__init__(
            f"JetStream is not available: {reason}; start nats-server with `-js`, or enable it for the account",
            reason=reason,
        )


class StreamMismatch(TransportError):
    """A stream of ours exists with settings that cannot be changed in place."""

    code = "stream_mismatch"
    stream: str

    def __init__(self, *, stream: str, reason: str) -> None:
        super().__init__(f"stream {stream!r} exists with other settings: {reason}", stream=stream, reason=reason)


class PermissionDenied(TransportError, PermissionError):
    """The server does not allow this subject to this user."""

    code = "permission_denied"
    subject: str

    def __init__(self, *, operation: str, subject: str) -> None:
        super().__init__(
            f"not allowed to {operation} {subject!r}; check the user's permissions",
            operation=operation,
            subject=subject,
        )


class NoResponders(TransportError):
    """Nobody answers on a subject."""

    code = "no_responders"
    retryable = True
    subject: str

    def __init__(self, *, subject: str, remedy: str = "") -> None:
        super().__init__(f"nobody answers on {subject!r}" + (f"; {remedy}" if remedy else ""), subject=subject)


class RequestTimeout(TransportError, TimeoutError):
    """An answer did not come in time."""

    code = "request_timeout"
    retryable = True
    subject: str

    def __init__(self, *, subject: str, timeout_s: float) -> None:
        super().__init__(f"no answer on {subject!r} within {timeout_s:g} s", subject=subject, timeout_s=timeout_s)


class PublishRejected(TransportError):
    """The server refused to store a message."""

    code = "publish_rejected"
    subject: str
    err_code: int

    def __init__(self, *, subject: str, err_code: int, description: str) -> None:
        super().__init__(
            f"the server refused {subject!r}: {description} ({err_code})", subject=subject, err_code=err_code
        )


class SubjectTaken(TransportError):
    """A subject that is written once holds another payload already."""

    code = "subject_taken"
    subject: str

    def __init__(self, *, subject: str) -> None:
        super().__init__(f"{subject!r} is written already, with another payload", subject=subject)


class RecordChanged(TransportError):
    """Somebody else has written a record since it was read."""

    code = "record_changed"
    subject: str
    expected_sequence: int

    def __init__(self, *, subject: str, expected_sequence: int) -> None:
        super().__init__(
            f"{subject!r} was written by somebody else since it was read at sequence {expected_sequence}",
            subject=subject,
            expected_sequence=expected_sequence,
        )


class PayloadTooLarge(TransportError, ValueError):
    """A message, headers counted, is larger than the server takes."""

    code = "payload_too_large"
    subject: str

    def __init__(self, *, subject: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"the message for {subject!r} has {size_bytes} bytes, the limit is {limit_bytes}; "
            "publish large texts as variables",
            subject=subject,
            size_bytes=size_bytes,
            limit_bytes=limit_bytes,
        )


class BlobMissing(TransportError, LookupError):
    """A large value is not, or no longer, complete in the store."""

    code = "blob_missing"

    def __init__(self, *, digest: str) -> None:
        super().__init__(
            f"the large value {digest} is not in the store; it expired or was never complete", digest=digest
        )


class ConsumerTakenOver(TransportError):
    """Another process took over a consumer that one process at a time may hold."""

    code = "consumer_taken_over"

    def __init__(self, *, stream: str, consumer: str) -> None:
        super().__init__(
            f"another process took over consumer {consumer!r} of stream {stream!r}", stream=stream, consumer=consumer
        )


class ProcessFailed(ParrotError):
    """A process of the service cannot run."""

    code = "process_failed"

    def __init__(self, *, name: str, status: int, last_words: str) -> None:
        super().__init__(f"{name} ended with status {status}; its last words:\n{last_words}", name=name, status=status)


class ServerStartFailed(TransportError):
    """A nats-server could not be started on this machine."""

    code = "server_start_failed"

    def __init__(self, *, reason: str) -> None:
        super().__init__(f"nats-server did not start: {reason}", reason=reason)


# -- workers ---------------------------------------------------------------------------------------------------------


class WorkerError(ParrotError):
    """Something went wrong while a worker ran a task."""

    code = "worker"


class CapacityExhausted(WorkerError):
    """There is no room, and waiting will not make any."""

    code = "capacity_exhausted"
    retryable = True


class ContextLengthExceeded(WorkerError, ValueError):
    """Prompt and output together do not fit the model."""

    code = "context_length_exceeded"

    def __init__(self, *, num_prompt_tokens: int, max_tokens: int, limit: int) -> None:
        super().__init__(
            f"the prompt has {num_prompt_tokens} tokens and {max_tokens} may follow; the model takes {limit} in all",
            num_prompt_tokens=num_prompt_tokens, max_tokens=max_tokens, limit=limit,
        )  # fmt: skip


class UnknownToken(WorkerError, ValueError):
    """The sampling names a token that the model does not have."""

    code = "unknown_token"

    def __init__(self, *, field: str, token_id: int, vocab_size: int) -> None:
        super().__init__(
            f"`{field}` names token {token_id}; the model has the tokens 0 to {vocab_size - 1}",
            field=field, token_id=token_id, vocab_size=vocab_size,
        )  # fmt: skip


class NoTokenAllowed(WorkerError):
    """The constraint on the output allows no token where it may not end."""

    code = "no_token_allowed"


class GenerationAborted(WorkerError):
    """The worker stopped while it generated."""

    code = "generation_aborted"
    retryable = True


class EngineFailure(WorkerError):
    """The engine raised; the sentence says what."""

    code = "engine_failure"

    def __init__(self, *, cause: str) -> None:
        super().__init__(f"the engine failed: {cause}", cause=cause)


# -- service manager -------------------------------------------------------------------------------------------------


class ServiceManagerError(ParrotError):
    """Something is wrong between this process and the service manager."""

    code = "service_manager"


class ServiceManagerUnavailable(ServiceManagerError, ConnectionError):
    """The service manager does not answer."""

    code = "service_manager_unavailable"
    retryable = True

    def __init__(self, *, reason: str) -> None:
        super().__init__(f"systemd does not answer over D-Bus: {reason}", reason=reason)


class UnitRefused(ServiceManagerError):
    """The service manager did not do with a unit what it was asked to."""

    code = "unit_refused"
    unit: str
    reason: str

    def __init__(self, *, unit: str, operation: str, reason: str) -> None:
        super().__init__(
            f"systemd refused to {operation} {unit!r}: {reason}", unit=unit, operation=operation, reason=reason
        )
