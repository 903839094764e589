"""The prefix hash chain: equal hashes mean equal content so far.

A prompt is a sequence of segments: its constants and the values of its placeholders. Hash i covers segments 0 to i:
`h[i] = blake2b-128(h[i-1] + sha256(segment i))`, with `h[-1]` empty. Two prompts have equal hashes up to i exactly
if their first i+1 segments are equal one by one. The boundaries count: `ab` + `c` and `a` + `bc` differ, though their
text is the same. They lie at placeholders only (parsing joins the constant text between two placeholders), so a
template cuts in one way. A large value of which only the SHA-256 is known is chained by it, without reading the text.

Source: Parrot, OSDI'24, section 4.2 (PrefixHash) and 5.3. The original chains names of variables, which differ for
equal texts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

__all__ = ["chain_digests", "prefix_hashes", "segment_digest"]


def segment_digest(text: str) -> bytes:
    """The SHA-256 of a text in UTF-8: the same digest under which a large value is stored."""
    return hashlib.sha256(text.encode()).digest()


def chain_digests(digests: Iterable[bytes], *, after: str = "") -> list[str]:
    """Hash of all content up to and including each segment, hex.

    Args:
        digests: SHA-256 of each segment.
        after: The last hash of the content before them; empty at the beginning of a prompt. `chain_digests(a + b)`
            is `chain_digests(a)` followed by `chain_digests(b, after=chain_digests(a)[-1])`.
    """
    previous = bytes.fromhex(after)
    hashes: list[str] = []
    for digest in digests:
        previous = hashlib.blake2b(previous + digest, digest_size=16).digest()
        hashes.append(previous.hex())
    return hashes


def prefix_hashes(segments: Iterable[str | bytes]) -> list[str]:
    """The chain over segments, each a text or the SHA-256 digest of one."""
    return chain_digests(segment if isinstance(segment, bytes) else segment_digest(segment) for segment in segments)
