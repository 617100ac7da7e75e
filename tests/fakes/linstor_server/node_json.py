"""A node as LINSTOR's API shows it, on REST and in events alike."""

from typing import Any

from tests.fakes.linstor_server.objects import Node

_ABSENT = (
    "IO exception occured when running '{0}': Cannot run program \"{1}\": error=2, No such file"
)

# The same for all nodes and most of a node's bytes, as on a real satellite without these tools.
_ABILITIES: dict[str, Any] = {
    "storage_providers": ["DISKLESS", "FILE", "FILE_THIN", "REMOTE_SPDK", "EBS_INIT", "EBS_TARGET"],
    "resource_layers": ["DRBD", "STORAGE"],
    "unsupported_providers": {
        "LVM": [_ABSENT.format("lvm version", "lvm")],
        "LVM_THIN": [_ABSENT.format("thin_check -V", "thin_check")],
        "SPDK": [_ABSENT.format("rpc.py spdk_get_version", "rpc.py")],
        "STORAGE_SPACES": ["This tool does not exist on the Linux platform."],
        "STORAGE_SPACES_THIN": ["This tool does not exist on the Linux platform."],
        "ZFS": [_ABSENT.format("zfs --version", "zfs")],
        "ZFS_THIN": [_ABSENT.format("zfs --version", "zfs")],
    },
    "unsupported_layers": {
        "LUKS": [_ABSENT.format("cryptsetup --version", "cryptsetup")],
        "NVME": [_ABSENT.format("modprobe nvmet_rdma", "modprobe")],
        "WRITECACHE": [_ABSENT.format("modprobe dm-writecache", "modprobe")],
        "CACHE": [_ABSENT.format("modprobe dm-cache", "modprobe")],
        "BCACHE": [_ABSENT.format("modprobe bcache", "modprobe")],
    },
}


def node_json(node: Node) -> dict[str, Any]:
    """Everything about a node; `flags` are absent while it is healthy."""
    return {
        "name": node.name,
        "type": "SATELLITE",
        "props": dict(node.props),
        **({"flags": sorted(node.flags)} if node.flags else {}),
        "net_interfaces": [
            {
                "name": "default",
                "address": "127.0.0.1",
                "satellite_port": 3470 + node.number,
                "satellite_encryption_type": "PLAIN",
                "is_active": True,
                "uuid": f"{node.uuid[:-1]}f",
            }
        ],
        "connection_status": "ONLINE" if node.online else "OFFLINE",
        "uuid": node.uuid,
        **_ABILITIES,
    }


def storage_pools_json(node: Node) -> list[dict[str, Any]]:
    """The pools that every node here has: one with room, one for replicas without a disk."""
    return [
        {
            "storage_pool_name": "fpool",
            "node_name": node.name,
            "provider_kind": "FILE_THIN",
            "props": {"StorDriver/StorPoolName": "/var/lib/linstor-pools/fpool"},
            "static_traits": {"Provisioning": "Thin", "SupportsSnapshots": "true"},
            "free_capacity": 1 << 30,
            "total_capacity": 1 << 30,
            "free_space_mgr_name": f"{node.name}:fpool",
            "uuid": f"{node.uuid[:-1]}e",
            "supports_snapshots": True,
        },
        {
            "storage_pool_name": "DfltDisklessStorPool",
            "node_name": node.name,
            "provider_kind": "DISKLESS",
            "static_traits": {"SupportsSnapshots": "false"},
            "free_space_mgr_name": f"{node.name}:DfltDisklessStorPool",
            "uuid": f"{node.uuid[:-1]}d",
            "supports_snapshots": False,
        },
    ]
