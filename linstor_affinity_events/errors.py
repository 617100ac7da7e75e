"""Everything we raise on purpose, sorted by what the caller should do next."""


class AffinityEventsError(Exception):
    """The root; caught by name only where a person is told."""


class Again(AffinityEventsError):
    """Nothing is wrong with the request: try once more, later."""

    def __init__(self, message: str, *, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after
        """Seconds the peer asked us to wait, if it said so."""


class Unreachable(Again):
    """The peer gave no answer, a broken one, or one that says "not now"."""


class TooLong(Unreachable):
    """The answer is longer than what is read of any."""


class Conflict(Again):
    """Somebody wrote first. Read afresh and decide anew; never send the same again."""


class Stalled(Again):
    """What we do is accepted and has no effect."""


class Refused(AffinityEventsError):
    """It fails the same way until its input changes: tell it once and wait for a hint."""


class LoginRefused(Refused):
    """LINSTOR wants a login that we don't have, or not this one."""


class Forbidden(Refused):
    """Kubernetes grants us no such verb on this kind of object."""


class Invalid(Refused):
    """Kubernetes read the object and said no: its schema, its rules or an admission policy."""

    def __init__(self, message: str, *, fields: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.fields = fields
        """The fields that the API server named as causes."""


class BadNote(Refused):
    """What claims to be a note of an unfinished replacement is none that we may act on."""


class BadHandle(Refused):
    """A CSI volume handle that names no LINSTOR volume."""


class BadPolicy(Refused):
    """A remote access policy that can't be read; the message says where it stops making sense."""


class BadSettings(Refused):
    """The operator's settings make no sense; the message names every mistake, one a line."""


class Missing(AffinityEventsError):
    """There is no such object (any more)."""


class Expired(AffinityEventsError):
    """What a watch or a list would go on from is forgotten: list again."""

    def __init__(self, message: str, *, go_on: str = "") -> None:
        super().__init__(message)
        self.go_on = go_on
        """From where the API server offers to continue a list, with what is there by now."""
