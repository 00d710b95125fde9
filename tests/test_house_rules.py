"""The house rules that a linter does not know: small files, small functions, imports at the top, one reader of the
environment, every promise's figure printed by a test."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path
    for folder in ("src", "tests", "bench", "tools")
    for path in (ROOT / folder).rglob("*.py")
    if "__pycache__" not in path.parts
)
MAX_FILE, MAX_FUNCTION, MAX_PARAMETERS = 400, 50, 6

# Each exception has a reason; a file or function that is not here keeps the limit.
LONG_FILES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}
LAZY_IMPORTS = {
    "src/llm_bridge/cli/service.py": "`up` alone needs the servers; --help answers at once",
    "src/llm_bridge/config/store.py": "the YAML reader costs a tenth of a second, and an unchanged config needs none",
    "src/llm_bridge/engines/worker.py": "the native library, after the parent's death is watched for",
    "src/llm_bridge/control/config.py": "the YAML editor, for the one endpoint that writes",
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, Function):
            yield node


def length(function: Function) -> int:
    """Lines of code: the docstring is not counted, or nobody would write one."""
    start = function.body[0].end_lineno if ast.get_docstring(function) is not None else function.lineno
    return (function.end_lineno or 0) - (start or 0) + 1


def test_files_are_small() -> None:
    long = {name(p): n for p in FILES if (n := len(p.read_text(encoding="utf-8").splitlines())) > MAX_FILE}
    assert set(long) == set(LONG_FILES), long


def test_functions_are_small() -> None:
    long = {
        f"{name(path)}:{function.name}": length(function)
        for path in FILES
        for function in functions(path)
        if length(function) > MAX_FUNCTION
    }
    assert set(long) == set(LONG_FUNCTIONS), long


def test_functions_take_few_parameters() -> None:
    wide = [
        f"{name(path)}:{function.name}"
        for path in FILES
        for function in functions(path)
        if len([a for a in (*function.args.posonlyargs, *function.args.args) if a.arg not in ("self", "cls")])
        + len(function.args.kwonlyargs)
        > MAX_PARAMETERS
    ]
    assert wide == []


def test_imports_are_at_the_top() -> None:
    lazy = {
        name(path)
        for path in (ROOT / "src").rglob("*.py")
        for function in functions(path)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert lazy == set(LAZY_IMPORTS)


def test_one_file_reads_the_environment() -> None:
    readers = {
        name(path)
        for path in (ROOT / "src").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
        and node.attr in ("environ", "getenv", "environb")
    }
    assert readers == {"src/llm_bridge/settings.py"}


def test_packages_have_empty_init_files() -> None:
    assert [name(p) for p in (ROOT / "src").rglob("__init__.py") if p.read_text().strip()] == []


@pytest.mark.parametrize("readme", ["README.md", "README.en.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_documents_are_there_and_end_with_a_newline(readme: str) -> None:
    text = (ROOT / readme).read_text(encoding="utf-8")
    assert len(text) > 500
    assert text.endswith("\n")


def test_the_architecture_fits_in_a_sitting() -> None:
    assert len((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").splitlines()) <= 150
