"""Every no that a kube-apiserver says, in its own words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


class Refusal(Exception):
    """A response with a Status of kind Failure."""

    def __init__(
        self,
        code: int,
        reason: str | None,
        message: str,
        *,
        details: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": metadata or {},
            "status": "Failure",
            "message": message,
        }
        if reason is not None:
            self.status["reason"] = reason
        if details is not None:
            self.status["details"] = details
        self.status["code"] = code


@dataclass(frozen=True, slots=True)
class Mistake:
    """One field that validation did not like."""

    reason: str
    message: str
    field: str


def required(field: str, why: str = "") -> Mistake:
    message = f"Required value: {why}" if why else "Required value"
    return Mistake("FieldValueRequired", message, field)


def wrong(field: str, value: str, why: str) -> Mistake:
    """`value` is the JSON text of what was given."""
    return Mistake("FieldValueInvalid", f"Invalid value: {value}: {why}", field)


def forbidden_field(field: str, why: str) -> Mistake:
    return Mistake("FieldValueForbidden", f"Forbidden: {why}", field)


def unsupported(field: str, value: str, supported: Sequence[str]) -> Mistake:
    known = ", ".join(f'"{each}"' for each in supported)
    return Mistake(
        "FieldValueNotSupported", f"Unsupported value: {value}: supported values: {known}", field
    )


def too_long(field: str, limit: int) -> Mistake:
    return Mistake("FieldValueTooLong", f"Too long: may not be more than {limit} bytes", field)


def invalid(kind: str, name: str, mistakes: Sequence[Mistake], *, group: str = "") -> Refusal:
    """422 that lists all mistakes; `kind` is the Kind, or a plural where the real one says so."""
    # The same complaint twice is printed once, yet both stay among the causes.
    reported = list(dict.fromkeys(f"{each.field}: {each.message}" for each in mistakes))
    text = reported[0] if len(reported) == 1 else f"[{', '.join(reported)}]"
    details: dict[str, Any] = {"name": name} if name else {}
    if group:
        details["group"] = group
    details["kind"] = kind
    details["causes"] = [
        {"reason": each.reason, "message": each.message, "field": each.field} for each in mistakes
    ]
    qualified = f"{kind}.{group}" if group else kind
    return Refusal(422, "Invalid", f'{qualified} "{name}" is invalid: {text}', details=details)


def _details(name: str, kind: str, group: str) -> dict[str, Any]:
    details = {"name": name}
    if group:
        details["group"] = group
    details["kind"] = kind
    return details


def _qualified(plural: str, group: str) -> str:
    return f"{plural}.{group}" if group else plural


def not_found(plural: str, name: str, *, group: str = "") -> Refusal:
    message = f'{_qualified(plural, group)} "{name}" not found'
    return Refusal(404, "NotFound", message, details=_details(name, plural, group))


def already_exists(plural: str, name: str, *, group: str = "", terminating: bool) -> Refusal:
    prefix = "object is being deleted: " if terminating else ""
    message = f'{prefix}{_qualified(plural, group)} "{name}" already exists'
    return Refusal(409, "AlreadyExists", message, details=_details(name, plural, group))


def conflict(kind: str, name: str, why: str, *, group: str = "") -> Refusal:
    message = f'Operation cannot be fulfilled on {_qualified(kind, group)} "{name}": {why}'
    return Refusal(409, "Conflict", message, details=_details(name, kind, group))


def forbidden(plural: str, name: str, why: str, *, group: str = "") -> Refusal:
    subject = f'{_qualified(plural, group)} "{name}"' if name else _qualified(plural, group)
    details = _details(name, plural, group)
    if not name:
        del details["name"]
    return Refusal(403, "Forbidden", f"{subject} is forbidden: {why}", details=details)


def bad_request(message: str) -> Refusal:
    return Refusal(400, "BadRequest", message)


def internal(message: str) -> Refusal:
    return Refusal(500, None, message)


def rejected() -> Refusal:
    """What a JSON patch gets that can't be applied; the real one says no more either."""
    message = "the server rejected our request due to an error in our request"
    return Refusal(422, "Invalid", message, details={})


def expired(message: str, *, metadata: dict[str, Any] | None = None) -> Refusal:
    return Refusal(410, "Expired", message, metadata=metadata)


def no_such_path() -> Refusal:
    message = "the server could not find the requested resource"
    return Refusal(404, "NotFound", message, details={})


def method_not_allowed() -> Refusal:
    message = "the server does not allow this method on the requested resource"
    return Refusal(405, "MethodNotAllowed", message, details={})


def unauthorized() -> Refusal:
    return Refusal(401, "Unauthorized", "Unauthorized")


def too_large(limit: int) -> Refusal:
    message = f"Request entity too large: limit is {limit}"
    return Refusal(413, "RequestEntityTooLarge", message)


def too_large_version(version: int, current: int) -> Refusal:
    details = {
        "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
        "retryAfterSeconds": 1,
    }
    message = f"Timeout: Too large resource version: {version}, current: {current}"
    return Refusal(504, "Timeout", message, details=details)
