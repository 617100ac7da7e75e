"""Resource and volume definitions as LINSTOR's API shows them."""

from typing import Any

import orjson

from tests.fakes.linstor_server.objects import Definition, VolumeDefinition


def encoded_definition(definition: Definition, *, with_volumes: bool) -> bytes:
    """The JSON of a definition, made once per change: a list may hold 50,000 of them."""
    if with_volumes not in definition.encoded:
        shown = definition_json(definition)
        if with_volumes:
            shown["volume_definitions"] = volumes_json(definition)
        definition.encoded[with_volumes] = orjson.dumps(shown)
    return definition.encoded[with_volumes]


def definition_json(definition: Definition) -> dict[str, Any]:
    return {
        "name": definition.name,
        "props": definition.props,
        **({"flags": ["DELETE"]} if definition.deleting else {}),
        "layer_data": [
            {"type": layer, "data": drbd_json(definition)} if layer == "DRBD" else {"type": layer}
            for layer in definition.layers
        ],
        "uuid": definition.uuid,
        "resource_group_name": definition.group,
    }


def drbd_json(definition: Definition) -> dict[str, Any]:
    """DRBD's part, shared secret and all, as the controller shows it to anyone who may look."""
    return {
        "peer_slots": 7,
        "al_stripes": 1,
        "al_stripe_size_kib": 32,
        "port": -1,
        "transport_type": "IP",
        "secret": definition.secret,
        "down": False,
    }


def volumes_json(definition: Definition) -> list[dict[str, Any]]:
    return [volume_json(definition, volume) for volume in definition.volumes.values()]


def volume_json(definition: Definition, volume: VolumeDefinition) -> dict[str, Any]:
    return {
        "volume_number": volume.number,
        "size_kib": volume.size_kib,
        "props": volume.props,
        **({"flags": ["DRBD_INITIALIZED"]} if definition.has_drbd else {}),
        "layer_data": [
            {"type": layer, "data": drbd_volume_json(volume)}
            if layer == "DRBD"
            else {"type": layer}
            for layer in definition.layers
        ],
        "uuid": volume.uuid,
    }


def drbd_volume_json(volume: VolumeDefinition) -> dict[str, Any]:
    return {"volume_number": volume.number, "minor_number": volume.minor}
