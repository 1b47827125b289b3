"""Install the project with what its tests need, and run them: ``python3 tests/run.py [PYTEST OPTIONS]``.

    --group NAME   also install this dependency group of pyproject.toml; may be repeated
    --extra NAME   also install this extra of the project; may be repeated
    --coverage     measure coverage, for `coverage combine` and `coverage report` in that environment
    --windows      run the unit and e2e tests on CPython for Windows, under wine if need be; see tests/windows.py

Everything else goes to pytest. Needs Python 3.11 or newer and pip; the environment it makes, `.venv-test-<version>`,
is kept for the next run.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: list[str]) -> int:
    """Run the tests; return pytest's exit status."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--group", action="append", default=[])
    parser.add_argument("--extra", action="append", default=[])
    parser.add_argument("--coverage", action="store_true")
    parser.add_argument("--windows", action="store_true")
    options, rest = parser.parse_known_args(arguments)
    bootstrap = _load_bootstrap()
    try:
        if options.windows and sys.platform != "win32":
            # What makes Windows' Python has uv, and nothing more.
            python = bootstrap.make_environment(
                ROOT, f".venv-standalone-{bootstrap.version_tag()}", bootstrap.requirements_of(ROOT, ["standalone"])
            )
            return int(bootstrap.run_in(python, [str(ROOT / "tests" / "windows.py"), *rest]))
        python = bootstrap.make_environment(
            ROOT,
            f".venv-test-{bootstrap.version_tag()}",
            bootstrap.requirements_of(ROOT, ["test", *options.group]),
            extras=",".join(options.extra),
        )
    except bootstrap.BootstrapError as error:
        sys.stderr.write(f"tests/run.py: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    os.chdir(ROOT)
    measuring = ["-m", "coverage", "run"] if options.coverage else []
    status: int = bootstrap.run_in(python, [*measuring, "-m", "pytest", *rest])
    return status


def _load_bootstrap() -> ModuleType:
    # By path: the package cannot be imported before its dependencies are installed.
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "symcache" / "bootstrap.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
