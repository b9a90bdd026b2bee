"""`broker` and `serve`: long-running processes in the foreground."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from types import FrameType
from typing import Any

from mesh.cli.endpoints import why_unreachable
from mesh.cli.output import USAGE, Output, clean
from mesh.cli.processes import broker_command, broker_environment

# What a worker says when its configuration is wrong, so that nobody starts it again.
EXIT_CONFIG = 78
# Children end their own drains; only one that does not is killed.
DRAIN_MARGIN = 10.0


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
        from mesh.service import serve as serve_here

        for endpoint in brokers:
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
        Failure: a mesh runs already in this folder.
    """
    from mesh import settings
    from mesh.supervision import shell

    found = settings.load(config).settings
    where = shell.run_folder(found, folder)
    tell = output.json if output.as_json else _tell
    address = settings.monitor_at(found)
    with ExitStack() as stack:
        stack.callback(os.close, shell.claim(where))
        monitored = shell.monitored_in(where) if address is not None else None
        children = shell.plans(found, config, monitored)
        mesh = shell.Shell(children, tell, found.broker.drain_timeout + DRAIN_MARGIN)
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
    from mesh.supervision import shell

    shell.down(shell.run_folder(settings.load(config).settings, folder), timeout)


def _tell(event: dict[str, Any]) -> None:
    name = event.get("process", "mesh")
    if event["event"] == "output":
        text = event["text"]
    elif event["event"] == "ended" and "restart_in" in event:
        last = "; ".join(event["last_lines"])
        text = f"ended ({event['status']}), again in {event['restart_in']} s: {last}"
    elif event["event"] == "check":
        reasons = [f"{each['name']}: {each['text']} ({each['hint']})" for each in event["failing"]]
        text = "; ".join(reasons) if reasons else "all that was checked is well again"
    elif event["event"] == "monitoring":
        text = f"monitoring at {event['address']}"
    else:
        text = str(event["event"])
    # One write: the children's readers share the output.
    sys.stdout.write(f"{name:<9} | {clean(text)}\n")
    sys.stdout.flush()


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

    def forward(number: int, _: FrameType | None) -> None:
        child.send_signal(number)

    # An interrupt from the keyboard reaches the child by itself: both are in the foreground.
    previous = {signal.SIGTERM: signal.signal(signal.SIGTERM, forward)}
    previous[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        if child.stdout is not None:
            with child.stdout as lines:
                for line in lines:
                    output.json(event(line.rstrip("\n")))
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
