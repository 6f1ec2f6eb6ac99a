"""The three rings and the roles' import cones hold, as the imports themselves say."""

import ast
from collections.abc import Iterator
from pathlib import Path

import forebay

ROOT = Path(forebay.__file__).parent
PURE = (
    "policy/",
    "wire/",
    "engines/lifecycle.py",
    "engines/backoff.py",
    "engines/spec.py",
    "engines/work.py",
    "refusals.py",
    "failures.py",
)
IMPURE_MODULES = {
    "asyncio",
    "socket",
    "time",
    "logging",
    "random",
    "subprocess",
    "uvicorn",
    "fastapi",
    "prometheus_client",
}
IMPURE_PACKAGES = {"api", "cli", "gateway", "replicas", "store", "telemetry", "upstream"}


def modules() -> Iterator[tuple[str, set[str]]]:
    """Each source file, by its path below the package, and what it imports at run time."""
    for path in ROOT.rglob("*.py"):
        yield path.relative_to(ROOT).as_posix(), set(imports_of(ast.parse(path.read_text())))


def imports_of(tree: ast.AST) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            yield from imports_of(node)


def test_pure_modules_import_no_io_and_no_other_ring() -> None:
    seen = 0
    for name, imported in modules():
        if not name.startswith(PURE):
            continue
        seen += 1
        roots = {module.partition(".")[0] for module in imported}
        assert not roots & IMPURE_MODULES, f"{name} imports {roots & IMPURE_MODULES}"
        ours = {module.split(".")[1] for module in imported if module.startswith("forebay.")}
        assert not ours & IMPURE_PACKAGES, f"{name} imports {ours & IMPURE_PACKAGES}"
    assert seen > 15


def test_the_data_plane_never_imports_engines_nor_engines_the_data_plane() -> None:
    for name, imported in modules():
        if name.startswith(("gateway/", "upstream/", "replicas/", "api/", "cli/gateway.py", "cli/run.py")):
            assert not any(module.startswith("forebay.engines") for module in imported), name
        if name.startswith("engines/"):
            assert not any(module.startswith(("forebay.gateway", "forebay.replicas")) for module in imported), name


def cone_of(role: str) -> set[str]:
    """All modules that a role's command imports, however indirectly."""
    imports = {"forebay." + name.removesuffix(".py").replace("/", "."): found for name, found in modules()}
    seen: set[str] = set()
    frontier = [f"forebay.cli.{role}"]
    while frontier:
        if (module := frontier.pop()) in imports and module not in seen:
            seen.add(module)
            frontier.extend(imports[module])
    return seen


def test_each_role_stays_in_its_cone() -> None:
    agent, data_plane, both = cone_of("engine"), cone_of("gateway"), cone_of("serve")
    assert not {module for module in agent if module.startswith(("forebay.gateway", "forebay.replicas"))}
    assert not {module for module in data_plane if module.startswith("forebay.engines")}
    assert {"forebay.engines.supervisor", "forebay.api.health", "forebay.cli.options"} <= agent
    assert {"forebay.gateway.pipeline", "forebay.engines.supervisor"} <= both


def test_nothing_imports_the_engine_itself() -> None:
    for name, imported in modules():
        if name != "models/convert_gguf.py":  # a script for the engine's own Python
            assert not any(module.split(".")[0] in {"vllm", "torch", "transformers"} for module in imported), name
