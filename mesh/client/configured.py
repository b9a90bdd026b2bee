"""A client's settings from a configuration file."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict
from os import PathLike, fspath
from typing import TYPE_CHECKING

from mesh.client.base import check_endpoints
from mesh.client.calls import ClientSettings
from mesh.errors import ConfigError
from mesh.resilience.breaker import BreakerSettings

if TYPE_CHECKING:
    from mesh.settings import Settings

log = logging.getLogger("mesh.client")


def configure(
    endpoints: Sequence[str],
    name: str,
    settings: ClientSettings | None,
    config: str | PathLike[str] | None,
) -> tuple[tuple[str, ...], ClientSettings]:
    """The endpoints and settings of a client from what `connect` was given.

    Raises:
        ConfigError: one of them is wrong, or both `settings` and `config` were given.
    """
    if config is None:
        return check_endpoints(endpoints), settings or ClientSettings(name=name)
    if settings is not None:
        raise ConfigError("connect() takes settings= or config=, not both")
    from mesh.settings import CLIENTS, brokers, load  # costs most programs nothing

    loaded = load(fspath(config))
    for note in loaded.notes:
        log.warning("%s", note)
    found = endpoints or brokers(loaded.settings, CLIENTS)
    return check_endpoints(found), client_settings(loaded.settings, name)


def client_settings(settings: Settings, name: str = "") -> ClientSettings:
    """The client's part of the settings."""
    retries = settings.resilience.retry_policy
    breaker = BreakerSettings()
    if not settings.resilience.circuit_breaker:
        breaker.share = math.inf  # more than all of them would have to fail
    return ClientSettings(
        **asdict(settings.client),
        name=name,
        retries=retries.max_retries,
        retry_factor=retries.backoff_multiplier,
        breaker=breaker,
    )
