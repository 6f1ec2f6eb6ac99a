"""The three rings and the roles' import cones hold, as the imports themselves say."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import forebay

ROOT = Path(forebay.__file__).parent
PURE = (
    "policy/",
    "wire/",
    "client/pace.py",
    "client/batching.py",
    "client/completions.py",
    "client/retrying.py",
    "client/result.py",
    "engines/lifecycle.py",
    "engines/backoff.py",
    "engines/spec.py",
    "engines/work.py",
    "config/groups/",
    "config/settings.py",
    "config/reload.py",
    "loadgen/arrivals.py",
    "loadgen/figures.py",
    "loadgen/outcome.py",
    "loadgen/plots.py",
    "loadgen/prompts.py",
    "loadgen/report.py",
    "loadgen/stages.py",
    "loadgen/sweep.py",
    "loadgen/words.py",
    "refusals.py",
    "failures.py",
    "telemetry/catalogue.py",
    "telemetry/story.py",
    "telemetry/why.py",
    "sampling.py",
    "talk/conversation.py",
    "talk/heard.py",
    "monitoring/",
    "top/figures.py",
    "doctor/finding.py",
    "doctor/machine.py",
    "doctor/gpus.py",
)
IMPURE_MODULES = {
    "asyncio",
    "concurrent",
    "fastapi",
    "httptools",
    "redis",
    "logging",
    "multiprocessing",
    "os",
    "prometheus_client",
    "random",
    "secrets",
    "shutil",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "uvicorn",
    "uvloop",
}


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
        elif isinstance(node, ast.ImportFrom):
            assert node.module, "an import relative to a package is not followed here"
            assert not node.level, "an import relative to a package is not followed here"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            yield from imports_of(node)


def name_of(path: str) -> str:
    """A source file's name as imports have it."""
    return ("forebay." + path.removesuffix(".py").replace("/", ".")).removesuffix(".__init__")


def test_pure_modules_import_no_io_and_of_ours_only_pure_ones() -> None:
    """So nothing that a pure module imports, however indirectly, does any I/O."""
    by_path = dict(modules())
    pure = {path for path in by_path if path.startswith(PURE)}
    others = {name_of(path): path for path in by_path if path not in pure and by_path[path]}
    assert len(pure) > 15
    for path in pure:
        roots = {module.partition(".")[0] for module in by_path[path]}
        assert not roots & IMPURE_MODULES, f"{path} imports {roots & IMPURE_MODULES}"
        impure = {others[module] for module in by_path[path] if module in others}
        assert not impure, f"{path} imports {impure}"


def test_the_data_plane_never_imports_engines_nor_engines_the_data_plane() -> None:
    for name, imported in modules():
        if name.startswith(("gateway/", "upstream/", "replicas/", "api/", "cli/gateway.py", "cli/run.py")):
            assert not any(module.startswith("forebay.engines") for module in imported), name
        if name.startswith("engines/"):
            assert not any(module.startswith(("forebay.gateway", "forebay.replicas")) for module in imported), name


@cache
def imports_by_name() -> dict[str, set[str]]:
    """What each module of ours imports."""
    return {name_of(path): found for path, found in modules()}


def cone_of(role: str) -> set[str]:
    """All modules that a role's command imports, however indirectly."""
    return all_behind(f"forebay.cli.{role}")


def all_behind(module: str) -> set[str]:
    """A module of ours and all of ours that it imports, however indirectly."""
    imports = imports_by_name()
    seen: set[str] = set()
    frontier = [module]
    while frontier:
        if (module := frontier.pop()) in imports and module not in seen:
            seen.add(module)
            frontier += [*imports[module], module.rpartition(".")[0]]
    return seen


def test_a_cone_is_followed_through_packages_and_their_parents() -> None:
    assert {"forebay", "forebay.cli", "forebay.gateway", "forebay.wire.sse"} <= cone_of("gateway")


def test_each_role_stays_in_its_cone() -> None:
    agent, data_plane, both = cone_of("engine"), cone_of("gateway"), cone_of("serve")
    assert not {module for module in agent if module.startswith(("forebay.gateway", "forebay.replicas"))}
    assert not {module for module in data_plane if module.startswith("forebay.engines")}
    assert {"forebay.engines.supervisor", "forebay.api.health", "forebay.cli.settings_options"} <= agent
    assert {"forebay.gateway.pipeline", "forebay.engines.supervisor"} <= both


def test_the_client_knows_nothing_of_the_gateway_but_its_connections() -> None:
    """So that programs that call a gateway load little."""
    others = {one for one in all_behind("forebay.client") if not one.startswith("forebay.client")}
    pool = all_behind("forebay.upstream.pool") | {"forebay.upstream.connection"}
    assert others <= pool, f"the client imports {others - pool}"
    imports = imports_by_name()
    libraries = {name.partition(".")[0] for module in all_behind("forebay.client") for name in imports[module]}
    assert not libraries & {"fastapi", "pydantic", "sqlalchemy", "typer", "uvicorn", "redis", "prometheus_client"}


def test_nothing_imports_the_engine_itself() -> None:
    for name, imported in modules():
        if name != "models/convert_gguf.py":  # a script for the engine's own Python
            assert not any(module.split(".")[0] in {"vllm", "torch", "transformers"} for module in imported), name
