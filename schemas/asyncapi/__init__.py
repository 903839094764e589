"""The whole bus as an AsyncAPI 3 document: subjects, who sends what there, and what comes back.

Addresses are built by `messages/subjects.py`, messages are the JSON Schemas in `json/`, streams are those that the bus
creates; only who sends and who receives is said here. `generate.py` writes the document.
"""

from schemas.asyncapi.document import document

__all__ = ["document"]
