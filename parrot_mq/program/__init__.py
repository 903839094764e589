"""Programs: prompts as functions, their variables, and the graph they form. Pure: no I/O, no tasks."""

from parrot_mq.program.base import ProgramFunction
from parrot_mq.program.call import Call, FunctionCall, PromptCall
from parrot_mq.program.function import SemanticFunction, semantic_function
from parrot_mq.program.graph import FailedNode, Graph, Node
from parrot_mq.program.marks import Mark, check_mark
from parrot_mq.program.native import NativeFunction, native_function
from parrot_mq.program.native_signature import NativeSpec
from parrot_mq.program.objectives import Objectives, Standing
from parrot_mq.program.parameters import DEFAULT_SEPARATOR, Input, Output, Separator
from parrot_mq.program.plan import MAX_PROMPT_PARTS, OutputPlan, plan_outputs
from parrot_mq.program.prefix import chain_digests, prefix_hashes, segment_digest
from parrot_mq.program.selection import Selection, select
from parrot_mq.program.session_context import Caller, current_session
from parrot_mq.program.signature import FunctionSpec
from parrot_mq.program.spec import CallableSpec
from parrot_mq.program.template import Part, Placeholder, Template, Text, escape_braces, parse_template
from parrot_mq.program.transforms import Join, JsonPointer, Regex, Split, Strip, Transform
from parrot_mq.program.values import InputText, variables_in
from parrot_mq.program.variable import ListVariable, SemanticVariable, VariableStore

__all__ = [
    "Call",
    "CallableSpec",
    "Caller",
    "DEFAULT_SEPARATOR",
    "FailedNode",
    "FunctionCall",
    "FunctionSpec",
    "Graph",
    "Input",
    "InputText",
    "Join",
    "JsonPointer",
    "ListVariable",
    "MAX_PROMPT_PARTS",
    "Mark",
    "NativeFunction",
    "NativeSpec",
    "Node",
    "Objectives",
    "Output",
    "OutputPlan",
    "Part",
    "Placeholder",
    "ProgramFunction",
    "PromptCall",
    "Regex",
    "Selection",
    "SemanticFunction",
    "SemanticVariable",
    "Separator",
    "Split",
    "Standing",
    "Strip",
    "Template",
    "Text",
    "Transform",
    "VariableStore",
    "chain_digests",
    "check_mark",
    "current_session",
    "escape_braces",
    "native_function",
    "parse_template",
    "plan_outputs",
    "prefix_hashes",
    "segment_digest",
    "select",
    "semantic_function",
    "variables_in",
]
