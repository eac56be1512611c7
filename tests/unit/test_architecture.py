"""How the package is laid out: who may import whom, and what every file keeps to."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import cleanup_tasks

ROOT = Path(cleanup_tasks.__file__).parent
MODULES = {
    ".".join((ROOT.name, *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}
LONGEST = 250

#: Package -> packages that it may import; all may import themselves. A face says what to do and what to
#: tell, and nobody imports one but another face.
MAY_IMPORT = {
    "faces": {"configuration", "sweep", "engines", "servers", "reporting", "rules"},
    "configuration": {"sweep", "servers", "reporting"},
    "sweep": {"engines", "servers", "reporting", "rules"},
    "engines": {"servers"},
    "servers": set(),
    "reporting": {"rules"},
    "rules": set(),
}
#: The lock says when it was lost, and its name is a key; `packaged` knows nothing but where files are.
EXCEPTIONS = {
    ("cleanup_tasks.servers.lock", "cleanup_tasks.rules.keys"),
    ("cleanup_tasks.servers.lock", "cleanup_tasks.reporting.log"),
    ("cleanup_tasks.engines.lua", "cleanup_tasks.packaged"),
}


def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def package_of(module: str) -> str:
    """The package of ours that a module is in; modules at the top are faces."""
    first = module.split(".")[1:2]
    return first[0] if first and first[0] in MAY_IMPORT else "faces"


def imports_of(module: str) -> set[str]:
    """The modules of ours that one imports, each by its full name."""
    found: set[str] = set()
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno} imports by a relative name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            # "from package import module" imports the module, "from module import name" does too
            found |= {name if name in MODULES else str(node.module) for name in names}
    return {name for name in found if name in MODULES} - {module}


def scopes(tree: ast.AST) -> Iterator[ast.AST]:
    """All functions, wherever they are."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def public(tree: ast.AST, inside: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Public functions, classes and methods, with their names."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if node.name.startswith("_") and not node.name.startswith("__"):
                continue
            yield f"{inside}{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from public(node, f"{inside}{node.name}.")


def test_no_file_is_long() -> None:
    lines = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in MODULES.items()}
    assert {module: number for module, number in lines.items() if number > LONGEST} == {}


def test_nothing_is_imported_inside_a_function() -> None:
    inside = {
        f"{module}:{node.lineno}"
        for module in MODULES
        for function in scopes(tree_of(module))
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert inside == set()


def test_imports_run_one_way() -> None:
    wrong = {
        (module, imported)
        for module in MODULES
        for imported in imports_of(module)
        if package_of(imported) not in MAY_IMPORT[package_of(module)] | {package_of(module)}
    }
    assert wrong - EXCEPTIONS == set()
    assert wrong >= EXCEPTIONS, "an exception that nobody needs any more"


def test_the_rules_import_nothing_of_ours() -> None:
    rules = [module for module in MODULES if package_of(module) == "rules"]
    assert len(rules) > 2
    assert {imported for module in rules for imported in imports_of(module)} == set()


def test_there_is_no_circle() -> None:
    imports = {module: imports_of(module) for module in MODULES}
    done: set[str] = set()

    def follow(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join([*way, module])
        if module not in done:
            for imported in imports[module]:
                follow(imported, (*way, module))
            done.add(module)

    for module in MODULES:
        follow(module, ())


def test_what_is_public_says_what_it_is() -> None:
    silent = {module for module in MODULES if not ast.get_docstring(tree_of(module))}
    silent |= {
        f"{module}.{name}"
        for module in MODULES
        for name, node in public(tree_of(module))
        if not ast.get_docstring(node)  # type: ignore[arg-type]
    }
    assert silent == set()


@pytest.mark.parametrize("package", sorted(set(MAY_IMPORT) - {"faces"}))
def test_each_package_says_what_is_in_it(package: str) -> None:
    assert ast.get_docstring(tree_of(f"cleanup_tasks.{package}"))


def test_no_test_imports_another_one() -> None:
    """What they share is in tests/support, or a conftest."""
    tests = Path(__file__).parents[1]
    wrong = {
        f"{path.relative_to(tests)}: {node.module}"
        for path in tests.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and f".{node.module}".rpartition(".")[2].startswith("test_")
    }
    assert wrong == set()


def test_every_module_is_on_the_page() -> None:
    page = (ROOT.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page[page.index("## What each package knows") : page.index("## Where safety comes from")]
    names = {module.rpartition(".")[2] for module in MODULES}
    packages = {"cleanup_tasks", "cli", "__main__", *MAY_IMPORT}
    assert {name for name in names - packages if f"`{name}`" not in table} == set()
