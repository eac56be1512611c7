"""The arguments of one sweep, as a task or the command is given them."""

import math
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from cleanup_tasks.configuration import targets
from cleanup_tasks.configuration.environment import faults
from cleanup_tasks.configuration.settings import ORPHANS, SECONDS, Seconds, Settings
from cleanup_tasks.reporting.report import DEFAULT_TARGET
from cleanup_tasks.sweep.options import Options, OrphansMode


class Arguments(BaseModel):
    """What a caller may ask of one sweep; None stands for the setting."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    dry_run: Annotated[bool, Field(description="true or false")] = False
    stale_threshold_seconds: Annotated[Seconds | None, SECONDS] = None
    orphans: Annotated[OrphansMode | None, ORPHANS] = None
    force: Annotated[bool, Field(description="true or false")] = False
    #: None stands for the one that has no name of its own.
    target: Annotated[
        str | None, Field(validate_default=True, description="the name of a configured target")
    ] = None

    @field_validator("target")
    @classmethod
    def _configured(cls, value: str | None, info: ValidationInfo) -> str | None:
        name, known = value or DEFAULT_TARGET, info.context or targets.names()
        if name not in known:
            raise ValueError(targets.unknown(name, known))
        return value


def check_arguments(known: Iterable[str] | None = None, /, **arguments: object) -> Arguments:
    """The arguments, if they are what they should be; `known` are the targets, None: all that are configured.

    Raises:
        ValueError: names every argument that is not, and what is accepted.
    """
    try:
        return Arguments.model_validate(arguments, context=known)
    except ValidationError as error:
        wrong = "; ".join(faults(error, Arguments))
        raise ValueError(f"invalid arguments: {wrong}; nothing was touched") from None


def options_of(
    settings: Settings, arguments: Arguments, *, beat_interval_s: float | None = None, **rest: Any
) -> Options:
    """The inputs of a sweep.

    Args:
        settings: those of its target.
        arguments: what the caller asks for.
        beat_interval_s: how often beat asks for it, in seconds, which is worth more than the setting.
        rest: fields of `Options` that neither settings nor arguments hold.
    """
    threshold_s = arguments.stale_threshold_seconds
    named: dict[str, Any] = {"max_named": settings.cleanup_max_reported_ids, **rest}
    return Options(
        target=arguments.target or DEFAULT_TARGET,
        address=settings.address,
        tls=settings.tls,
        dry_run=arguments.dry_run,
        threshold_s=settings.cleanup_stale_threshold_seconds if threshold_s is None else threshold_s,
        orphans=arguments.orphans or settings.cleanup_orphans,
        force=arguments.force,
        hold_percent=settings.cleanup_hold_percent,
        restart_grace_s=settings.cleanup_restart_grace_seconds,
        interval_s=math.ceil(beat_interval_s or settings.cleanup_interval_seconds),
        beat_interval_s=beat_interval_s,
        log_path=settings.log_path,
        log_format=settings.cleanup_log_format,
        **named,
    )
