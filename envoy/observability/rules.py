"""Makes istio/observability/prometheus-rule.yaml from rules.yaml. With --check, it fails if the file differs.

The rules are the same in both. The second one is a resource that the Prometheus operator reads. With --runbooks, it
prints a form with an address before each `runbook_url`, and writes nothing.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import yaml

from harness.envoy import PROJECT

from .files import keep

DIRECTORY = PROJECT / "istio/observability"
SOURCE = DIRECTORY / "rules.yaml"
FILE = DIRECTORY / "prometheus-rule.yaml"

HEAD = """\
# The rules of rules.yaml for the Prometheus operator. Made by `make observability`: edit rules.yaml, not this file.
"""
# The operator of kube-prometheus-stack takes rules with the label `release`, which is the name of the Helm release.
METADATA = {"name": "graygate", "labels": {"app": "graygate", "release": "kube-prometheus-stack"}}


def lines(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Writes a text of several lines as a block."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


class Dumper(yaml.SafeDumper):
    pass


Dumper.add_representer(str, lines)


def plain() -> dict[str, Any]:
    rules: dict[str, Any] = yaml.safe_load(SOURCE.read_text())
    return rules


def resource(rules: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": METADATA,
        "spec": rules,
    }


def with_runbooks(rules: dict[str, Any], address: str) -> dict[str, Any]:
    """Puts an address before each `runbook_url`."""
    for group in rules["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                annotations = rule["annotations"]
                annotations["runbook_url"] = f"{address.rstrip('/')}/{annotations['runbook_url']}"
    return rules


def write(tree: dict[str, Any]) -> str:
    text: str = yaml.dump(tree, Dumper=Dumper, sort_keys=False, width=120, allow_unicode=True)
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the file differs")
    parser.add_argument(
        "--runbooks", metavar="ADDRESS", help="print the rules with this address before each runbook_url"
    )
    parser.add_argument("--plain", action="store_true", help="with --runbooks: print the plain form")
    options = parser.parse_args()
    if options.runbooks:
        rules = with_runbooks(plain(), options.runbooks)
        print(write(rules if options.plain else resource(rules)), end="")
        return 0
    return keep(FILE, HEAD + write(resource(plain())), check=options.check)


if __name__ == "__main__":
    sys.exit(main())
