"""Settings that are files: there, readable, and with what they should hold."""

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo

from cleanup_tasks.servers.tls import check_authorities, check_certificate


def _shown(path: str) -> str:
    """A path for a message, or nothing where somebody gave what should be in the file, such as a secret."""
    folder, slash, _ = path.rpartition("/")
    # os.path.isdir raises nothing
    looks_so = slash and path.isprintable() and os.path.isdir(folder or slash)  # noqa: PTH112
    return f"{path}: " if looks_so else ""


def _there(path: Path) -> Path:
    try:
        path.stat()
    except OSError as error:
        raise ValueError(f"{_shown(str(path))}{error.strerror}") from None
    if not path.is_file():
        raise ValueError(f"{_shown(str(path))}no file")
    return path


def _content(path: Any) -> Any:
    """The text of a file without the end of its last line."""
    if path is None:
        return None
    try:
        text = Path(str(path)).read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise ValueError(f"{_shown(str(path))}{error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} holds no text") from None
    if not text:
        raise ValueError(f"{path} is empty")
    return text


def _authorities(value: Path | None) -> Path | None:
    check_authorities(value)
    return value


def _key(value: Path | None, info: ValidationInfo) -> Path | None:
    certificate = str(info.field_name).replace("_key_", "_cert_")
    if certificate in info.data:  # else that is wrong already
        check_certificate(info.data[certificate], value)
    return value


#: pydantic's FilePath lets an OSError out where a folder may not be entered.
ExistingFile = Annotated[Path, AfterValidator(_there)]
#: A secret that is in a file; the setting's value is the secret.
SecretFile = Annotated[
    SecretStr | None,
    BeforeValidator(_content),
    Field(description="the path of a readable file that holds the secret"),
]
PemFile = Annotated[ExistingFile | None, Field(description="the path of a PEM file that is there")]
AuthoritiesFile = Annotated[PemFile, AfterValidator(_authorities)]
#: It may be missing, where the file of the certificate, which is the field before, holds the key too.
KeyFile = Annotated[PemFile, AfterValidator(_key), Field(validate_default=True)]
