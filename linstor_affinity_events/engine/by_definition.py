"""What is remembered of saved PVs, by resource definition and volume number."""

from collections.abc import Container
from typing import Generic, TypeVar

from linstor_affinity_events.model.names import ResourceName

T = TypeVar("T")

Where = tuple[ResourceName, int]


class ByDefinition(Generic[T]):
    """Whoever may write to LINSTOR can create any number of definitions, and write ever new numbers
    into one: nothing here scans all, and nothing stays that LINSTOR has no longer.
    """

    def __init__(self) -> None:
        self._found: dict[ResourceName, dict[int, T]] = {}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def get(self, where: Where) -> T | None:
        resource, number = where
        return self._found.get(resource, {}).get(number)

    def put(self, where: Where, value: T) -> None:
        resource, number = where
        of_resource = self._found.setdefault(resource, {})
        self._length += number not in of_resource
        of_resource[number] = value

    def drop(self, where: Where) -> None:
        resource, number = where
        self.keep_numbers(resource, self._found.get(resource, {}).keys() - {number})

    def keep_numbers(self, resource: ResourceName, numbers: Container[int]) -> None:
        """Forget all others of this definition."""
        of_resource = self._found.get(resource, {})
        for number in [each for each in of_resource if each not in numbers]:
            del of_resource[number]
            self._length -= 1
        if not of_resource:
            self._found.pop(resource, None)

    def keep(self, resources: Container[ResourceName]) -> None:
        """Forget all others."""
        for resource in [each for each in self._found if each not in resources]:
            self.keep_numbers(resource, ())
