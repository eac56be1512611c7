"""What the documentation says of settings, reports, figures and itself is so."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from cleanup_tasks.cli.command import command
from cleanup_tasks.cli.options import EXIT_STATUSES
from cleanup_tasks.configuration.broker import CelerySettings
from cleanup_tasks.configuration.environment import Environment
from cleanup_tasks.configuration.settings import BeatSettings, ConfigSettings, MetricsSettings, Settings
from cleanup_tasks.configuration.targets import OPTIONS
from cleanup_tasks.reporting.metrics import OUTCOMES, REGISTRY
from cleanup_tasks.reporting.report import Report
from cleanup_tasks.rules import keys
from cleanup_tasks.rules.staleness import AHEAD_MS, EXPLANATIONS, MAX_BYTES
from cleanup_tasks.schedule import time_limits
from cleanup_tasks.servers.client import REPLY_S
from cleanup_tasks.servers.lock import TTL_S
from cleanup_tasks.sweep.batcher import WHOLE_KEYS
from cleanup_tasks.sweep.fleet import MAX_COORDINATOR_BYTES, MAX_KEY_BYTES
from cleanup_tasks.sweep.holds import FEW, OTHERS_MS
from cleanup_tasks.sweep.notes import TTL_S as NOTE_TTL_S
from cleanup_tasks.sweep.orphans import MAX_SIGHTINGS, MISSED_SWEEP_S
from cleanup_tasks.sweep.writers import MAX_NOTED
from cleanup_tasks.tasks import BACKOFF_S
from demo.stack import ROOT
from tests.support.markdown import PAGES, anchors, blocks, links, rows, section, text_of
from tests.support.tls import Authority

DOCS = ROOT / "docs"
README = ROOT / "README.md"
PERFORMANCE = DOCS / "performance.md"
BY_HAND = ROOT / "lua" / "cleanup_blocking_coordination.lua"
#: Language -> the test that has its blocks.
LANGUAGES = {
    "sh": "tests/deploy/test_snippets.py",
    "python": "tests/deploy/test_snippets.py",
    "toml": "tests/deploy/test_snippets.py",
    "crontab": "tests/deploy/test_snippets.py",
    "redis": "tests/deploy/test_snippets.py",
    "text": "tests/deploy/test_snippets.py",
    "dotenv": "tests/deploy/test_operations.py",
}
#: Each line of README on speed, and the sentences of performance.md that its figures are from.
SPEED = [
    (
        "- **{0} coordinators, {1} of them dead:** with the defaults, the Lua engine deletes their {2} keys "
        "in {3} seconds. With `CLEANUP_ORPHANS=off`, it takes {4} seconds, and the Python engine takes {5} "
        "seconds.",
        r"There are (\S+) coordinators, and (\S+) of them are stale\..*?These are (\S+) keys\."
        r".*?With the defaults, the Lua engine takes (\S+) seconds\..*?the Lua engine takes (\S+) seconds\."
        r".*?the Python engine takes (\S+) seconds\.",
    ),
    (
        "- **Nobody is dead:** the Lua engine takes {0} seconds with the defaults, and {1} seconds with "
        "`CLEANUP_ORPHANS=off`.",
        r"If no coordinator is stale, the Lua engine takes (\S+) seconds with the defaults, and (\S+) sec",
    ),
    (
        "- **Meanwhile**, 99 of 100 answers to another client arrive within {0} milliseconds. Without a "
        "cleanup, they arrive within {1} milliseconds.",
        r"With the Lua engine, 99 of 100 answers arrive within (\S+) milliseconds\."
        r".*?Without a sweep, 99 of 100 answers arrive within (\S+) milliseconds\.",
    ),
    (
        "- **Memory:** the worker needs {0} MB. With {2} coordinators of simpler data (that of the "
        "acceptance test) and `CLEANUP_ORPHANS=off`, it needs {1} MB.",
        r"the worker needs (\S+) MB with the defaults.*? and (\S+) MB with (\S+) coordinators\.",
    ),
    (
        "- **Longest command** of all sweeps that were measured, of both engines: {0} milliseconds with up "
        "to {1} coordinators, and {2} milliseconds with {3}.",
        r"took (\S+) milliseconds with up to (\S+) coordinators, and (\S+) milliseconds with (\S+) coord",
    ),
]


def uses(use: type[Environment]) -> list[type[Environment]]:
    """A model of settings, and all that are made of it."""
    return [use, *(more for narrower in use.__subclasses__() for more in uses(narrower))]


def spelled(default: Any) -> str:
    """A default, as the table has it."""
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    if default in (None, "", PydanticUndefined):
        return "none"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def test_every_setting_is_in_one_table_as_it_is() -> None:
    told = [row for row in rows((DOCS / "configuration.md").read_text()) if len(row) == 5]
    fields = {name: field for use in uses(Environment) for name, field in use.model_fields.items()}
    assert sorted(row[0] for row in told) == sorted(f"`{name.upper()}`" for name in fields)
    for variable, meaning, accepted, default, _ in told:
        field = fields[variable.strip("`").lower()]
        assert field.title in (meaning, None), variable
        assert accepted == field.description, variable
        assert default == spelled(field.default), variable


@pytest.mark.parametrize("use", [Settings, CelerySettings, MetricsSettings, BeatSettings, ConfigSettings])
def test_every_example_is_accepted(
    use: type[Environment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CLEANUP_LOG_FILE")
    monkeypatch.delenv("COORDINATION_REDIS_URL")
    file = tmp_path / "file"
    file.write_text("redis://host")
    pair = Authority(tmp_path).sign("pair")
    pem = {"ca": pair.cert_file, "cert": pair.cert_file, "key": pair.key_file}
    if use is Settings:  # a certificate and its key go together, and are two examples
        monkeypatch.setenv("COORDINATION_REDIS_CERT_FILE", str(pair.cert_file))
        monkeypatch.setenv("COORDINATION_REDIS_KEY_FILE", str(pair.key_file))
    tried = 0
    for name, _, _, _, example in (
        row for row in rows((DOCS / "configuration.md").read_text()) if len(row) == 5
    ):
        setting = name.strip("`").lower()
        if setting in use.model_fields and setting != "coordination_redis_credential_provider":
            is_file = setting.endswith(("_file", "_config")) and setting not in (
                "cleanup_log_file",
                "cleanup_beat_file",
            )
            kind = setting.removesuffix("_file").rpartition("_")[2]
            value = str(pem.get(kind, file)) if is_file else example.strip("`")
            monkeypatch.setenv(setting.upper(), value)
            assert getattr(use.read(), setting) != use.model_fields[setting].default, setting
            if kind not in ("cert", "key"):
                monkeypatch.delenv(setting.upper())
            tried += 1
    assert tried


def test_every_option_of_a_target_is_documented() -> None:
    told = re.findall(r"`([a-z_]+)`", " ".join(row[0] for row in rows((DOCS / "targets.md").read_text())))
    assert sorted(told) == sorted(OPTIONS)


def test_every_field_of_a_report_is_documented() -> None:
    text = section(DOCS / "reports.md", "## The task's result")
    told = [name for row in rows(text.split("###")[0]) for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(told) == sorted(Report(stale_threshold_seconds=1).metrics())


def test_every_reason_is_documented() -> None:
    told = rows(section(DOCS / "reports.md", "### Why a heartbeat is unreadable"))
    assert {reason.strip("`"): meaning for reason, meaning in told} == EXPLANATIONS


def test_every_metric_is_documented() -> None:
    text = section(DOCS / "reports.md", "## Prometheus")
    told = {name.strip("`"): kind for name, kind, _ in rows(text)}
    kinds = {
        family.name + ("_total" if family.type == "counter" else ""): family.type
        for family in REGISTRY.collect()
    }
    assert told == kinds
    assert re.findall(r"`(\w+)`", text.partition("The outcomes are")[2].partition(" A dry run")[0]) == list(
        OUTCOMES
    )


def test_the_exit_statuses_are_those_of_the_help() -> None:
    told = rows(section(DOCS / "reports.md", "## Exit status of the command"))
    assert [tuple(row) for row in told] == EXIT_STATUSES


@pytest.mark.parametrize(
    ("text", "start"),
    [
        (section(README, "## Which keys it touches"), r"\| `"),
        (str(keys.__doc__), "``"),
        (BY_HAND.read_text(), "--   "),
    ],
    ids=["README", "rules/keys.py", "by hand"],
)
def test_every_family_is_in_each_table(text: str, start: str) -> None:
    told = re.findall(rf"^{start}(\w+:\w+:)<", text, re.MULTILINE)
    assert sorted(told) == sorted(keys.text(family) for family in (keys.HEARTBEAT, *keys.FAMILIES))


def test_the_script_for_use_by_hand_has_the_families_of_whole_ids() -> None:
    (told,) = re.findall(r"^local WHOLE_ID = \{(.+)\}$", BY_HAND.read_text(), re.MULTILINE)
    assert re.findall(r"'(.+?)'", told) == list(map(keys.text, keys.WHOLE_ID))


def test_every_key_of_its_own_is_documented() -> None:
    ours = {row[0].strip("`").encode() for row in rows(section(DOCS / "safety.md", "## Its own keys"))}
    assert ours == {keys.LOCK, keys.COOLDOWN, keys.HOLD, keys.SIGHTINGS, keys.SKIPPED}


def test_the_readme_has_the_figures_of_the_benchmark() -> None:
    measured = " ".join(PERFORMANCE.read_text().partition("## Plots")[0].split())
    told = " ".join(section(README, "## How fast it is").split())
    for line, pattern in SPEED:
        found = re.search(pattern, measured)
        assert found, pattern
        assert line.format(*found.groups()) in told
        if "Longest" in line:
            longest = "{0} milliseconds with up to {1} coordinators, and {2} milliseconds with {3}."
            assert longest.format(*found.groups()) in (DOCS / "safety.md").read_text()


def test_every_table_of_contents_is_complete() -> None:
    for name in ("README.md", "docs/operations.md", "docs/safety.md"):
        headings = re.findall(r"^## (.+)$", text_of(ROOT / name), re.MULTILINE)
        listed = re.findall(r"^- \[(.+)\]\(#.+\)$", (ROOT / name).read_text(), re.MULTILINE)
        assert listed == headings
    readme = links(README)
    assert {f"docs/{page.name}" for page in DOCS.glob("*.md")} <= set(readme)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_runbook_leads_somewhere() -> None:
    for rules in (ROOT / "deploy").rglob("alerts*.y*ml"):
        urls = re.findall(r"runbook_url: (\S+)", rules.read_text())
        assert urls, rules
        for url in urls:
            file, _, anchor = url.partition("#")
            assert anchor in anchors(ROOT / file), url


def test_every_picture_is_shown() -> None:
    shown = {Path(link).name for page in PAGES for link in links(page)}
    assert {picture.name for pattern in ("*.png", "*.svg") for picture in DOCS.glob(pattern)} <= shown


def test_every_block_of_code_has_a_test() -> None:
    for block in blocks():
        assert block.language == "mermaid" or block.language in LANGUAGES, block
        if block.language != "mermaid":
            place = (ROOT / LANGUAGES[block.language]).read_text()
            assert (f'blocks("{block.language}")' if block.language != "sh" else "commands()") in place
        # what is to be pasted is no output
        if block.language == "text":
            assert not re.search(r"^[A-Z_]+=|^ACL |^\*/", block.text, re.MULTILINE), block


def test_no_block_of_code_is_overlooked() -> None:
    """Indented, or fenced in another way, it would be run by no test."""
    for page in PAGES:
        fences = re.findall(r"^ *(?:`{3,}|~{3,})", page.read_text(), re.MULTILINE)
        assert len(fences) == 2 * sum(block.page == page for block in blocks()), page.name


def test_every_option_and_make_target_that_is_named_is_there() -> None:
    named = re.findall(r"`([^`\n]+)`", "".join(map(text_of, PAGES)))
    ours = " ".join(text for text in named if text.startswith(("--", "cleanup-blocking-coordination ")))
    options = set(re.findall(r"--[a-z-]+", ours)) - {"--all-servers"}  # which is of pytest
    assert options <= {name for option in command.params for name in option.opts} | {"--help"}
    wanted = [target for text in named if text.startswith("make ") for target in text.split()[1:]]
    assert len(wanted) > 5
    assert set(wanted) <= set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_every_test_that_is_named_is_there() -> None:
    named = [row[-1].strip("`") for row in rows(section(DOCS / "safety.md", "## Faults"))]
    assert named
    for name in named:
        file, _, function = name.partition("::")
        assert f"\ndef {function}(" in (ROOT / "tests" / file).read_text(), name


def test_the_numbers_in_the_text_are_those_of_the_code() -> None:
    pages = (DOCS / "safety.md", DOCS / "operations.md")
    safety, operations = (" ".join(page.read_text().split()) for page in pages)
    mb = (MAX_COORDINATOR_BYTES + MAX_KEY_BYTES) // 1_000_000
    for text in (
        f"at most about {mb} MB",
        f"more than {keys.MAX_SEGMENTS} parts between colons",
        f"up to {WHOLE_KEYS:,} keys",
        f"the lock expires after {TTL_S} seconds",
        f"| until the sweep ends; {TTL_S} seconds if it was killed |",
        f"at least {FEW} coordinators look dead",
        f"{OTHERS_MS // 1000} seconds after a sweep saw",
        f"by up to {MAX_NOTED:,} coordinators",
        f"At most {NOTE_TTL_S // 86_400} days + threshold + interval",
        f"+ {MISSED_SWEEP_S // 60} minutes after the last sweep",
        f"At most {MAX_SIGHTINGS:,} sightings",
        f"{AHEAD_MS // 1000} seconds or more ahead",
        f"more than {MAX_BYTES // 1024} KiB",
        f"after {BACKOFF_S[0]}, {BACKOFF_S[1]} and {BACKOFF_S[2]} seconds",
        f"given up after {REPLY_S:g} seconds",
    ):
        assert text in safety, text
    limits = time_limits(Settings.model_construct().cleanup_interval_seconds)
    assert f"At least {FEW} coordinators look dead" in operations
    assert limits["soft_time_limit"] == 4 * 60
    assert "that is four minutes" in operations


def test_messages_are_quoted_as_they_are() -> None:
    modules = (ROOT / "cleanup_tasks").rglob("*.py")
    code = re.sub(r"\{[^{}]*\}", "N", " ".join(path.read_text() for path in modules))
    code = re.sub(r'"\s+f?"', "", code)
    reasons = [row[0] for row in rows(section(DOCS / "reports.md", "### Why a sweep is skipped"))]
    symptoms = [row[0] for row in rows((DOCS / "troubleshooting.md").read_text())]
    quoted = [text for cell in (*reasons, *symptoms) for text in re.findall("`([^`]* [^`]*)`", cell)]
    assert len(quoted) > len(reasons)
    for text in quoted:
        assert re.sub(r"\d+", "N", text) in code, text


def test_architecture_names_files_that_are_there() -> None:
    places = (ROOT, ROOT / "cleanup_tasks")
    named = re.findall(r"`([\w/]+(?:/|\.py|\.lua))`", (DOCS / "architecture.md").read_text())
    assert len(named) > 10
    for name in named:
        assert any((place / name).exists() for place in places), name
