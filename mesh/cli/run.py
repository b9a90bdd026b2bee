"""`broker` and `serve`: long-running processes in the foreground."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from dataclasses import asdict
from time import monotonic, sleep
from types import FrameType
from typing import Any

from mesh.cli.endpoints import why_unreachable
from mesh.cli.output import USAGE, Failure, Output
from mesh.cli.processes import broker_command, broker_environment

# What a worker says when its configuration is wrong, so that nobody starts it again.
EXIT_CONFIG = 78
# Children end their own drains; only one that does not is killed.
DRAIN_MARGIN = 10.0
POLL_EVERY = 0.1
SIGNAL_CHECK = 0.5


def broker(binds: Sequence[str], extra: Sequence[str], output: Output) -> int:
    """Run a broker until it ends; its exit code. Without JSON this process becomes the broker.

    Raises:
        ConfigError: one of `binds` is no endpoint.
    """
    from mesh.protocol.endpoints import parse_endpoint

    # Without any, the broker's own default holds; `extra` may name others by role.
    command = broker_command([parse_endpoint(bind, bind=True) for bind in binds], extra)
    environment = {**os.environ, **broker_environment()}
    if not output.as_json:
        os.execve(command[0], command, environment)
    return relay(command, environment, output, _broker_event)


def serve(
    target: str, brokers: Sequence[str], workers: int, config: str | None, output: Output
) -> int:
    """Run `workers` processes of a service until they are told to end; the exit code.

    Raises:
        ConfigError: one of `brokers` is no endpoint, or a setting is wrong.
    """
    from mesh import settings

    loaded = settings.load(config, flags={"brokers": ("--broker", list(brokers) or None)})
    brokers = settings.brokers(loaded.settings, settings.WORKERS)
    if not output.as_json:
        from mesh.discovery.names import addressed
        from mesh.service import serve as serve_here

        for endpoint in addressed(brokers):
            reason = why_unreachable(endpoint)
            if reason is not None:
                print(f"no broker at {endpoint} yet ({reason}): waiting for it", file=sys.stderr)
        return _exit_code(serve_here(target, brokers, workers, config=config))
    where = [part for broker in brokers for part in ("--broker", broker)]
    command = [sys.executable, "-m", "mesh.service", target, *where, "--workers", str(workers)]
    command += ["--config", config] if config is not None else []
    return _exit_code(relay(command, dict(os.environ), output, _worker_event))


def up(config: str | None, folder: str | None, output: Output) -> int:
    """Run brokers and built-in workers until told to end; the exit code.

    Raises:
        ConfigError: a setting is wrong.
        Failure: a mesh runs already in this folder, or over the same data.
    """
    from mesh import settings
    from mesh.supervision import folders, shell
    from mesh.supervision.control import Control
    from mesh.supervision.view import View

    found = settings.load(config).settings
    where = folders.run_folder(found, folder)
    address = settings.monitor_at(found)
    with ExitStack() as stack:
        stack.enter_context(folders.claim(where))
        for service, asked in settings.wanted(found).items():
            if asked.data is not None:
                otherwise = f"name another directory: services.{service}.data"
                stack.enter_context(folders.claim_data(asked.data, where, otherwise))
        monitored = folders.monitored_in(where) if address is not None else None

        def plans() -> dict[str, shell.Plan]:
            return shell.plans(settings.load(config).settings, config, monitored)

        view = View(output)
        tell = view.tell
        mesh = shell.Shell(plans(), tell, found.broker.drain_timeout + DRAIN_MARGIN, plans)
        view.show(mesh.told)
        stack.callback(view.close)
        control = Control(where, mesh.answer)
        control.start()
        stack.callback(control.close)
        if address is not None and monitored is not None:
            from mesh.monitoring.http import Monitor
            from mesh.monitoring.together import Together
            from mesh.supervision.checks import Checks

            checks = Checks(
                settings.brokers(found, settings.CLIENTS),
                found.monitoring.health_check_interval,
                lambda failing: tell({"event": "check", "failing": list(map(asdict, failing))}),
            )
            together = Together(monitored, lambda: mesh.missing() + checks.failing())
            monitor = Monitor(address, together)
            stack.callback(monitor.close)
            stack.callback(checks.close)
            checks.start()
            tell({"event": "monitoring", "address": monitor.start().address})
        return mesh.run()


def down(config: str | None, folder: str | None, timeout: float) -> None:
    """End the mesh of a run folder.

    Raises:
        ConfigError: a setting is wrong.
        Failure: none runs, or it does not end.
    """
    from mesh import settings
    from mesh.supervision import folders

    folders.down(folders.run_folder(settings.load(config).settings, folder), timeout)


def detach(config: str | None, folder: str | None, timeout: float, output: Output) -> None:
    """Have `up` run on by itself, and return once all is ready.

    Raises:
        ConfigError: a setting is wrong.
        Failure: it has ended, or is not ready within `timeout` seconds.
    """
    from mesh import settings
    from mesh.supervision import control, folders
    from mesh.supervision.view import OWN

    where = folders.run_folder(settings.load(config).settings, folder).resolve()
    with folders.claim(where):
        pass  # none runs yet
    command = [sys.executable, "-P", "-m", "mesh.cli", "up", "--run", str(where)]
    command += ["--config", config] if config is not None else []
    log = where / "up.log"
    with log.open("ab") as file:
        begun_at = file.tell()
        child = subprocess.Popen(
            command,
            env={**os.environ, **broker_environment()},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    give_up_at = monotonic() + timeout
    while True:
        status = child.poll()
        if status is not None:
            said = log.read_bytes()[begun_at:].decode(errors="replace").splitlines()
            own = [line.removeprefix(OWN) for line in said if " | " not in line or OWN in line]
            raise Failure(f"it has ended with status {status}: {'; '.join(own[-2:])}", f"see {log}")
        with suppress(Failure):
            members = control.ask(where, {"do": "members"}, 1.0)["members"]
            if all(member["state"] == "ready" for member in members):
                break
        if monotonic() > give_up_at:
            raise Failure(f"not all is ready after {timeout:g} s; it goes on", f"see {log}")
        sleep(POLL_EVERY)
    if output.as_json:
        output.json({"pid": child.pid, "run": str(where), "log": str(log)})
    else:
        output.value(f"the mesh runs (pid {child.pid}); its output is in {log}")


def rollout(config: str | None, folder: str | None, timeout: float, output: Output) -> None:
    """Replace all processes of a mesh, one by one.

    Raises:
        ConfigError: a setting is wrong.
        Failure: none runs, or the rollout was stopped.
    """
    from mesh import settings
    from mesh.supervision import control, folders

    where = folders.run_folder(settings.load(config).settings, folder)
    answer = control.ask(where, {"do": "rollout"}, timeout)
    if output.as_json:
        output.json(answer)
    else:
        output.value(f"{answer['replaced']} processes were replaced")


def members(config: str | None, folder: str | None, output: Output) -> None:
    """Show what runs.

    Raises:
        ConfigError: a setting is wrong.
        Failure: none runs.
    """
    from mesh import settings
    from mesh.supervision import control, folders
    from mesh.supervision.view import render

    where = folders.run_folder(settings.load(config).settings, folder)
    answer = control.ask(where, {"do": "members"}, control.ASK_TTL)
    if output.as_json:
        output.json(answer)
    else:
        output.show(render(answer["members"]))


def _exit_code(status: int) -> int:
    return USAGE if status == EXIT_CONFIG else status


def relay(
    command: Sequence[str],
    environment: dict[str, str],
    output: Output,
    event: Callable[[str], dict[str, Any]],
) -> int:
    """Run `command`, hand signals on to it, and print each line of its output as a JSON event."""
    child = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None

    def forward(number: int, _: FrameType | None) -> None:
        child.send_signal(number)

    # An interrupt from the keyboard reaches the child by itself: both are in the foreground.
    previous = {signal.SIGTERM: signal.signal(signal.SIGTERM, forward)}
    previous[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)

    def tell(lines: Iterable[str]) -> None:
        for line in lines:
            output.json(event(line.rstrip("\n")))

    try:
        # The lines are read in another thread: a signal that comes just before a wait would only
        # be handed on at its end, so waits are short.
        with ThreadPoolExecutor(1) as pool, child.stdout:
            telling = pool.submit(tell, child.stdout)
            while not wait([telling], SIGNAL_CHECK).done:
                pass
            telling.result()
        return child.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _broker_event(line: str) -> dict[str, Any]:
    word, _, rest = line.partition(" ")
    return {"event": "listening", "endpoint": rest} if word == "listening" else _text(line)


def _worker_event(line: str) -> dict[str, Any]:
    word, _, rest = line.partition(" ")
    service, _, pid = rest.partition(" pid=")
    if word == "serving" and pid.isdigit():
        return {"event": "serving", "service": service, "pid": int(pid)}
    return _text(line)


def _text(line: str) -> dict[str, Any]:
    return {"event": "output", "text": line}
