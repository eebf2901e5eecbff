"""A container engine of our own, started for these tests and ended after them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from ironpost.demo import docker_lab, lab
from ironpost.enforcement import DockerRuntime
from support.house import House

IMAGE = "ironpost-test:1"


@pytest.fixture(scope="module")  # its lab carries the name of this process: two can not stand at once
def engine() -> Iterator[docker_lab.Engine]:
    # A short path: a socket's may have 107 characters.
    with (
        tempfile.TemporaryDirectory(prefix="ironpost-engine-") as directory,
        lab.build() as network,
        docker_lab.start_engine(network.host, Path(directory) / "engine") as started,
    ):
        busybox = docker_lab.find_static_busybox()
        assert busybox is not None
        started.client.api.import_image_from_data(docker_lab._image(busybox), repository="ironpost-test", tag="1")
        yield started


@pytest.fixture
def client(engine: docker_lab.Engine) -> Iterator[docker.DockerClient]:
    yield engine.client
    for container in engine.client.containers.list(all=True):
        container.remove(force=True)
    engine.client.networks.prune()


@pytest.fixture
def house(engine: docker_lab.Engine, client: docker.DockerClient, tmp_path: Path) -> Iterator[House]:
    del client
    runtime = DockerRuntime(engine.socket, stop_grace_seconds=1)
    built = House(tmp_path / "ironpost.db", runtime=runtime)
    yield built
    built.stop()
    runtime.close()
