"""The error tree. A message says what was expected, what was found, where, and what to do.

Only the two roots below :class:`MarketlakeError` decide retries: a :class:`Retryable` may succeed
when tried again, a :class:`Terminal` will not. What does not belong here: messages of one vendor
(they live where the vendor's answer is read) and anything that logs.
"""

from __future__ import annotations

from typing import Any


class MarketlakeError(Exception):
    """Base of every error Marketlake raises on purpose.

    Parameters
    ----------
    expected, was, where, todo
        What should have been true, what was true, the place (artifact, URL, setting), and the
        next step for a person.
    """

    def __init__(self, *, expected: str, was: str, where: str, todo: str) -> None:
        self.expected = expected
        self.was = was
        self.where = where
        self.todo = todo
        super().__init__(f"expected {expected}; was {was}; where: {where}; what to do: {todo}")

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only arguments defeat the default pickling, and tasks cross process borders.
        return (_rebuild, (type(self), self.__dict__.copy()))


def _rebuild(kind: type[MarketlakeError], state: dict[str, Any]) -> MarketlakeError:
    names = ("expected", "was", "where", "todo")
    error = kind(**{name: state[name] for name in names})
    error.__dict__.update(state)
    return error


class Retryable(MarketlakeError):
    """The same call may succeed later."""


class RateLimited(Retryable):
    """A vendor asked us to slow down; ``retry_after_s`` is its own word, if it gave one."""

    retry_after_s: float | None = None


class SourceUnavailable(Retryable):
    """A vendor or one of our own services did not answer properly."""


class Timeout(Retryable):
    """A call did not finish within its bound."""


class MissingPartition(Retryable):
    """A session that this computation needs is not published yet."""


class Terminal(MarketlakeError):
    """The same call would fail again."""


class AuthFailed(Terminal):
    """A credential was refused."""


class NotFound(Terminal):
    """The vendor does not know the thing that was asked for."""


class BadPayload(Terminal):
    """An answer came, but it does not have the documented shape."""


class EmptyAnswer(Terminal):
    """An answer came with nothing in it where something must be."""


class Stale(Terminal):
    """An answer repeats what was true earlier."""


class ContractViolation(Terminal):
    """A frame or document does not have its contract's shape."""


class GateFailed(Terminal):
    """A quality gate refused an artifact; nothing downstream may publish."""


class LookaheadError(Terminal):
    """A computation asked for something that was not known at its session."""


class Shredded(Terminal):
    """A document whose key was deleted on purpose; its text is gone for good."""


class DeadlineMissed(Terminal):
    """A session's report was not there when it should have been."""


class ConfigError(Terminal):
    """A setting, a parameter or a missing preparation; the message names the command to run."""
