"""PersistentVolumes and claims, one by one: uncached reads and guarded writes."""

import asyncio
from contextlib import AbstractContextManager
from typing import Any

from linstor_affinity_events.adapters.kubernetes.api import KubeApi, escaped
from linstor_affinity_events.adapters.kubernetes.index import FollowedVolume, VolumeIndex
from linstor_affinity_events.adapters.kubernetes.objects import describe, reduced_claim
from linstor_affinity_events.adapters.kubernetes.responses import object_of
from linstor_affinity_events.errors import Conflict, Missing, Unreachable
from linstor_affinity_events.model.manifest import (
    Manifest,
    Patch,
    bound_patch,
    name_of,
    uid_of,
    version_of,
)
from linstor_affinity_events.model.names import ClaimName, PvName
from linstor_affinity_events.model.recreation import released
from linstor_affinity_events.model.volume import Volume

VOLUMES_PATH = "/api/v1/persistentvolumes"
CLASSES_PATH = "/apis/storage.k8s.io/v1/storageclasses"


def _at(name: PvName) -> str:
    return f"{VOLUMES_PATH}/{escaped(name)}"


def _volume(response: dict[str, Any], what: str) -> Manifest:
    return object_of("PersistentVolume", response, what)


class KubeVolumes:
    """Implements engine.ports.Volumes."""

    def __init__(self, api: KubeApi, index: VolumeIndex) -> None:
        self._api, self._index = api, index

    async def read(self, name: PvName) -> Manifest | None:
        try:
            return _volume(await self._api.get(_at(name)), f"GET {_at(name)}")
        except Missing:
            return None

    async def read_claim(self, claim: ClaimName) -> Manifest | None:
        if not claim.is_valid:
            # No claim has this name, and the path of another request could come of it.
            return None
        namespace, name = escaped(claim.namespace), escaped(claim.name)
        path = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}"
        try:
            found = await self._api.get(path)
        except Missing:
            return None
        return reduced_claim(object_of("PersistentVolumeClaim", found, f"GET {path}"))

    async def patch(self, name: PvName, patch: Patch) -> Manifest:
        return await self._patch(_at(name), patch)

    async def delete(self, manifest: Manifest) -> Manifest | None:
        try:
            response = await self._api.delete(
                _at(name_of(manifest)), uid=uid_of(manifest), version=version_of(manifest)
            )
        except Missing as error:
            # It had our finalizer, so others have removed it.
            raise Conflict(str(error)) from error
        # Without finalizers the object is deleted at once and the response is a Status.
        if response.get("kind") == "Status":
            return None
        return _volume(response, f"DELETE {_at(name_of(manifest))}")

    async def remove(self, manifest: Manifest) -> None:
        try:
            await self._api.replace(_at(name_of(manifest)), released(manifest))
        except Missing:
            return

    async def create(self, manifest: Manifest) -> Manifest:
        began = asyncio.get_running_loop().time()
        made = _volume(await self._create(manifest), f"POST {VOLUMES_PATH}")
        self._index.deadline.changed_since(began)
        return made

    async def set_bound(self, manifest: Manifest) -> None:
        await self._patch(f"{_at(name_of(manifest))}/status", bound_patch(manifest))

    async def _patch(self, path: str, patch: Patch) -> Manifest:
        began = asyncio.get_running_loop().time()
        try:
            patched = _volume(await self._api.patch(path, patch), f"PATCH {path}")
        except Missing as error:
            raise Conflict(str(error)) from error
        if version_of(patched) != version_of(patch):
            self._index.deadline.changed_since(began)
        return patched

    async def dry_run(self, pv: Manifest, mark: Patch, wanted: Manifest) -> Manifest:
        path = _at(name_of(pv))
        try:
            marked, *others = await asyncio.gather(
                self._api.patch(path, mark, dry_run=True),
                self._api.delete(path, uid=uid_of(pv), version=version_of(pv), dry_run=True),
                self.dry_run_creation(wanted),
                return_exceptions=True,
            )
            # Always raise the same one of several refusals: another reason is reported again.
            for response in (marked, *others):
                if isinstance(response, BaseException):
                    raise response
        except Missing as error:
            raise Conflict(str(error)) from error
        return _volume(marked, f"PATCH {path}")

    async def dry_run_creation(self, wanted: Manifest) -> None:
        # Validation and admission run before the name is looked up, so a conflict means success.
        try:
            await self._create(wanted, dry_run=True)
        except Conflict:
            return

    async def _create(self, manifest: Manifest, *, dry_run: bool = False) -> dict[str, Any]:
        try:
            return await self._api.create(VOLUMES_PATH, manifest, dry_run=dry_run)
        except Missing as error:
            # Something responds in the API server's place, which always serves this kind.
            raise Unreachable(str(error)) from error

    def describe(self, manifest: Manifest) -> Volume | None:
        return describe(manifest)

    def follow(self, name: PvName) -> AbstractContextManager[FollowedVolume]:
        return self._index.follow(name)

    def last_phase_change(self) -> float:
        return self._index.phase_changed_at
