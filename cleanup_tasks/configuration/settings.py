"""Settings from the environment. Each use has a model of its own, so that only what is used is checked."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator

from cleanup_tasks.configuration.environment import Environment
from cleanup_tasks.configuration.files import AuthoritiesFile, ExistingFile, KeyFile, PemFile, SecretFile
from cleanup_tasks.servers import url
from cleanup_tasks.servers.credentials import credential_provider
from cleanup_tasks.servers.tls import Tls
from cleanup_tasks.sweep.options import OrphansMode

#: What Kubernetes puts into ``NAME_PORT`` of every container for a service called ``name``.
_SERVICE = re.compile(r"tcp://[^/@]+:(\d+)")

Seconds = Annotated[int, Field(ge=0, le=999_999_999)]
SECONDS = Field(description="a whole number of seconds, 0 to 999999999")
ORPHANS = Field(description="off, report or reap")


def _ports(text: str | None) -> range:
    found = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", text or "", re.ASCII)
    return range(int(found[1]), int(found[2] or found[1]) + 1) if found else range(0)


class MetricsSettings(Environment):
    """Where a worker shows its metrics."""

    cleanup_metrics_port: str | None = Field(
        None, description="a port, 1 to 65535, or a range of them as 9540-9549; unset for no endpoint"
    )
    cleanup_metrics_address: str = Field(
        "127.0.0.1", min_length=1, description="the address that the metrics endpoint listens on"
    )

    @field_validator("cleanup_metrics_port")
    @classmethod
    def _ports_that_exist(cls, value: str | None) -> str | None:
        """In Kubernetes a service called cleanup-metrics puts its address there; nobody asked for a port."""
        if value is None or _SERVICE.fullmatch(value):
            return None
        ports = _ports(value)
        if not (ports and ports[0] > 0 and ports[-1] <= 65535):
            raise ValueError("no such port")
        return value

    @property
    def metrics_ports(self) -> range:
        """The ports of which the first that is free is taken; none where there is no endpoint."""
        return _ports(self.cleanup_metrics_port)


class BeatSettings(Environment):
    """Beat's sign of life."""

    cleanup_beat_file: str = Field(
        "", description="a path that the beat touches with every cleanup it sends; empty for none"
    )

    @property
    def beat_path(self) -> Path | None:
        """The file that the beat touches, or None."""
        return Path(self.cleanup_beat_file).expanduser() if self.cleanup_beat_file else None


class IntervalSettings(Environment):
    """How often sweeps are due."""

    cleanup_interval_seconds: int = Field(
        300,
        title="how often cleanups run",
        ge=1,
        le=999_999_999,
        description="a whole number of seconds, 1 to 999999999",
    )


class LogSettings(Environment):
    """What is told of a sweep."""

    cleanup_log_file: str = Field(
        "~/.claude-flow/logs/blocking-cleanup.log",
        title="where the log is written to",
        description="a path; empty for no file",
    )
    cleanup_log_format: Literal["keyvalue", "json"] = Field(
        "keyvalue", title="the form of the summary line", description="keyvalue or json"
    )
    cleanup_max_reported_ids: int = Field(
        100, title="how many ids a report lists", ge=0, description="a whole number, 0 or more"
    )

    @property
    def log_path(self) -> Path | None:
        """Where the log file is, perhaps with a ``~``, or None where it is turned off."""
        return Path(self.cleanup_log_file) if self.cleanup_log_file else None


class ConfigSettings(Environment):
    """The file that names the targets, see `targets`."""

    cleanup_config: ExistingFile | None = Field(
        None, description="the path of a TOML file with tables [targets.NAME]"
    )


class Settings(IntervalSettings, LogSettings):
    """What a sweep needs; what is not of the log may differ from target to target."""

    redis_host: str = Field(
        "localhost", pattern=url.HOST_NAME, description="a host name or address, without a port"
    )
    redis_port: int = Field(
        6379, title="the port of the server", ge=1, le=65535, description="a whole number, 1 to 65535"
    )
    redis_username: str | None = Field(None, title="the user to log in with", description="text")
    redis_password: SecretStr | None = Field(None, title="the password to log in with", description="text")
    redis_password_file: Annotated[SecretFile, Field(title="the password, from a file")] = None
    redis_db: int = Field(
        0, title="the number of the database", ge=0, description="a whole number, 0 or more"
    )
    coordination_redis_url: SecretStr | None = Field(None, description="the URL of the coordination Redis")
    coordination_redis_url_file: Annotated[SecretFile, Field(title="the URL, from a file")] = None
    coordination_redis_credential_provider: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="package.module:attribute, a redis.CredentialProvider",
    )
    coordination_redis_ca_file: Annotated[
        AuthoritiesFile, Field(title="the authorities that the server's certificate is checked against")
    ] = None
    coordination_redis_cert_file: Annotated[PemFile, Field(title="the client's certificate")] = None
    coordination_redis_key_file: Annotated[KeyFile, Field(title="the key of the client's certificate")] = None
    coordination_redis_verify: bool = Field(
        True, title="whether the server's certificate is checked", description="true or false"
    )
    cleanup_stale_threshold_seconds: Annotated[Seconds, SECONDS] = 600
    cleanup_orphans: Annotated[OrphansMode, ORPHANS] = "report"
    cleanup_hold_percent: int = Field(
        100,
        title="how many of a hundred have to look dead for a hold",
        ge=0,
        le=100,
        description="a whole number, 1 to 100; 0 to hold never",
    )
    cleanup_restart_grace_seconds: Annotated[
        Seconds, SECONDS, Field(title="how long a Redis that came up with old data is left alone")
    ] = 60

    @model_validator(mode="before")
    @classmethod
    def _only_what_is_used(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Where a URL is given, REDIS_HOST and its like may be somebody else's."""
        if not any(values.get(name) for name in values if name.startswith("coordination_redis_url")):
            return values
        return {name: value for name, value in values.items() if not name.startswith("redis_")}

    @field_validator("redis_port", mode="before")
    @classmethod
    def _port_of_a_service(cls, value: Any) -> Any:
        """In Kubernetes a service called redis puts its address into every container's REDIS_PORT."""
        service = _SERVICE.fullmatch(value) if isinstance(value, str) else None
        return service[1] if service else value

    @field_validator("coordination_redis_url", "coordination_redis_url_file")
    @classmethod
    def _known_form(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            url.parse(value.get_secret_value()).check_files()
        return value

    @field_validator("redis_password_file", "coordination_redis_url_file")
    @classmethod
    def _given_once(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is not None and info.data.get(str(info.field_name).removesuffix("_file")) is not None:
            raise ValueError("the secret is also given without a file; one of the two has to go")
        return value

    @field_validator("coordination_redis_credential_provider")
    @classmethod
    def _provides(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None:
            own = [
                info.data.get(name) for name in ("redis_username", "redis_password", "redis_password_file")
            ]
            urls = (info.data.get(name) for name in ("coordination_redis_url", "coordination_redis_url_file"))
            if any(own) or any(url.parse(given.get_secret_value()).has_login for given in urls if given):
                raise ValueError("user and password are also given without it; one of the two has to go")
            credential_provider(value)
        return value

    @property
    def tls(self) -> Tls:
        """The files for TLS, and whether the server's certificate is verified."""
        return Tls(
            self.coordination_redis_ca_file,
            self.coordination_redis_cert_file,
            self.coordination_redis_key_file,
            self.coordination_redis_verify,
        )

    @property
    def coordination_url(self) -> str:
        """The URL of the coordination Redis, with its password: never log it, never put it in app.conf."""
        if given := self.coordination_redis_url or self.coordination_redis_url_file:
            return given.get_secret_value()
        password = self.redis_password or self.redis_password_file or SecretStr("")
        login = ":".join(
            quote(text, safe="") for text in (self.redis_username or "", password.get_secret_value())
        )
        host = f"[{self.redis_host}]" if ":" in self.redis_host else self.redis_host
        return f"redis://{f'{login}@' if login != ':' else ''}{host}:{self.redis_port}/{self.redis_db}"

    @property
    def address(self) -> url.Address:
        """Where the coordination Redis is, and how to log in."""
        address, provider = url.parse(self.coordination_url), self.coordination_redis_credential_provider
        return replace(address, credentials=credential_provider(provider)) if provider else address
