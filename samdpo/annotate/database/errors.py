"""What the preference database refuses, as sentences."""

from __future__ import annotations

from samdpo.errors import SamdpoError


class DatabaseError(SamdpoError):
    """The preference database cannot be opened, or what is asked of it contradicts what it holds."""


class NewerSchemaError(DatabaseError):
    """A later version of samdpo has written the database."""


class UnknownItemError(DatabaseError):
    """A judgement names an item that is not in the database."""


class AlreadyJudgedError(DatabaseError):
    """This person has judged this item already, under another client key."""


class NotHandedOutError(DatabaseError):
    """This person judges an item that the page has not handed to them."""


class EnoughJudgedError(DatabaseError):
    """Others have judged this item as often as it needs, while this person's lease had run out."""


class ClientKeyError(DatabaseError):
    """A client key that is known comes with another item, another person or another answer."""


class ConcurrencyError(DatabaseError):
    """PostgreSQL ended a transaction that waited for another one which waited for it; it can be done again."""


class ContradictionError(DatabaseError):
    """What is to be added contradicts what the database holds, or itself."""
