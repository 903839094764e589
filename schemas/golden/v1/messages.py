"""What the golden payloads of schema version 1 say. Add messages; change none: released clients send these bytes."""

from parrot_mq.messages import (
    Assign,
    Assigned,
    BlobRef,
    CancelGenerations,
    CoordinatorStarted,
    DeadTask,
    ErrorInfo,
    Generation,
    GenerationsReturned,
    Message,
    OutputSpec,
    PromptTask,
    ServiceQuery,
    ServiceReport,
    SessionCancel,
    SessionClose,
    SessionOpen,
    SessionReply,
    TaskEvent,
    TokenDelta,
    VariableRef,
    WorkerStatus,
)
from parrot_mq.types import Sampling

DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

ERROR = ErrorInfo(
    code="model_not_served",
    message="model 'large' is not served; served: small",
    retryable=True,
    facts={"model": "large", "served": ["small"], "num_workers": 1, "age_s": 0.5, "is_new": False, "hint": None},
)

STATUS = WorkerStatus(
    worker="worker-0",
    model="small",
    state="ready",
    num_slots=16,
    max_context_tokens=4096,
    running=["default.demo.haiku"],
)

MESSAGES: tuple[Message, ...] = (
    PromptTask(
        template="You answer in {{language}}.\n{{notes}}\nQ: {{question}}\nA: {{answer}}\nIn one word: {{word}}",
        inputs={
            "language": "Español",
            "notes": ["first note", VariableRef("note-2")],
            "question": VariableRef("question"),
        },
        outputs={
            "answer": OutputSpec(
                variable="answer",
                sampling=Sampling(max_tokens=64, stop=("\n", "Q:"), temperature=0.7, top_p=0.9, top_k=40, seed=7),
            ),
            "word": OutputSpec(variable="word_1"),
        },
        separators={"notes": "; "},
        model="small",
        timeout_s=90.5,
        function="answer_briefly",
    ),
    SessionOpen(),
    SessionCancel(variables=["answer", "word_1"]),
    SessionClose(),
    SessionReply(num_cancelled=2),
    ERROR,
    BlobRef(digest=DIGEST, size_bytes=1_048_577),
    TokenDelta(attempt=2, offset=11, text="parrots 🦜"),
    TaskEvent(
        kind="finished",
        task="answer-1",
        variable="answer",
        at=1_763_800_000.25,
        function="answer_briefly",
        reads=["question", "note-2"],
        worker="worker-0",
        batch="batch-1",
        num_prompt_tokens=120,
        num_shared_tokens=100,
        num_output_tokens=12,
        error=ERROR,
    ),
    DeadTask(session="demo", task="answer-1", reason=ERROR, record='{"type":"task.prompt"}'),
    Generation(
        tenant="default",
        session="demo",
        task="answer-1",
        variable="answer",
        attempt=1,
        prompt=[0, 1],
        prefix_hashes=["00ff", "ff00"],
        sampling=Sampling(max_tokens=64),
        deadline=1_763_800_090.5,
    ),
    Assign(
        batch="batch-1",
        segments=["You answer in Español.\n", BlobRef(digest=DIGEST, size_bytes=300_000)],
        generations=[
            Generation(
                tenant="default",
                session="demo",
                task="answer-1",
                variable="answer",
                attempt=1,
                prompt=[0, 1, 0],
                prefix_hashes=["00ff", "ff00", "0f0f"],
                sampling=Sampling(),
                deadline=1_763_800_090.5,
            )
        ],
    ),
    Assigned(refused=["default.demo.answer"]),
    CancelGenerations(keys=["default.demo.answer"]),
    GenerationsReturned(worker="worker-0", model="small", keys=["default.demo.answer"], reason=ERROR),
    STATUS,
    CoordinatorStarted(node="coordinator"),
    ServiceQuery(),
    ServiceReport(models=["small"], workers=[STATUS], num_unfinished=3),
)
