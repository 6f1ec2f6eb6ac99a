"""Print the ten longest functions under a folder: `longest_functions.py src`. Growth needs a reason."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path


def functions(root: Path) -> Iterator[tuple[int, str]]:
    """Yield the length in lines of every function, and where it is."""
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                yield node.end_lineno - node.lineno + 1, f"{path}:{node.lineno} {node.name}"


def main() -> None:
    longest = sorted(functions(Path(sys.argv[1])), reverse=True)[:10]
    print("longest functions:", *(f"{lines:4d} lines  {where}" for lines, where in longest), sep="\n")


if __name__ == "__main__":
    main()
