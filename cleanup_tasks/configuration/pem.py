"""Settings that are PEM files: there, and with what they should hold."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo

from cleanup_tasks.configuration.environment import ExistingFile
from cleanup_tasks.servers.tls import check_authorities, check_certificate


def _authorities(value: Path | None) -> Path | None:
    check_authorities(value)
    return value


def _key(value: Path | None, info: ValidationInfo) -> Path | None:
    certificate = str(info.field_name).replace("_key_", "_cert_")
    if certificate in info.data:  # else that is wrong already
        check_certificate(info.data[certificate], value)
    return value


PemFile = Annotated[ExistingFile | None, Field(description="the path of a PEM file that is there")]
AuthoritiesFile = Annotated[PemFile, AfterValidator(_authorities)]
#: It may be missing, where the file of the certificate, which is the field before, holds the key too.
KeyFile = Annotated[PemFile, AfterValidator(_key), Field(validate_default=True)]
