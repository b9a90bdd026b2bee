"""From the settings to what the broker is made of, at its start and while it runs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import fields

from broker.server import Endpoint, Server
from broker.state import RouterSettings
from mesh.errors import ConfigError
from mesh.settings import Loaded, Settings, binds, changed, keys, value_of

# What belongs to a broker, beside `broker.`, and what the router calls it.
_ROUTER_KEYS = {
    "max_clients": "services.memory.max_connections",
    "mdp_ttl": "broker.mdp.ttl",
    "mdp_heartbeat": "broker.mdp.heartbeat",
    "mdp_lost_beats": "broker.mdp.lost_beats",
    "mdp_busy_timeout": "broker.mdp.busy_timeout",
}
_SHELL_KEYS = ("log_level", "log_format", "services.memory.host", "services.memory.port")

log = logging.getLogger("broker")


def _key_of(field: str) -> str:
    return _ROUTER_KEYS.get(field, f"broker.{field}")


def router_settings(settings: Settings) -> RouterSettings:
    """The router's part of the settings."""
    found = {
        field.name: value_of(settings, _key_of(field.name)) for field in fields(RouterSettings)
    }
    found["max_clients"] = found["max_clients"] or 0
    return RouterSettings(**found)


def endpoints(settings: Settings) -> list[Endpoint]:
    """Where to listen, and for whom."""
    return [
        Endpoint(address, role)
        for role, addresses in binds(settings).items()
        for address in addresses
    ]


class Reloader:
    """Brings a changed configuration into a running broker, as far as it can change there."""

    def __init__(self, load: Callable[[], Loaded], loaded: Loaded, server: Server) -> None:
        self._load = load
        self._started = loaded.settings
        self._current = loaded.settings
        self._server = server

    def reload(self) -> None:
        """Read the configuration again. With an error in it everything stays as it is."""
        try:
            loaded = self._load()
        except ConfigError as error:
            log.error("configuration not changed: %s", error)
            return
        except Exception:
            log.exception("configuration not changed")
            return
        for note in loaded.notes:
            log.warning("%s", note)
        settings = loaded.settings
        now = [name for name in _differences(self._current, settings) if keys()[name].live]
        later = [name for name in _differences(self._started, settings) if not keys()[name].live]
        self._current = settings
        self._apply(settings)
        root, level = logging.getLogger(), settings.log_level.upper()
        # As much as the more talkative of the two levels allows is said of the change itself.
        root.setLevel(min(root.level, logging.getLevelNamesMapping()[level]))
        log.warning("configuration read again; changed: %s", ", ".join(now) or "nothing")
        if later:
            log.warning("takes effect at the next start only: %s", ", ".join(later))
        root.setLevel(level)

    def _apply(self, settings: Settings) -> None:
        running = self._server.router.settings
        wanted = router_settings(settings)
        for field in fields(RouterSettings):
            if not keys()[_key_of(field.name)].live:
                setattr(wanted, field.name, getattr(running, field.name))
        self._server.router.settings = wanted
        self._server.drain_timeout = settings.broker.drain_timeout


def _differences(before: Settings, after: Settings) -> list[str]:
    mine = {*_SHELL_KEYS, *_ROUTER_KEYS.values()}
    return [name for name in changed(before, after) if name.startswith("broker.") or name in mine]
