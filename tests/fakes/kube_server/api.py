"""From a request's parts to a response's: the protocol without the connection."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from tests.fakes.kube_server.access import Access
from tests.fakes.kube_server.cluster import FakeCluster
from tests.fakes.kube_server.lists import Lists, encoded_list, encoded_object
from tests.fakes.kube_server.metadata import Writer
from tests.fakes.kube_server.patches import JSON_PATCH, MERGE, STRATEGIC
from tests.fakes.kube_server.refusals import (
    Refusal,
    bad_request,
    invalid,
    not_found,
    unsupported,
)
from tests.fakes.kube_server.resources import ACCESS_REVIEWS
from tests.fakes.kube_server.routes import Target
from tests.fakes.kube_server.rules import Object
from tests.fakes.kube_server.selectors import Selector
from tests.fakes.kube_server.store import shown
from tests.fakes.kube_server.views import view_of, wanted_view


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request whose address was understood."""

    target: Target
    verb: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    body: bytes
    warnings: list[str] = field(default_factory=list)


class Api:
    """Everything but watches, which never end."""

    def __init__(self, cluster: FakeCluster, access: Access) -> None:
        self._cluster, self._access = cluster, access
        self.lists = Lists(cluster)

    def respond(self, asked: Asked) -> Response:
        """Raises Refusal."""
        view = wanted_view(asked.headers.get("Accept", ""))
        if asked.verb == "list":
            return self._list(asked, view)
        if asked.verb == "get":
            return self._get(asked, view)
        if asked.target.resource is ACCESS_REVIEWS:
            return _encoded(201, self._access.review(_manifest(asked)))
        writer = _writer(asked)
        if asked.verb == "delete":
            return self._delete(asked, writer)
        status, written = self._written(asked, writer)
        if view and view != "Table":
            written = view_of(view, asked.target.resource, [written], None)
        return _encoded(status, written, writer.warnings)

    def _list(self, asked: Asked, view: str) -> Response:
        target = asked.target
        page = self.lists.page(target.resource, target.namespace, selector_of(asked), asked.query)
        if not view:
            return Response(200, encoded_list(target.resource, page))
        objects = [shown(target.resource, stored) for stored in page.items]
        return _encoded(200, view_of(view, target.resource, objects, page.metadata))

    def _get(self, asked: Asked, view: str) -> Response:
        target = asked.target
        stored = self._cluster.collection(target.resource).get((target.namespace, target.name))
        if stored is None:
            raise not_found(target.resource.plural, target.name, group=target.resource.group)
        if not view:
            return Response(200, encoded_object(target.resource, stored) + b"\n")
        object_ = shown(target.resource, stored)
        return _encoded(200, view_of(view, target.resource, [object_], None))

    def _written(self, asked: Asked, writer: Writer) -> tuple[int, Object]:
        target, resource = asked.target, asked.target.resource.qualified
        if asked.verb == "patch":
            kind = asked.headers.get("Content-Type", "").partition(";")[0].strip()
            if kind not in (MERGE, STRATEGIC, JSON_PATCH):
                message = "415: Unsupported Media Type"
                raise Refusal(415, "UnsupportedMediaType", message, details={})
            patch = _patch(asked)
            after = self._cluster.patch(
                resource,
                target.name,
                patch,
                namespace=target.namespace,
                content_type=kind,
                writer=writer,
            )
            return 200, after
        manifest = _manifest(asked)
        if asked.verb == "create":
            made = self._cluster.create(
                resource, manifest, namespace=target.namespace, writer=writer
            )
            return 201, made
        after, created = self._cluster.update(
            resource, target.name, manifest, namespace=target.namespace, writer=writer
        )
        return (201 if created else 200), after

    def _delete(self, asked: Asked, writer: Writer) -> Response:
        target, resource = asked.target, asked.target.resource
        options = _json(asked) if asked.body else {}
        writer.dry_run = writer.dry_run or options.get("dryRun") == ["All"]
        conditions = options.get("preconditions") or {}
        before, gone = self._cluster.delete(
            resource.qualified,
            target.name,
            namespace=target.namespace,
            uid=conditions.get("uid"),
            version=conditions.get("resourceVersion"),
            writer=writer,
        )
        if not gone:
            return _encoded(200, before)
        group = {"group": resource.group} if resource.group else {}
        details = {"name": target.name, **group, "kind": resource.plural}
        details["uid"] = before["metadata"]["uid"]
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
        return _encoded(200, {**status, "details": details})


def selector_of(asked: Asked) -> Selector:
    return Selector(asked.query.get("labelSelector", ""), asked.query.get("fieldSelector", ""))


def _writer(asked: Asked) -> Writer:
    dry_run = asked.query.get("dryRun", "")
    if dry_run not in ("", "All"):
        options = {"create": "CreateOptions", "update": "UpdateOptions", "patch": "PatchOptions"}
        kind = options.get(asked.verb, "DeleteOptions")
        mistake = unsupported("dryRun", f'["{dry_run}"]', ("All",))
        raise invalid(kind, "", [mistake], group="meta.k8s.io")
    agent = asked.headers.get("User-Agent", "unknown").partition("/")[0]
    return Writer(
        name=asked.query.get("fieldManager") or agent,
        dry_run=dry_run == "All",
        strict=asked.query.get("fieldValidation") == "Strict",
        subresource=asked.target.subresource,
    )


def _manifest(asked: Asked) -> Object:
    kind = asked.headers.get("Content-Type", "application/json").partition(";")[0].strip()
    if kind != "application/json":
        message = (
            "the body of the request was in an unknown format - accepted media types include: "
            "application/json"
        )
        raise Refusal(415, "UnsupportedMediaType", message)
    return _json(asked)


def _json(asked: Asked) -> Object:
    try:
        decoded: Any = orjson.loads(asked.body)
    except orjson.JSONDecodeError as error:
        raise bad_request(
            f"the object provided is unrecognized (must be of type {asked.target.resource.kind}): "
            f"couldn't get version/kind; json parse error: {error}"
        ) from error
    if not isinstance(decoded, dict):
        raise bad_request(
            f"the object provided is unrecognized (must be of type {asked.target.resource.kind}): "
            "couldn't get version/kind; json parse error: json: cannot unmarshal array into Go "
            "value"
        )
    return decoded


def _patch(asked: Asked) -> Any:
    try:
        return orjson.loads(asked.body)
    except orjson.JSONDecodeError as error:
        raise bad_request(f"error decoding patch: {error}") from error


def _encoded(status: int, content: Object, warnings: list[str] | None = None) -> Response:
    return Response(status, orjson.dumps(content) + b"\n", warnings or [])
