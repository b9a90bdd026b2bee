"""The image, without a container engine: its files, its steps and its command, in an empty folder.

What stands in the Dockerfile is what is run, with the image's folders moved into the test's. Steps
of the base system (apt-get, useradd) are left out. It installs everything anew: that takes minutes.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mesh import connect
from tests import support
from tests.deploy.test_deploy import instructions
from tests.support import ROOT

SYSTEM = ("apt-get", "groupadd", "useradd")


def context(target: Path) -> None:
    """Copy what .dockerignore lets into the build."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    kept = [line[1:] for line in lines if line.startswith("!")]
    dropped = [line.removeprefix("**/") for line in lines if line.startswith("**/")]

    def ignore(_: str, names: list[str]) -> set[str]:
        return {name for name in names for rule in dropped if fnmatch.fnmatch(name, rule)}

    for name in kept:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=ignore)
        else:
            shutil.copy(source, target / name)


def moved(text: str, root: Path) -> str:
    """`text` with the image's folders in `root`, and the Python that runs the tests."""
    for folder in ("/opt/sage", "/src", "/data"):
        text = re.sub(rf"(?<![\w/]){folder}\b", f"{root}{folder}", text)
    return text


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_the_image_is_built_and_runs(process: support.Start, tmp_path: Path) -> None:
    for folder in ("src", "data", "opt"):
        (tmp_path / folder).mkdir()
    context(tmp_path / "src")
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(tmp_path)}
    command: list[str] = []
    health: list[str] = []
    for word, rest in instructions():
        match word:
            case "RUN" if not rest.strip().startswith(SYSTEM):
                step = moved(rest, tmp_path)
                done = subprocess.run(
                    ["bash", "-ec", step], cwd=tmp_path / "src", env=environment, text=True,
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                )  # fmt: skip
                assert done.returncode == 0, f"{step}\n{done.stdout}"
            case "ENV":
                for name, value in re.findall(r"(\w+)=(\S+)", moved(rest, tmp_path)):
                    environment[name] = value.replace("$PATH", environment["PATH"])
            case "HEALTHCHECK":
                health = json.loads(rest[rest.index("CMD") + 3 :])
            case "CMD":
                command = yaml.safe_load(rest)
    shutil.rmtree(tmp_path / "src")
    port, monitoring = support.free_port(), support.free_port()
    environment["SAGE_MONITORING_ADDRESS"] = f"127.0.0.1:{monitoring}"
    words = [word.replace("*:8080", f"127.0.0.1:{port}") for word in command]
    clean = [f"{name}={value}" for name, value in environment.items()]
    up = process("env", "-i", *clean, f"{support.SESSION_VARIABLE}={support.SESSION}", *words,
                 cwd=tmp_path / "data")  # fmt: skip
    up.expect(r"ready$", timeout=60)
    check = [word.replace("9090", str(monitoring)) for word in health]
    assert subprocess.run(check, env=environment).returncode == 0
    with connect(f"tcp://127.0.0.1:{port}", timeout=20.0) as m:
        m.memory.set("k", [1, "二"])
        assert m.memory.get("k") == [1, "二"]
    doctor = subprocess.run(
        ["sage-mesh", "doctor", "--json", "--broker", f"tcp://127.0.0.1:{port}"],
        env=environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    states = {line["name"]: line for line in json.loads(doctor.stdout)["checks"]}
    assert states["frame pump"]["text"] == "compiled"
    assert states["broker"]["state"] == "ok"
    assert up.stop(grace=30.0) == 0
    assert (tmp_path / "data" / "memory").is_dir()
    assert subprocess.run(check, env=environment, stderr=subprocess.DEVNULL).returncode != 0
    assert os.listdir(tmp_path / "opt") == ["sage"]
