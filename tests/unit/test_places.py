"""Where the coordination Redis and the broker are: logins, secrets in files, providers, options of Celery."""

import json
from pathlib import Path

import pytest
from celery import Celery
from cryptography.hazmat.primitives import serialization
from redis.credentials import CredentialProvider, UsernamePasswordCredentialProvider

from cleanup_tasks.configuration import targets
from cleanup_tasks.configuration.broker import CelerySettings
from cleanup_tasks.configuration.environment import InvalidSettings
from cleanup_tasks.configuration.settings import Settings
from tests.support.tls import Authority

SECRET = "hunter2"
PROVIDER = UsernamePasswordCredentialProvider("u", SECRET)
NO_PROVIDER = 7


def make_provider() -> CredentialProvider:
    """A provider of its own for each process."""
    return UsernamePasswordCredentialProvider("made", SECRET)


def breaks() -> CredentialProvider:
    """A provider that can't be made."""
    raise RuntimeError("no vault")


def ends() -> CredentialProvider:
    """A provider that would end the process."""
    raise SystemExit("no vault")


@pytest.fixture(autouse=True)
def _nothing_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COORDINATION_REDIS_URL")


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(f"{SECRET}\n")
    return path


def set_all(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def test_a_user_and_a_password(monkeypatch: pytest.MonkeyPatch, secret_file: Path) -> None:
    monkeypatch.setenv("REDIS_USERNAME", "a:b@c")
    address = Settings.read().address
    assert (address.username, address.password) == ("a:b@c", None)
    monkeypatch.setenv("REDIS_PASSWORD_FILE", str(secret_file))
    address = Settings.read().address
    assert (address.username, address.password) == ("a:b@c", SECRET)
    monkeypatch.delenv("REDIS_USERNAME")
    address = Settings.read().address
    assert (address.username, address.password) == (None, SECRET)
    assert SECRET not in repr(Settings.read())


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n"])
def test_a_url_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, end: str) -> None:
    path = tmp_path / "url"
    path.write_bytes(f"rediss://u:p w@h:1/2{end}".encode())
    monkeypatch.setenv("COORDINATION_REDIS_URL_FILE", str(path))
    # somebody else's, and not looked at
    monkeypatch.setenv("REDIS_PORT", "x")
    assert Settings.read().coordination_url == "rediss://u:p w@h:1/2"


def test_a_target_has_its_url_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "url").write_text("redis://eu:7000\n")
    (tmp_path / "targets.toml").write_text(f'[targets.eu]\nurl_file = "{tmp_path}/url"\n')
    monkeypatch.setenv("CLEANUP_CONFIG", f"{tmp_path}/targets.toml")
    monkeypatch.setenv("COORDINATION_REDIS_URL_FILE__US", f"{tmp_path}/url")
    found, _ = targets.read(Settings)
    assert found["eu"].coordination_url == found["us"].coordination_url == "redis://eu:7000"


@pytest.mark.parametrize(
    ("environment", "fault"),
    [
        (
            {"REDIS_PASSWORD_FILE": "{secret}", "REDIS_PASSWORD": SECRET},
            "REDIS_PASSWORD_FILE: the path of a readable file that holds the secret "
            "(the secret is also given without a file; one of the two has to go)",
        ),
        (
            {"COORDINATION_REDIS_URL_FILE": "{url}", "COORDINATION_REDIS_URL": "redis://h"},
            "COORDINATION_REDIS_URL_FILE: the path of a readable file",
        ),
        ({"COORDINATION_REDIS_URL_FILE": "{secret}"}, "(it must begin with redis://"),
        ({"REDIS_PASSWORD_FILE": "{folder}/missing"}, "({folder}/missing: No such file or directory)"),
        ({"REDIS_PASSWORD_FILE": "{folder}"}, "({folder}: Is a directory)"),
        ({"REDIS_PASSWORD_FILE": "{empty}"}, "({empty} is empty)"),
        ({"REDIS_PASSWORD_FILE": "{binary}"}, "({binary} holds no text)"),
        # the secret itself
        ({"REDIS_PASSWORD_FILE": SECRET}, "(No such file or directory)"),
        ({"REDIS_PASSWORD_FILE": f"/{SECRET}/{SECRET}"}, "(No such file or directory)"),
    ],
)
def test_a_fault_of_a_secret_file(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    secret_file: Path,
    environment: dict[str, str],
    fault: str,
) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "url").write_text("redis://h")
    places = {name: str(tmp_path / name) for name in ("empty", "binary", "url")}
    places |= {"folder": str(tmp_path), "secret": str(secret_file)}
    set_all(monkeypatch, {name: value.format(**places) for name, value in environment.items()})
    with pytest.raises(InvalidSettings) as refusal:
        Settings.read()
    assert fault.format(**places) in str(refusal.value)
    assert SECRET not in str(refusal.value)


PEM = f"-----BEGIN PRIVATE KEY-----\n{SECRET}/x\n-----END PRIVATE KEY-----"


@pytest.mark.parametrize(
    "name",
    [
        "CLEANUP_CONFIG",
        *(f"COORDINATION_REDIS_{name}_FILE" for name in ("CA", "CERT", "KEY", "URL")),
        "REDIS_PASSWORD_FILE",
    ],
)
@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("{folder}/missing", "({folder}/missing: No such file or directory)"),
        ("{folder}/file/x", "(Not a directory)"),
        ("{folder}/" + 300 * "x", "x: File name too long)"),
        (300 * "x" + "/" + 300 * "x", "(File name too long)"),
        ("/".join(3000 * [SECRET]), "(File name too long)"),
        ("{folder}/loop", "({folder}/loop: Too many levels of symbolic links)"),
        # what should be in the file
        (SECRET, "(No such file or directory)"),
        (PEM, "(No such file or directory)"),
        (400 * "x" + PEM, "(File name too long)"),
        ("{folder}/" + PEM, "No such file or directory)"),
    ],
)
def test_a_fault_of_any_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str, fault: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    monkeypatch.setenv(name, value.format(folder=tmp_path))
    with pytest.raises(InvalidSettings) as refusal:
        targets.settings_of(*targets.names())
    assert f"invalid settings: {name}: the path of a " in str(refusal.value)
    assert str(refusal.value).endswith(fault.format(folder=tmp_path))
    assert SECRET not in str(refusal.value)
    assert "BEGIN" not in str(refusal.value)


NO_CERTIFICATE = "(it holds no certificate in the form PEM)"
NO_PAIR = "(no certificate and its key in the form PEM, without a passphrase)"


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (
            {"CA": "text"},
            f"CA_FILE: the path of a PEM file that is there {NO_CERTIFICATE}",
        ),
        ({"CA": "a.key"}, NO_CERTIFICATE),
        ({"CERT": "a.pem"}, f"KEY_FILE: the path of a PEM file that is there {NO_PAIR}"),
        ({"CERT": "a.pem", "KEY": "b.key"}, NO_PAIR),
        ({"CERT": "locked.pem"}, NO_PAIR),
        ({"KEY": "a.key"}, "(a key without its certificate)"),
        ({"CA": "a.pem", "CERT": "a.pem", "KEY": "a.key"}, None),
        ({"CA": "a.pem", "CERT": "both.pem"}, None),
    ],
)
def test_files_for_tls(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: dict[str, str], fault: str | None
) -> None:
    """Those of the server, and the same ones of sentinels."""
    authority = Authority(tmp_path)
    a, b = authority.sign("a"), authority.sign("b")
    (tmp_path / "text").write_text(SECRET)
    (tmp_path / "both.pem").write_bytes(a.cert_file.read_bytes() + a.key_file.read_bytes())
    key = serialization.load_pem_private_key(b.key_file.read_bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"passphrase"),
    )
    (tmp_path / "locked.pem").write_bytes(b.cert_file.read_bytes() + locked)
    for name, file in given.items():
        monkeypatch.setenv(f"COORDINATION_REDIS_{name}_FILE", f"{tmp_path}/{file}")
    check(fault)
    for name in given:
        monkeypatch.delenv(f"COORDINATION_REDIS_{name}_FILE")
    parameters = "&".join(f"sentinel_{name.lower()}_file={tmp_path}/{file}" for name, file in given.items())
    monkeypatch.setenv("COORDINATION_REDIS_URL", f"rediss+sentinel://:{SECRET}@a/main?{parameters}")
    check(fault and fault.rpartition("(")[2].rstrip(")"))


def check(fault: str | None) -> None:
    """The settings are right, or one thing is wrong with them."""
    if fault is None:
        Settings.read()
        return
    with pytest.raises(InvalidSettings) as refusal:
        Settings.read()
    assert fault in str(refusal.value)
    assert ";" not in str(refusal.value)
    assert SECRET not in str(refusal.value)


def test_a_file_of_the_sentinels_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COORDINATION_REDIS_URL", "rediss+sentinel://a/main?sentinel_ca_file=/nowhere")
    check("(sentinel_ca_file: No such file or directory)")


@pytest.mark.parametrize(("attribute", "user"), [("PROVIDER", "u"), ("make_provider", "made")])
def test_a_credential_provider(monkeypatch: pytest.MonkeyPatch, attribute: str, user: str) -> None:
    monkeypatch.setenv("COORDINATION_REDIS_CREDENTIAL_PROVIDER", f"{__name__}:{attribute}")
    address = Settings.read().address
    assert address.credentials is not None
    assert address.credentials.get_credentials() == (user, SECRET)
    # one for the process, which may keep a token
    assert Settings.read().address.credentials is address.credentials


@pytest.mark.parametrize(
    ("environment", "fault"),
    [
        ({"": "PROVIDER"}, "package.module:attribute, a redis.CredentialProvider"),
        ({"": "no_such_module:x"}, "(no_such_module:x can't be had: ModuleNotFoundError"),
        ({"": f"{__name__}:missing"}, "can't be had: AttributeError"),
        ({"": f"{__name__}:breaks"}, "can't be had: RuntimeError('no vault')"),
        ({"": f"{__name__}:ends"}, "can't be had: SystemExit('no vault')"),
        ({"": f"{__name__}:NO_PROVIDER"}, "can't be had: TypeError"),
        ({"": "builtins:dict"}, "builtins:dict is no redis.CredentialProvider"),
        ({"": f"{__name__}:PROVIDER", "REDIS_PASSWORD": SECRET}, "user and password are also given"),
        ({"": f"{__name__}:PROVIDER", "REDIS_USERNAME": "u"}, "user and password are also given"),
        (
            {"": f"{__name__}:PROVIDER", "COORDINATION_REDIS_URL": f"redis://:{SECRET}@h"},
            "user and password are also given",
        ),
    ],
)
def test_a_fault_of_a_credential_provider(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], fault: str
) -> None:
    name = "COORDINATION_REDIS_CREDENTIAL_PROVIDER"
    set_all(monkeypatch, {variable or name: value for variable, value in environment.items()})
    with pytest.raises(InvalidSettings, match=f"{name}: ") as refusal:
        Settings.read()
    assert fault in str(refusal.value)
    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize("name", ["CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"])
@pytest.mark.parametrize(
    ("content", "beside", "fault"),
    [
        (f"redis://:{SECRET}@h:1/2\n", None, None),
        (f"redis://:{SECRET}@h", "", None),
        (f"redis://:{SECRET}@h", "redis://localhost:6379/1", "(the URL is also given without a file; one of"),
        (f"redis+cluster://:{SECRET}@h", None, "(Celery doesn't know the URL)"),
        ("", None, "is empty)"),
    ],
)
def test_celerys_urls_in_files(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    content: str,
    beside: str | None,
    fault: str | None,
) -> None:
    (tmp_path / "url").write_text(content)
    monkeypatch.setenv(f"{name}_FILE", f"{tmp_path}/url")
    if beside is not None:
        monkeypatch.setenv(name, beside)
    if fault is None:
        settings = CelerySettings.read()
        used = settings.broker_url if "BROKER" in name else settings.result_backend
        assert used == content.rstrip()
        assert SECRET not in repr(settings)
        return
    with pytest.raises(InvalidSettings) as refusal:
        CelerySettings.read()
    assert f"{name}_FILE: the path of a readable file that holds the secret" in str(refusal.value)
    assert fault in str(refusal.value)
    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize("where", ["", "_FILE"])
@pytest.mark.parametrize(
    "name", ["CELERY_BROKER_TRANSPORT_OPTIONS", "CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS"]
)
@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (f"{{'password': '{SECRET}'}}", "(no JSON: "),
        (f'["{SECRET}"]', "(no object)"),
        (f'{{"password": "{SECRET}"}}', "(a sentinel:// URL needs master_name"),
        ("", "(a sentinel:// URL needs master_name"),
    ],
)
def test_a_fault_of_transport_options(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, where: str, value: str, fault: str
) -> None:
    monkeypatch.setenv(name, value)
    variable = "CELERY_BROKER_URL" if "BROKER" in name else "CELERY_RESULT_BACKEND"
    url, file = f"sentinel://:{SECRET}@h:1;sentinel://i:2", tmp_path / "url"
    file.write_text(url)
    monkeypatch.setenv(f"{variable}{where}", str(file) if where else url)
    with pytest.raises(InvalidSettings) as refusal:
        CelerySettings.read()
    assert f'{name}: a JSON object, as {{"master_name": "mymaster"}} {fault}' in str(refusal.value)
    assert SECRET not in str(refusal.value)


def test_transport_options_do_not_show_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"master_name": "m", "sentinel_kwargs": {"password": SECRET}}
    monkeypatch.setenv("CELERY_BROKER_TRANSPORT_OPTIONS", json.dumps(options))
    assert SECRET not in repr(CelerySettings.read())
    app = Celery("another", set_as_current=False)
    app.conf.broker_transport_options = options
    shown = repr(app.conf.humanize(with_defaults=True, censored=True))
    assert "sentinel_kwargs" in shown
    assert SECRET not in shown
    assert SECRET not in repr(app.conf.table(with_defaults=True, censored=True))
