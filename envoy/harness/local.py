"""The configuration in `envoy/`, unchanged except for ports that are in use."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from .config import Tree, values_of
from .envoy import PROJECT
from .ports import free_port, taken

FILTER_FILE = "envoy/graygate.yaml"


def load(name: str) -> Tree:
    tree: Tree = yaml.safe_load((PROJECT / name).read_text())
    return tree


def socket_addresses(tree: Any) -> Iterator[Tree]:
    return values_of(tree, "socket_address")


class Local:
    """The bootstrap in envoy.yaml. `moved` maps each of its ports that is in use to the port that replaces it.

    With `own_ports=False`, all ports are replaced, for tests that run beside a local Envoy.
    """

    def __init__(self, *, own_ports: bool = True) -> None:
        self.document = load("envoy/envoy.yaml")
        self.moved: dict[int, int] = {}
        for address in socket_addresses(self.document):
            port = address["port_value"]
            if not own_ports or taken(port):
                address["port_value"] = self.moved.setdefault(port, free_port())

    def port(self, port: int) -> int:
        return self.moved.get(port, port)


def discovery(version: str, weights: Mapping[str, int] = {}) -> Tree:
    """Returns the filter with its policy. `weights` replaces the weights of the first release's versions."""
    response = load(FILTER_FILE)
    response["version_info"] = version
    configuration = response["resources"][0]["typed_config"]["config"]["configuration"]
    policy = json.loads(configuration["value"])
    for each in policy["releases"][0]["versions"]:
        each["weight"] = weights.get(each["name"], each["weight"])
    configuration["value"] = json.dumps(policy)
    return response
