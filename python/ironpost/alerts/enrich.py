"""Fills in what the engine does not know: the container a record came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ironpost.model import ContainerIdentity, Detection


def enriched(detection: Detection, *, containers: Mapping[str, ContainerIdentity | None]) -> Detection:
    """Returns the detection with its container.

    Args:
        detection: As the engine reported it.
        containers: Full container id → who it is; ``None`` when it was already gone.
    """
    container = detection.container or containers.get(detection.container_id)
    return detection if container is detection.container else replace(detection, container=container)
