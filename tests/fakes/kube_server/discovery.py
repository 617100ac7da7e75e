"""The documents from which clients learn what the server has, and which version it is."""

from typing import Any

from tests.fakes.kube_server.resources import RESOURCES, Resource

VERSION = {
    "major": "1",
    "minor": "37",
    "gitVersion": "v1.37.2",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "go1.26.0",
    "compiler": "gc",
    "platform": "linux/amd64",
}


def document(path: str, address: str) -> dict[str, Any] | None:
    """What a GET of this path returns, None if it is no address of a document."""
    match path.strip("/").split("/"):
        case ["version"]:
            return VERSION
        case ["api"]:
            return {
                "kind": "APIVersions",
                "versions": ["v1"],
                "serverAddressByClientCIDRs": [
                    {"clientCIDR": "0.0.0.0/0", "serverAddress": address}
                ],
            }
        case ["apis"]:
            groups = dict.fromkeys(each.group for each in RESOURCES if each.group)
            return {
                "kind": "APIGroupList",
                "apiVersion": "v1",
                "groups": [_group(name) for name in groups],
            }
        case ["apis", group] if any(each.group == group for each in RESOURCES):
            return {"kind": "APIGroup", "apiVersion": "v1", **_group(group)}
        case ["api", "v1"]:
            return _resources("", "v1")
        case ["apis", group, version]:
            return _resources(group, version)
        case ["openapi", "v3"]:
            versions = dict.fromkeys(_address(each) for each in RESOURCES)
            return {
                "paths": {
                    place: {"serverRelativeURL": f"/openapi/v3/{place}?hash=1"}
                    for place in versions
                }
            }
        case ["openapi", "v3", *rest]:
            return _openapi("/".join(rest))
    return None


def _group(name: str) -> dict[str, Any]:
    version = {"groupVersion": f"{name}/v1", "version": "v1"}
    return {"name": name, "versions": [version], "preferredVersion": version}


def _resources(group: str, version: str) -> dict[str, Any] | None:
    there = [each for each in RESOURCES if (each.group, each.version) == (group, version)]
    if not there:
        return None
    rows = [row for each in there for row in _rows(each)]
    head = {"kind": "APIResourceList"} | ({"apiVersion": "v1"} if group else {})
    return {**head, "groupVersion": there[0].api_version, "resources": rows}


def _rows(resource: Resource) -> list[dict[str, Any]]:
    row: dict[str, Any] = {
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": sorted(resource.verbs),
    }
    if resource.short:
        row["shortNames"] = list(resource.short)
    if not resource.status:
        return [row]
    status = {"name": f"{resource.plural}/status", "singularName": ""}
    status |= {key: row[key] for key in ("namespaced", "kind")}
    return [row, {**status, "verbs": ["get", "patch", "update"]}]


def _address(resource: Resource) -> str:
    return f"apis/{resource.api_version}" if resource.group else f"api/{resource.version}"


def _openapi(place: str) -> dict[str, Any] | None:
    """Just enough to show kubectl that the server checks fields, so that it need not."""
    there = [each for each in RESOURCES if _address(each) == place]
    if not there:
        return None
    return {
        "openapi": "3.0.0",
        "info": {"title": "kube_server", "version": VERSION["gitVersion"]},
        "paths": {f"/{place}/{each.plural}/{{name}}": _patch_operation(each) for each in there},
    }


def _patch_operation(resource: Resource) -> dict[str, Any]:
    return {
        "patch": {
            "parameters": [
                {"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}
            ],
            "responses": {"200": {"description": "OK"}},
            "x-kubernetes-group-version-kind": {
                "group": resource.group,
                "version": resource.version,
                "kind": resource.kind,
            },
        }
    }
