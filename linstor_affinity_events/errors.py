"""The exceptions of this project, grouped by what the caller should do next."""


class AffinityEventsError(Exception):
    """The root. Catch it by this name only where the error is reported to a user."""


class Again(AffinityEventsError):
    """The request is valid: retry it later."""

    def __init__(self, message: str, *, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after
        """The seconds to wait that the peer asked for, if any."""


class Unreachable(Again):
    """The peer did not respond, sent a malformed response, or asked to retry later."""


class TooLong(Unreachable):
    """The response exceeds the size limit."""


class Conflict(Again):
    """Another client wrote first. Read and decide again; never resend the same request."""


class Stalled(Again):
    """Requests are accepted but have no effect."""


class Refused(AffinityEventsError):
    """The request fails until its input changes: report it once and wait for a trigger."""


class LoginRefused(Refused):
    """LINSTOR requires a login that is not configured, or rejects the configured one."""


class Forbidden(Refused):
    """Kubernetes does not grant the service this verb on this kind of object."""


class Invalid(Refused):
    """Kubernetes rejected the object: its schema, its validation or an admission policy."""

    def __init__(self, message: str, *, fields: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.fields = fields
        """The fields that the API server listed as causes."""


class BadEntry(Refused):
    """An object labelled as a journal entry is not a valid one and must not be acted on."""


class BadHandle(Refused):
    """A CSI volume handle that does not refer to a LINSTOR volume."""


class BadPolicy(Refused):
    """A remote access policy that is not valid; the message says which part is wrong."""


class BadSettings(Refused):
    """The settings are not valid; the message lists every mistake, one per line."""


class Missing(AffinityEventsError):
    """The object does not exist, or no longer exists."""


class Expired(AffinityEventsError):
    """The API server no longer has the version that a watch or list starts from: list again."""

    def __init__(self, message: str, *, go_on: str = "") -> None:
        super().__init__(message)
        self.go_on = go_on
        """The token with which the API server offers to continue the list, at its present state."""
