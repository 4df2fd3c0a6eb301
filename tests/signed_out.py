"""Sessions that were signed out, remembered in memory."""

from __future__ import annotations


class SignedOut:
    """As the database remembers them."""

    def __init__(self) -> None:
        self.signatures: set[str] = set()

    def end_session(self, signature: str, ends: float) -> None:
        self.signatures.add(signature)

    def has_ended(self, signature: str) -> bool:
        return signature in self.signatures


NOBODY = SignedOut()
