"""Whom something is about: an address, a user, a container."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: What identifies an entity → what it is called for people and in policies.
_KINDS = {
    "source.ip": "ip",
    "destination.ip": "ip",
    "user.name": "user",
    "container.id": "container",
    "package.name": "package",
    "host.hostname": "host",
}


@dataclass(frozen=True, slots=True)
class Entity:
    """The one an alert is about.

    Attributes:
        field: ECS field name that identifies it, for example ``source.ip``; ``""`` when there is none.
        value: Its value, for example ``203.0.113.7``.
    """

    field: str = ""
    value: str = ""

    @property
    def kind(self) -> str:
        """Returns ``ip``, ``user``, ``container``, ``package`` or ``host``; the field's name where no word fits."""
        return _KINDS.get(self.field, self.field)

    def to_json(self) -> dict[str, Any]:
        """Returns ``{"kind": …, "value": …, "field": …}``."""
        return {"kind": self.kind, "value": self.value, "field": self.field}

    @classmethod
    def from_json(cls, value: Any) -> Entity:
        """Reads an object, a ``[field, value]`` pair, or ``None``."""
        if value is None:
            return cls()
        if isinstance(value, Mapping):
            return cls(str(value.get("field") or value.get("kind") or ""), str(value.get("value", "")))
        name, text = value
        return cls(str(name), str(text))


@dataclass(frozen=True, slots=True)
class ContainerIdentity:
    """Exactly one run of exactly one container: names and labels can be forged, these can't be reused.

    Attributes:
        id: Full 64-digit id.
        created: When the engine made it, as the engine writes it.
        started_at: When it last started, as the engine writes it: a restarted container is another run.
        name: Its name at the time, without the leading slash.
        image: Image name it was made from.
        labels: Its labels; fixed at creation.
    """

    id: str
    created: str = ""
    started_at: str = ""
    name: str = ""
    image: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    def is_same_run(self, other: ContainerIdentity) -> bool:
        """Says whether both are the same run of the same container."""
        return (self.id, self.created, self.started_at) == (other.id, other.created, other.started_at)

    def to_json(self) -> dict[str, Any]:
        """Returns the identity as a JSON object."""
        return {
            "id": self.id,
            "name": self.name,
            "image": self.image,
            "created": self.created,
            "started_at": self.started_at,
            "labels": dict(self.labels),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ContainerIdentity:
        """Reads what :meth:`to_json` wrote."""
        return cls(
            id=str(value["id"]),
            created=str(value.get("created", "")),
            started_at=str(value.get("started_at", "")),
            name=str(value.get("name", "")),
            image=str(value.get("image", "")),
            labels={str(key): str(text) for key, text in (value.get("labels") or {}).items()},
        )
