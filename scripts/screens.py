"""Draw docs/images/*.svg: the screens of a mesh that runs, is used, and loses a worker.

.venv/bin/python scripts/screens.py
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from time import monotonic, sleep

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from examples.wholemesh import CONFIG, port_near  # noqa: E402
from mesh import connect  # noqa: E402
from mesh.cli import history, status, top  # noqa: E402
from mesh.supervision import control, view  # noqa: E402

WIDTH = 96
SECONDS = 6.0


def main() -> None:
    """Bring up, use, kill, draw, end."""
    with tempfile.TemporaryDirectory(prefix="screens-") as folder:
        run = Path(folder) / "run"
        port = port_near(8080)
        environment = {
            **os.environ,
            "SAGE_MEMORY_DATA": f"{folder}/memory",
            "SAGE_STORAGE_DATA": f"{folder}/storage",
            "SAGE_SERVICES_MEMORY_PROCESSES": "2",
            "SAGE_SERVICE_PORT": str(port),
            "PYTHONPATH": str(ROOT),
        }
        words = ["--config", str(CONFIG), "--run", str(run)]
        mesh = [sys.executable, "-m", "mesh.cli"]
        subprocess.run([*mesh, "up", "--detach", *words], env=environment, check=True)
        endpoint = f"tcp://127.0.0.1:{port}"
        serve = ["serve", "examples.quickstart:cart", "--broker", endpoint, "-n", "2"]
        cart = subprocess.Popen([*mesh, *serve], env=environment, stdout=subprocess.DEVNULL)
        try:
            draw_all(endpoint, run)
        finally:
            cart.terminate()
            cart.wait()
            subprocess.run([*mesh, "down", *words], env=environment, check=True)


def draw_all(endpoint: str, run: Path) -> None:
    """Draw every screen of the mesh at `endpoint`."""
    ending = threading.Event()

    def call() -> None:
        with connect(endpoint) as mesh:
            orders = mesh.storage.bucket("orders")
            number = 0
            while not ending.is_set():
                number += 1
                mesh.memory.set(f"session:{number % 1000}", {"n": number}, ttl=60)
                mesh.memory.get(f"session:{number % 700}")
                orders.put(f"order:{number % 1000}", {"item": "tea", "n": number})
                mesh.options(retries=3, idempotent=True).call("cart.total", {"tea": 2})

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    try:
        plan = top.Plan([endpoint], 2.0, 2.0, "calls")
        sleep(SECONDS / 2)
        before = top.look(plan)
        sleep(plan.every)
        frame = top.compare(before, top.look(plan), plan.every, plan.sort)
        draw("top", "sage-mesh top", top.render(frame, plan.sort))
        draw("status", "sage-mesh status", status.render([status.fetch(endpoint, 2.0)]))
        workers = status.fetch(endpoint, 2.0)["workers"]
        writer = next(worker["pid"] for worker in workers if "writer" in worker["lanes"])
        os.kill(writer, signal.SIGKILL)
        until_back(run)
    finally:
        ending.set()
        for caller in callers:
            caller.join()
    members = control.ask(run, {"do": "members"}, 5.0)["members"]
    draw("up", "sage-mesh up", view.render(members))
    settled, unsettled, _ = history.gather([endpoint], {endpoint: 0}, 2.0)
    lines = [history.line(entry, several=False) for entry in settled + unsettled]
    draw("history", "sage-mesh history", Text("\n").join(lines))


def until_back(run: Path) -> None:
    """Wait until another process has taken the place of the one that was killed."""
    give_up_at = monotonic() + 20.0
    while not any(m["restarts"] for m in control.ask(run, {"do": "members"}, 5.0)["members"]):
        if monotonic() > give_up_at:
            raise SystemExit("the killed worker did not come back")
        sleep(0.1)


def draw(name: str, title: str, what: object) -> None:
    """Write one screen as docs/images/NAME.svg."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), highlight=False)
    console.print(what, soft_wrap=False)
    path = ROOT / "docs" / "images" / f"{name}.svg"
    path.parent.mkdir(exist_ok=True)
    console.save_svg(str(path), title=title, unique_id=f"screen-{name}")
    print(json.dumps({"screen": str(path.relative_to(ROOT))}))


if __name__ == "__main__":
    main()
