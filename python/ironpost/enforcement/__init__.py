"""The only room that changes the host: carries decisions out, ends them in time, takes them back."""

from ironpost.enforcement.containers import ContainerEnforcer, ContainerInventory
from ironpost.enforcement.docker_engine import ContainerFacts, ContainerRuntime, DockerRuntime
from ironpost.enforcement.executor import Executor
from ironpost.enforcement.manual import Allowed, Responder
from ironpost.enforcement.protocols import Enforcer, EnforcerRegistry, Guard, Order, Outcome, ResponseStore
from ironpost.enforcement.xdp import PacketFilter, XdpEnforcer, rule_number

__all__ = [
    "Allowed",
    "ContainerEnforcer",
    "ContainerFacts",
    "ContainerInventory",
    "ContainerRuntime",
    "DockerRuntime",
    "Enforcer",
    "EnforcerRegistry",
    "Executor",
    "Guard",
    "Order",
    "Outcome",
    "PacketFilter",
    "Responder",
    "ResponseStore",
    "XdpEnforcer",
    "rule_number",
]
