"""Operations: who sends what on which channel, and what comes back."""

from __future__ import annotations

from typing import NamedTuple

from schemas.asyncapi.channels import VALUE

__all__ = ["OPERATIONS", "ROLES", "Operation"]

ROLES = {
    "program": "Sets variables, submits tasks, waits for texts: a program of yours, in any language.",
    "coordinator": "Finds out what is ready, and which worker does it.",
    "worker": "Runs a model.",
    "function": "Serves native functions: a program of yours, in any language, or `parrot-mq native`.",
    "pipeline": "Starts programs for events that come in.",
    "tool": "Shows people what happens, and why.",
    "autoscaler": "Starts and stops workers.",
    "server": "The NATS server itself.",
}


class Operation(NamedTuple):
    """What somebody does on a channel.

    Attributes:
        role: Who.
        name: The operation's name, unique for its role.
        action: `send` or `receive`.
        channel: Where.
        summary: What for, in a sentence.
        messages: Which of the channel's messages; empty means all.
        replies: What comes back, if it is a request.
        queue: The queue group that whoever receives is in.
    """

    role: str
    name: str
    action: str
    channel: str
    summary: str
    messages: tuple[str, ...] = ()
    replies: tuple[str, ...] = ()
    queue: str = ""


_DONE = ("session.reply", "error")
_ANSWER = (*VALUE, "native.running")

OPERATIONS = (
    Operation("program", "setVariable", "send", "var", "Sets a variable, once.", replies=("stored",)),
    Operation("program", "hearVariable", "receive", "set", "Hears of values as soon as they are stored."),
    Operation(
        *("program", "readVariable", "send", "stored.var", "Reads a value, after subscribing and after a reconnect."),
        replies=(*VALUE, "missing"),
    ),
    Operation("program", "submitTask", "send", "task", "Submits a task.", replies=("stored",)),
    Operation("program", "followText", "receive", "stream", "Sees a text while it is generated."),
    Operation(
        *("program", "askForText", "send", "replay", "Asks for what it missed of a text."),
        replies=("token.delta", "error"),
    ),
    Operation("program", "openSession", "send", "control.open", "Announces a session.", replies=_DONE),
    Operation("program", "markVariables", "send", "control.mark", "Says what it wants.", replies=_DONE),
    Operation("program", "cancelTasks", "send", "control.cancel", "Gives up tasks.", replies=_DONE),
    Operation("program", "closeSession", "send", "control.close", "Ends a session.", replies=_DONE),
    Operation("program", "storeChunk", "send", "blob", "Stores a part of a large value.", replies=("stored",)),
    Operation(
        "program", "readChunk", "send", "stored.blob", "Reads a part of a large value.", replies=("chunk", "missing")
    ),
    Operation("tool", "watchEvents", "receive", "event", "Shows what happens."),
    Operation("tool", "watchValues", "receive", "set", "Shows what is stored."),
    Operation("tool", "watchText", "receive", "stream", "Shows texts while they are generated."),
    Operation(
        *("tool", "explainSession", "send", "control.explain", "Asks what happened, and why."),
        replies=("session.story", "error"),
    ),
    Operation("tool", "watchDead", "receive", "dead", "Hears of what is given up."),
    Operation(
        *("tool", "readDead", "send", "stored.dead", "Reads why."),
        replies=("task.dead", "pipeline.dead", "missing"),
    ),
    Operation(
        *("tool", "askWhoIsThere", "send", "registry", "Asks who is there, and what there is to do."),
        messages=("service.query",),
        replies=("service.report", "blob", "error"),
    ),
    Operation("coordinator", "readVariables", "receive", "var", "Follows what is set, through the stream."),
    Operation("coordinator", "failOutputs", "send", "var", "Says what went wrong with a task.", messages=("error",)),
    Operation("coordinator", "readTasks", "receive", "task", "Takes tasks up, through the stream."),
    Operation("coordinator", "beOpened", "receive", "control.open", "Begins a session.", replies=_DONE),
    Operation("coordinator", "beMarked", "receive", "control.mark", "Learns what is wanted.", replies=_DONE),
    Operation("coordinator", "beCancelled", "receive", "control.cancel", "Gives up tasks.", replies=_DONE),
    Operation("coordinator", "beClosed", "receive", "control.close", "Ends a session.", replies=_DONE),
    Operation(
        *("coordinator", "explain", "receive", "control.explain", "Tells what it remembers."),
        replies=("session.story", "error"),
    ),
    Operation(
        *("coordinator", "callFunction", "send", "call", "Calls a native function whose arguments are known."),
        replies=_ANSWER,
    ),
    Operation(
        *("coordinator", "giveUpCall", "send", "answers", "Says on the inbox of a beat that nobody wants the result."),
        messages=("empty",),
    ),
    Operation("coordinator", "setResult", "send", "var", "Sets results of native functions and of transforms, once."),
    Operation("coordinator", "tellEvents", "send", "event", "Tells what happens."),
    Operation(
        "coordinator", "buryTask", "send", "dead", "Keeps the record of a task that cannot be run.", ("task.dead",)
    ),
    Operation("coordinator", "readChunk", "send", "stored.blob", "Reads long prompts.", replies=("chunk", "missing")),
    Operation(
        *("coordinator", "beTold", "receive", "registry", "Learns who is there, and how far they are."),
        replies=("service.report", "empty", "blob", "error"),
    ),
    Operation(
        *("coordinator", "assign", "send", "worker", "Sends a batch of work."),
        messages=("worker.assign", "blob"),
        replies=("worker.assigned", "error"),
    ),
    Operation(
        *("coordinator", "advise", "send", "worker", "Takes work back, and says what to keep and to prepare."),
        messages=("worker.cancel", "worker.pin", "worker.prefill", "blob"),
    ),
    Operation("coordinator", "announce", "send", "started", "Says that it is up."),
    Operation("coordinator", "lead", "send", "lease", "Writes its lease anew, or takes it over.", replies=("stored",)),
    Operation("worker", "work", "receive", "worker", "Takes work and advice.", replies=("worker.assigned", "error")),
    Operation("worker", "streamText", "send", "stream", "Tells a text while it is generated."),
    Operation(
        *("worker", "replayText", "receive", "replay", "Tells what it has of a text; one that has nothing, nothing."),
        replies=("token.delta", "error"),
    ),
    Operation("worker", "setOutput", "send", "var", "Sets a task's output, once.", replies=("stored",)),
    Operation("worker", "storeChunk", "send", "blob", "Stores a part of a long output.", replies=("stored",)),
    Operation("worker", "readChunk", "send", "stored.blob", "Reads long prompts.", replies=("chunk", "missing")),
    Operation(
        *("worker", "report", "send", "registry", "Says who it is and how far it is; gives work back."),
        messages=("worker.status", "worker.returned", "blob"),
    ),
    Operation("worker", "hearCoordinator", "receive", "started", "Says at once who it is."),
    Operation(
        *("autoscaler", "report", "send", "registry", "Says what it does, and asks what there is to do."),
        messages=("autoscaler.status", "service.query", "blob"),
        replies=("service.report", "empty", "blob", "error"),
    ),
    Operation(
        *("autoscaler", "standDown", "send", "worker", "Asks a worker that it wants to stop to take nothing new."),
        messages=("worker.standby",),
    ),
    Operation(
        *("function", "beCalled", "receive", "call", "Runs the function, and answers."),
        replies=_ANSWER,
        queue="native",
    ),
    Operation(
        *("function", "beat", "send", "answers", "Says that it still runs; hears whether the result is still wanted."),
        messages=("native.running",),
        replies=("empty",),
    ),
    Operation("function", "storeChunk", "send", "blob", "Stores a part of a long answer.", replies=("stored",)),
    Operation("function", "readChunk", "send", "stored.blob", "Reads long arguments.", replies=("chunk", "missing")),
    Operation(
        *("pipeline", "buryEvent", "send", "dead", "Keeps an event that it gives up, and why."),
        messages=("pipeline.dead",),
        replies=("stored",),
    ),
    Operation("autoscaler", "hearCoordinator", "receive", "started", "Says at once who it is."),
    Operation("server", "tellValue", "send", "set", "Publishes what it has stored, and nothing that it refused."),
)
