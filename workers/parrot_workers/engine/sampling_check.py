"""Whether a sampling fits a model. Needs no torch, so that it can be asked when a request comes."""

from __future__ import annotations

from parrot_mq.errors import UnknownToken
from parrot_mq.types import Sampling

__all__ = ["check_token_ids"]


def check_token_ids(sampling: Sampling, vocab_size: int) -> None:
    """Refuse tokens that a model does not have.

    Raises:
        UnknownToken: Names the first such token, and the field.
    """
    for field, token_ids in (("logit_bias", sampling.logit_bias), ("stop_token_ids", sampling.stop_token_ids)):
        for token_id in token_ids:
            if token_id >= vocab_size:
                raise UnknownToken(field=field, token_id=token_id, vocab_size=vocab_size)
