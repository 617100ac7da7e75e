"""Reads a list page by page, however large its objects are."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from linstor_affinity_events.adapters.kubernetes.api import BODY_LIMIT, KubeApi, Query
from linstor_affinity_events.adapters.kubernetes.responses import is_object
from linstor_affinity_events.errors import Expired, TooLong, Unreachable

PAGE = 500
"""The most objects of one page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListLimits:
    """The most that is read of a list, plus at most one page; by default everything is read."""

    page: int = BODY_LIMIT
    """Bytes of one page. A longer one, or one with too many values, is read again with fewer
    objects, down to a single one.
    """

    objects: int = sys.maxsize
    bytes: int = sys.maxsize

    restarts: int = 0
    """How often to continue after the API server has dropped the version that the list started at,
    from its present state or, if the API server does not offer that, from the first object.
    """


class Pages:
    """The pages of one list. Iterate over them once; `token` and `size` continue another list."""

    def __init__(
        self,
        api: KubeApi,
        path: str,
        query: Query | None = None,
        *,
        limits: ListLimits = ListLimits(),
        metadata_only: bool = False,
        token: str = "",
        size: int = PAGE,
    ) -> None:
        self._api, self._path, self._query = api, path, query or {}
        self._metadata_only, self._page_limit = metadata_only, limits.page
        self._objects, self._bytes, self._restarts = limits.objects, limits.bytes, limits.restarts
        self._ended = False
        self.token, self.size = token, size
        """The continue token of the next page, empty after the last, and its number of objects."""
        self.from_start = not token
        """Whether the pages include the first of all objects."""
        self.version = ""
        """The version of the list, to watch from."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Sequence[Mapping[str, Any]]:
        """Return the objects of the next page. Raises Expired after too many restarts."""
        if self._ended or self._objects <= 0 or self._bytes <= 0:
            raise StopAsyncIteration
        page, read = await self._read()
        metadata, items = page.get("metadata"), page.get("items") or []
        objects = isinstance(items, list) and all(map(is_object, items))
        if not isinstance(metadata, dict) or not objects:
            raise Unreachable("Kubernetes did not return a list")
        self._objects -= len(items)
        self._bytes -= read
        if items:
            # In steps: a page may have too many values within its size limit.
            fitting = self._page_limit // 2 * len(items) // read
            self.size = max(1, min(fitting, 4 * self.size))
        self.token = str(metadata.get("continue") or "")
        self.version = str(metadata.get("resourceVersion", ""))
        self._ended = not self.token
        return items

    async def _read(self) -> tuple[dict[str, Any], int]:
        while True:
            size = max(1, min(self.size, PAGE, self._objects))
            query = {**self._query, "limit": str(size)}
            if self.token:
                query["continue"] = self.token
            limit = self._page_limit if size > 1 else BODY_LIMIT
            try:
                return await self._api.get_page(
                    self._path, query, limit=limit, metadata_only=self._metadata_only
                )
            except TooLong:
                if size == 1:
                    raise
                self._bytes -= limit
                self.size = size // 4
            except Expired as error:
                if not self._restarts:
                    raise
                self._restarts -= 1
                self.token = error.go_on
                self.from_start |= not self.token


async def present_version(api: KubeApi, path: str) -> str:
    """Return the present version of a collection, to watch from; reads at most one object."""
    pages = Pages(api, path, size=1)
    await anext(pages)
    return pages.version
