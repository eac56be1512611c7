"""TLS: the files of the authorities and of the client's certificate, and what is wrong with them."""

import contextlib
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Tls:
    """How TLS is verified: PEM files, and whether at all."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    verify: bool = True

    def but(self, own: Self) -> "Tls":
        """With another's authorities and certificate, where it has some."""
        ours = own if own.cert_file else self
        return Tls(own.ca_file or self.ca_file, ours.cert_file, ours.key_file, self.verify)

    def options(self) -> dict[str, Any]:
        """Those of redis-py's for a connection with TLS."""
        return {
            "ssl": True,
            "ssl_ca_certs": self.ca_file and str(self.ca_file),
            "ssl_certfile": self.cert_file and str(self.cert_file),
            "ssl_keyfile": self.key_file and str(self.key_file),
            "ssl_cert_reqs": "required" if self.verify else "none",
            "ssl_check_hostname": self.verify,
        }


def check_authorities(ca_file: Path | None) -> None:
    """Raise ValueError, without the path, where a file holds no certificates."""
    if ca_file:
        with _told("it holds no certificate in the form PEM"):
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(ca_file)


def check_certificate(cert_file: Path | None, key_file: Path | None) -> None:
    """Raise ValueError, without the paths, where the files hold no certificate and its key.

    Both may be in the first one. A key with a passphrase is refused: nobody is there to type it.
    """
    if cert_file:
        with _told("no certificate and its key in the form PEM, without a passphrase"):
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert_file, key_file, password="")
    elif key_file:
        raise ValueError("a key without its certificate")


@contextlib.contextmanager
def _told(wrong_content: str) -> Iterator[None]:
    try:
        yield
    except ssl.SSLError:
        raise ValueError(wrong_content) from None
    except OSError as error:
        raise ValueError(error.strerror) from None
