"""The arguments of one run, checked before anything is touched."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cleanup_tasks.settings import faults


class Options(BaseModel):
    """What a caller may ask of one run."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    dry_run: Annotated[bool, Field(description="true or false")] = False
    stale_threshold_seconds: Annotated[
        int | None,
        Field(
            ge=0,
            le=999_999_999,
            description="a whole number of seconds, 0 to 999999999, or None",
        ),
    ] = None
    orphans: Annotated[
        Literal["off", "report", "reap"] | None, Field(description="off, report, reap, or None")
    ] = None


def check(**arguments: object) -> Options:
    """The options, if they are what they should be.

    Raises:
        ValueError: names every argument that is not, and what is accepted.
    """
    try:
        return Options.model_validate(arguments)
    except ValidationError as error:
        raise ValueError(f"invalid arguments: {faults(error, Options)}; nothing was touched") from None
