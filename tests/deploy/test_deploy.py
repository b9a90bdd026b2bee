"""What is shipped for containers, Kubernetes and Prometheus: valid, and true to the code."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import broker.__main__ as broker_main
from mesh.cli.app import app
from mesh.discovery.names import LOOK_EVERY
from mesh.service.__main__ import FLAGS as SERVICE_FLAGS
from mesh.settings import load, monitor_at
from mesh.settings.flags import add_flags
from mesh.settings.keys import variables
from tests.support import ROOT
from workers.__main__ import COMMON, SERVICES

DEPLOY = ROOT / "deploy"
MANIFESTS = sorted(
    path for path in (DEPLOY / "kubernetes").glob("*.yaml") if path.name != "kustomization.yaml"
)
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


ALL = [document for path in MANIFESTS for document in documents(path)]


def named(kind: str, name: str) -> dict[str, Any]:
    (found,) = [d for d in ALL if d["kind"] == kind and d["metadata"]["name"] == name]
    return found


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for document in ALL:
        if document["kind"] in ("Deployment", "StatefulSet"):
            yield document["metadata"]["name"], document["spec"]["template"]["spec"]


def instructions() -> list[tuple[str, str]]:
    """The lines of the Dockerfile, continued ones joined, without comments."""
    lines = [line for line in DOCKERFILE.splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    parts = [line.partition(" ") for line in joined.splitlines()]
    return [(word, rest) for word, _, rest in parts if word]


def commands() -> dict[str, list[str]]:
    found = {f"compose {name}": each["command"] for name, each in COMPOSE["services"].items()}
    found |= {f"pod {name}": spec["containers"][0]["command"] for name, spec in pods()}
    found["image"] = yaml.safe_load(dict(instructions())["CMD"])
    return found


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_is_one_of_ours_and_has_these_options(name: str) -> None:
    words = list(map(str, commands()[name]))
    if words[0] == "env":
        words = [word for word in words[1:] if "=" not in word]
    if words[:1] == ["sage-mesh"]:
        known = {
            command.callback.__name__ for command in app.registered_commands if command.callback
        }
        assert words[1] in known
        if words[1] == "broker":
            broker_main.parser().parse_args(words[2:])
        else:
            assert len(words) == 2
        return
    assert words[:2] == ["python", "-m"]
    parser = argparse.ArgumentParser(exit_on_error=False)
    match words[2]:
        case "broker":
            parser = broker_main.parser()
            rest = words[3:]
        case "workers":
            add_flags(parser, {**COMMON, **SERVICES[words[3]].FLAGS})
            rest = words[4:]
        case _:
            assert words[2] == "mesh.service"
            add_flags(parser, SERVICE_FLAGS)
            rest = words[4:]
    parser.parse_args(rest)


def test_every_variable_is_a_key() -> None:
    set_here = dict(re.findall(r"(SAGE_\w+)=([^\s\"]+)", DOCKERFILE))
    for service in COMPOSE["services"].values():
        set_here |= service.get("environment", {})
    assert set_here.keys() <= set(variables())


def test_the_configuration_of_the_cluster_is_right(tmp_path: Path) -> None:
    (config,) = [document for document in ALL if document["kind"] == "ConfigMap"]
    path = tmp_path / "sage.yaml"
    path.write_text(config["data"]["sage.yaml"])
    loaded = load(str(path), environ={})
    assert not loaded.notes
    assert monitor_at(loaded.settings) == "0.0.0.0:9090"
    (brokers,) = loaded.settings.brokers
    name, _, port = brokers.removeprefix("dns://").rpartition(":")
    service = named("Service", name)["spec"]
    assert service["clusterIP"] == "None"
    assert int(port) in [each["port"] for each in service["ports"]]
    pods = named("Deployment", "sage-broker")["spec"]["template"]
    assert service["selector"].items() <= pods["metadata"]["labels"].items()
    # Workers come before clients.
    assert service["publishNotReadyAddresses"] is True
    ready = pods["spec"]["containers"][0]["readinessProbe"]
    assert ready["initialDelaySeconds"] > LOOK_EVERY
    assert "publishNotReadyAddresses" not in named("Service", "sage-broker")["spec"]


def test_what_keeps_nothing_is_scaled_by_load() -> None:
    scaled = {
        d["spec"]["scaleTargetRef"]["name"] for d in ALL if d["kind"] == "HorizontalPodAutoscaler"
    }
    deployments = [d for d in ALL if d["kind"] == "Deployment"]
    assert {d["metadata"]["name"] for d in deployments} == scaled
    assert all("replicas" not in d["spec"] for d in deployments)
    assert "sage-broker" in scaled
    kept = [d for d in ALL if d["kind"] == "StatefulSet"]
    assert all(d["spec"]["replicas"] == 1 and d["spec"]["volumeClaimTemplates"] for d in kept)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_the_manifests_are_valid(path: Path) -> None:
    validator = pytest.importorskip("kubernetes_validate")
    for document in documents(path):
        validator.validate(document, "1.31", strict=True)


def test_pods_are_probed_bounded_and_harmless() -> None:
    drain_timeout = load(None, environ={}).settings.broker.drain_timeout
    for name, spec in pods():
        (container,) = spec["containers"]
        ports = {port["name"] for port in container["ports"]}
        for probe in ("livenessProbe", "readinessProbe"):
            assert container[probe]["httpGet"]["port"] in ports, name
        assert container["livenessProbe"]["httpGet"]["path"] == "/health"
        assert container["readinessProbe"]["httpGet"]["path"] == "/ready"
        assert container["resources"]["limits"]["memory"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["enableServiceLinks"] is False
        assert spec["terminationGracePeriodSeconds"] > drain_timeout
        budgets = [d for d in ALL if d["kind"] == "PodDisruptionBudget"]
        assert name in {budget["metadata"]["name"] for budget in budgets}


def test_the_image_runs_as_nobody_special_and_holds_what_it_needs_only() -> None:
    said = dict(instructions())
    assert said["USER"] == "10001:10001"
    kept = [
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    ]
    assert all((ROOT / name).exists() for name in kept)
    assert not {".git", "tests", "bench", "config"} & set(kept)
    # The Dockerfile of the description installs from these.
    assert {"requirements.txt", "pyproject.toml"} <= set(kept)


def test_the_dockerfile_passes_a_linter() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    if not linter.exists():
        pytest.skip("hadolint is not installed")
    done = subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_alerts_speak_of_figures_that_there_are() -> None:
    documented = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "operations.md").read_text()))
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) > 5
    for rule in rules:
        named = set(re.findall(r"\b((?:sage_mesh|process)_\w+)", rule["expr"]))
        assert named, rule["alert"]
        for name in named:
            plain = re.sub(r"_(total|bucket|sum|count)$", "", name)
            assert plain in documented or name.startswith("process_"), name
        assert rule["expr"].count("(") == rule["expr"].count(")")
        assert rule["annotations"]["summary"] and rule["annotations"]["action"]
