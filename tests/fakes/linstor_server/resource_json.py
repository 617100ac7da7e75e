"""Replicas as LINSTOR's API shows them; on an offline node it shows less."""

from typing import Any

from tests.fakes.linstor_server.definition_json import drbd_json, drbd_volume_json
from tests.fakes.linstor_server.objects import Replica, VolumeDefinition


def resource_json(replica: Replica) -> dict[str, Any]:
    """A row of `.../resources`: all from the controller's memory."""
    return {
        "name": replica.definition.name,
        "node_name": replica.node.name,
        "props": {"StorPoolName": _pool(replica)},
        **({"flags": replica.listed_flags} if replica.flags else {}),
        "layer_object": _layer_object(replica, replica.definition.layers),
        **({"state": _state(replica)} if replica.reports else {}),
        "uuid": replica.uuid,
        "create_timestamp": replica.created_ms,
    }


def view_json(replica: Replica) -> dict[str, Any]:
    """A row of `view/resources`: with volumes, for which LINSTOR asks the satellites."""
    volumes = replica.definition.volumes.values()
    return resource_json(replica) | {
        "volumes": [volume_json(replica, volume) for volume in volumes]
    }


def _pool(replica: Replica) -> str:
    return "fpool" if replica.diskful else "DfltDisklessStorPool"


def _state(replica: Replica) -> dict[str, Any]:
    return {"in_use": replica.in_use} if replica.definition.has_drbd else {}


def _layer_object(replica: Replica, layers: tuple[str, ...]) -> dict[str, Any]:
    layer, *below = layers
    children = {"children": [_layer_object(replica, tuple(below))]} if below else {}
    own: dict[str, Any] = {}
    if layer == "DRBD":
        own = _drbd(replica)
    elif layer == "STORAGE":
        volumes = replica.definition.volumes.values()
        own = {"storage_volumes": [_storage_volume(replica, volume) for volume in volumes]}
    return {**children, "type": layer, layer.lower(): own}


def _drbd(replica: Replica) -> dict[str, Any]:
    return {
        "drbd_resource_definition": drbd_json(replica.definition),
        "node_id": replica.drbd_id,
        "tcp_ports": [replica.port],
        "peer_slots": 7,
        "al_stripes": 1,
        "al_size": 32,
        "flags": ["INITIALIZED"] if replica.diskful else ["DISKLESS", "INITIALIZED"],
        "drbd_volumes": [
            _drbd_volume(replica, volume) for volume in replica.definition.volumes.values()
        ],
        **_drbd_state(replica),
    }


def _drbd_state(replica: Replica) -> dict[str, Any]:
    may_promote = replica.may_promote
    if may_promote is None:
        return {}
    return {
        "connections": {
            peer.node.name: {
                "connected": peer.reports,
                "message": "Connected" if peer.reports else "Connecting",
            }
            for peer in _peers(replica)
        },
        "promotion_score": 10101 if may_promote else 0,
        "may_promote": may_promote,
    }


def _peers(replica: Replica) -> list[Replica]:
    return [peer for peer in replica.definition.replicas.values() if peer is not replica]


def _backing_device(volume: VolumeDefinition) -> str:
    return f"/dev/loop{volume.minor}"


def _drbd_volume(replica: Replica, volume: VolumeDefinition) -> dict[str, Any]:
    return {
        "drbd_volume_definition": drbd_volume_json(volume),
        "device_path": f"/dev/drbd{volume.minor}",
        **({"backing_device": _backing_device(volume)} if replica.diskful else {}),
        "allocated_size_kib": volume.size_kib + 40 if replica.diskful else -1,
        "usable_size_kib": volume.size_kib,
    }


def _storage_volume(replica: Replica, volume: VolumeDefinition) -> dict[str, Any]:
    if not replica.diskful:
        return {
            "volume_number": volume.number,
            "allocated_size_kib": 0,
            "usable_size_kib": volume.size_kib,
        }
    return {
        "volume_number": volume.number,
        "device_path": _backing_device(volume),
        "allocated_size_kib": 8,
        "usable_size_kib": 8,
        "disk_state": "[]",
    }


def volume_json(replica: Replica, volume: VolumeDefinition) -> dict[str, Any]:
    has_drbd = replica.definition.has_drbd
    return {
        "volume_number": volume.number,
        "storage_pool_name": _pool(replica),
        "provider_kind": "FILE_THIN" if replica.diskful else "DISKLESS",
        "device_path": f"/dev/drbd{volume.minor}" if has_drbd else _backing_device(volume),
        "allocated_size_kib": 0,
        **({"props": own} if (own := replica.volume_props.get(volume.number)) else {}),
        **({"state": _volume_state(replica)} if has_drbd and replica.reports else {}),
        "layer_data_list": [
            {"type": layer, **_layer_volume(replica, volume, layer)}
            for layer in replica.definition.layers
        ],
        "uuid": volume.uuid,
    }


def _layer_volume(replica: Replica, volume: VolumeDefinition, layer: str) -> dict[str, Any]:
    match layer:
        case "DRBD":
            return {"data": _drbd_volume(replica, volume)}
        case "STORAGE":
            return {"data": _storage_volume(replica, volume)}
        case _:
            return {}


def _volume_state(replica: Replica) -> dict[str, Any]:
    return {
        "disk_state": "UpToDate" if replica.has_disk else "Diskless",
        "replication_states": {
            peer.node.name: {"replication_state": "Established"}
            for peer in _peers(replica)
            if peer.reports
        },
    }
