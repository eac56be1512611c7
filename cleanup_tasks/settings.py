"""Settings from the environment, and the arguments of a task; all that is wrong is named in one message."""

import functools
import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, FilePath, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from cleanup_tasks.servers import url
from cleanup_tasks.servers.client import Tls
from cleanup_tasks.sweep.options import Options, OrphansMode

#: URLs that only the coordination Redis may have.
OUR_SCHEMES = ("redis+cluster:", "rediss+cluster:", "redis+sentinel:", "rediss+sentinel:")

PemFile = Annotated[FilePath | None, Field(description="the path of a PEM file that is there")]
CeleryUrl = Annotated[
    SecretStr,
    Field(
        description="a URL that Celery knows: redis://, rediss://, sentinel:// or another; "
        "Celery can't use a Redis Cluster, so take a single server or a Sentinel for it"
    ),
]
Seconds = Annotated[int, Field(ge=0, le=999_999_999)]
SECONDS = Field(description="a whole number of seconds, 0 to 999999999")
ORPHANS = Field(description="off, report or reap")


class InvalidSettings(ValueError):
    """One or more settings are not what they should be; the message names each with what is accepted."""


class Settings(BaseSettings):
    """What the environment says. An empty variable counts as unset, but for `CLEANUP_LOG_FILE`."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    redis_host: Annotated[
        str, Field(pattern=url.HOST_NAME, description="a host name or address, without a port")
    ] = "localhost"
    redis_port: Annotated[int, Field(ge=1, le=65535, description="a whole number, 1 to 65535")] = 6379
    redis_password: Annotated[SecretStr | None, Field(description="text")] = None
    redis_db: Annotated[int, Field(ge=0, description="a whole number, 0 or more")] = 0
    coordination_redis_url: Annotated[SecretStr | None, Field(description=url.FORMS)] = None
    coordination_redis_ca_file: PemFile = None
    coordination_redis_cert_file: PemFile = None
    coordination_redis_key_file: PemFile = None
    coordination_redis_verify: Annotated[bool, Field(description="true or false")] = True
    celery_broker_url: CeleryUrl = SecretStr("redis://localhost:6379/1")
    celery_result_backend: CeleryUrl = SecretStr("redis://localhost:6379/2")
    cleanup_stale_threshold_seconds: Annotated[Seconds, SECONDS] = 600
    cleanup_interval_seconds: Annotated[
        int, Field(ge=1, le=999_999_999, description="a whole number of seconds, 1 to 999999999")
    ] = 300
    cleanup_log_file: Annotated[str, Field(description="a path; empty for no file")] = (
        "~/.claude-flow/logs/blocking-cleanup.log"
    )
    cleanup_log_format: Annotated[
        Literal["keyvalue", "json"], Field(description="keyvalue or json, the form of the summary line")
    ] = "keyvalue"
    cleanup_metrics_port: Annotated[
        int | None, Field(ge=1, le=65535, description="a whole number, 1 to 65535; unset for no endpoint")
    ] = None
    cleanup_metrics_address: Annotated[
        str, Field(min_length=1, description="the address that the metrics endpoint listens on")
    ] = "127.0.0.1"
    cleanup_beat_file: Annotated[
        str, Field(description="a path that the beat touches with every cleanup it sends; empty for none")
    ] = ""
    cleanup_orphans: Annotated[OrphansMode, ORPHANS] = "report"
    cleanup_max_reported_ids: Annotated[int, Field(ge=0, description="a whole number, 0 or more")] = 100

    @field_validator("*", mode="before")
    @classmethod
    def _unset(cls, value: Any, info: Any) -> Any:
        if value == "" and info.field_name != "cleanup_log_file":
            return cls.model_fields[info.field_name].default
        return value

    @field_validator("redis_port", mode="before")
    @classmethod
    def _port_of_a_service(cls, value: Any) -> Any:
        """In Kubernetes a service called redis puts its address into every container's REDIS_PORT."""
        service = re.fullmatch(r"tcp://[^/@]+:(\d+)", value) if isinstance(value, str) else None
        return service[1] if service else value

    @field_validator("coordination_redis_url")
    @classmethod
    def _known_form(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            url.parse(value.get_secret_value())
        return value

    @field_validator("celery_broker_url", "celery_result_backend")
    @classmethod
    def _known_to_celery(cls, value: SecretStr) -> SecretStr:
        if value.get_secret_value().lower().startswith(OUR_SCHEMES):
            raise ValueError("Celery doesn't know it")
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
        if self.coordination_redis_url is not None:
            return self.coordination_redis_url.get_secret_value()
        password = self.redis_password.get_secret_value() if self.redis_password else ""
        login = f":{quote(password, safe='')}@" if password else ""
        host = f"[{self.redis_host}]" if ":" in self.redis_host else self.redis_host
        return f"redis://{login}{host}:{self.redis_port}/{self.redis_db}"

    @property
    def log_path(self) -> Path | None:
        """Where the log file is, perhaps with a ``~``, or None where it is turned off."""
        return Path(self.cleanup_log_file) if self.cleanup_log_file else None

    @property
    def beat_path(self) -> Path | None:
        """The file that the beat touches, or None."""
        return Path(self.cleanup_beat_file).expanduser() if self.cleanup_beat_file else None


class Arguments(BaseModel):
    """What a caller may ask of one sweep; None stands for the setting."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    dry_run: Annotated[bool, Field(description="true or false")] = False
    stale_threshold_seconds: Annotated[Seconds | None, SECONDS] = None
    orphans: Annotated[OrphansMode | None, ORPHANS] = None


def check_arguments(**arguments: object) -> Arguments:
    """The arguments, if they are what they should be.

    Raises:
        ValueError: names every argument that is not, and what is accepted.
    """
    try:
        return Arguments.model_validate(arguments)
    except ValidationError as error:
        raise ValueError(f"invalid arguments: {faults(error, Arguments)}; nothing was touched") from None


def options_of(settings: Settings, arguments: Arguments, **rest: Any) -> Options:
    """The inputs of a sweep; `rest` are fields of `Options` that neither settings nor arguments hold."""
    threshold_s = arguments.stale_threshold_seconds
    named: dict[str, Any] = {"max_named": settings.cleanup_max_reported_ids, **rest}
    return Options(
        address=url.parse(settings.coordination_url),
        tls=settings.tls,
        dry_run=arguments.dry_run,
        threshold_s=settings.cleanup_stale_threshold_seconds if threshold_s is None else threshold_s,
        orphans=arguments.orphans or settings.cleanup_orphans,
        interval_s=settings.cleanup_interval_seconds,
        log_path=settings.log_path,
        log_format=settings.cleanup_log_format,
        **named,
    )


def load_settings(**overrides: Any) -> Settings:
    """Read the environment; `overrides` win over it.

    Raises:
        InvalidSettings: all that is wrong, one after the other, without the values of secrets.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise InvalidSettings(f"invalid settings: {faults(error, Settings)}") from None


@functools.cache
def get_settings() -> Settings:
    """The environment's settings, read once per process; raises InvalidSettings."""
    return load_settings()


def faults(error: ValidationError, model: type[Any]) -> str:
    """All that a model refused: each name, what is accepted, why, and what came (no secrets)."""
    texts = []
    for fault in error.errors():
        name = str(fault["loc"][0])
        known = model.model_fields.get(name)
        accepted = known.description if known else f"not known; known are {', '.join(model.model_fields)}"
        # A URL with a password may have strayed into any of them.
        shown = known is not None and "Secret" not in str(known.annotation) and "@" not in str(fault["input"])
        spelled = name.upper() if issubclass(model, BaseSettings) else name
        # what our own checks say holds nothing of the value
        reason = fault["ctx"]["error"] if fault["type"] == "value_error" else None
        why = f"not {fault['input']!r}" if shown else str(reason or "")
        texts.append(f"{spelled}: {accepted}" + (f" ({why})" if why else ""))
    return "; ".join(texts)
