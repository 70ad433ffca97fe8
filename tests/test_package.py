"""The package: what a wheel holds, and that it works installed, far from the checkout."""

import os
import re
import signal
import socket
import subprocess
import sys
import tomllib
import urllib.request
import venv
import zipfile
from pathlib import Path

import pytest

from nmerge_core import places
from nmerge_core.cache import cache_root
from nmerge_core.runs.lock import worker_pid
from nmerge_core.version import __version__

ROOT = Path(__file__).parent.parent
SITE = [folder for folder in sys.path if folder.endswith("site-packages")]
OFFLINE = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation")

# As `streamlit run` has it: the script's folder is where imports are looked for first.
DRAW_ALL_PAGES = """
import sys
from nmerge_core.places import APP
from streamlit.testing.v1 import AppTest

sys.path.insert(0, str(APP))
for page in ["app.py", *(f"pages/{file.name}" for file in sorted((APP / "pages").glob("*.py")))]:
    drawn = AppTest.from_file(APP / "app.py", default_timeout=60).switch_page(page)
    drawn.query_params["merge_live"] = "false"  # the worker is tried below
    drawn.run()
    assert not drawn.exception, drawn.exception
    assert drawn.title, page
    print(page)
"""

RUN_IN_THE_WORKER = """
import time
from nmerge_core.cache import cache_root
from nmerge_core.runs import client

demo = cache_root() / "demo"
run = client.submit("cosine", {"base": str(demo / "base"), "models": [str(demo / "math")]})
until = time.monotonic() + 60
while run.status().state in ("queued", "running") and time.monotonic() < until:
    time.sleep(0.05)
print(run.status().state, run.status().message)
"""


def pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class Installation:
    """An environment with the libraries of this one, and NMerge as pip installs it."""

    def __init__(self, folder: Path, *what: object) -> None:
        venv.create(folder / "venv", symlinks=True)
        self.site = next((folder / "venv/lib").glob("python*/site-packages"))
        (self.site / "libraries.pth").write_text("\n".join(SITE))
        pip("--python", folder / "venv", "install", *OFFLINE, "--ignore-installed", *what)
        self.bin = folder / "venv/bin"
        self.home, self.elsewhere = folder / "home", folder / "elsewhere"
        self.home.mkdir()
        # Where it is started there are packages of these names, and settings of another Streamlit app.
        for file, text in {
            "nmerge_core/__init__.py": "raise ImportError('of the working directory')",
            "streamlit/__init__.py": "raise ImportError('of the working directory')",
            ".streamlit/config.toml": '[server]\naddress = "0.0.0.0"\nenableXsrfProtection = false\n',
        }.items():
            (self.elsewhere / file).parent.mkdir(parents=True)
            (self.elsewhere / file).write_text(text)

    def environment(self, **variables: str) -> dict[str, str]:
        ours = {"NMERGE_CACHE", "XDG_CACHE_HOME", "PYTHONPATH"}
        return {name: value for name, value in os.environ.items() if name not in ours} | {
            "HOME": str(self.home),
            **variables,
        }

    def run(self, *command: str, **variables: str) -> str:
        done = subprocess.run(
            [self.bin / command[0], *command[1:]],
            cwd=self.elsewhere,
            env=self.environment(**variables),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def python(self, program: str, **variables: str) -> str:
        return self.run("python", "-P", "-c", program, **variables)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    pip("wheel", *OFFLINE, "--wheel-dir", out, ROOT)
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation(tmp_path_factory.mktemp("installed"), wheel)


def files(folder: str) -> set[str]:
    found = (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in found}


def test_a_wheel_holds_the_package_and_the_app_and_nothing_else(wheel: Path) -> None:
    app = {"app.py", "server.py", ".streamlit/config.toml"} | files("pages")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == files("nmerge_core") | {f"nmerge_core/app/{name}" for name in app}
    assert {
        "nmerge_core/demo/weights/base/model.safetensors",
        "nmerge_core/demo/tasks/math.yaml",
        "nmerge_core/evaluation/benchmarks/humaneval.yaml",
        "nmerge_core/py.typed",
        "nmerge_core/app/pages/1_Models.py",
        "nmerge_core/app/pages/shared/charts/chart.js",
    } <= held


def test_an_installed_wheel_is_a_library_and_a_command(installed: Installation) -> None:
    assert installed.run("nmerge", "--version") == f"{__version__}\n"
    found = installed.python("import nmerge_core; print(nmerge_core.__version__, nmerge_core.__file__)")
    assert found == f"{__version__} {installed.site / 'nmerge_core/__init__.py'}\n"


def test_an_installed_wheel_draws_its_pages_and_does_runs_on_the_demo(installed: Installation) -> None:
    cache = installed.home / ".cache/nmerge"
    assert installed.run("nmerge", "demo") == f"{cache / 'demo'}\n"
    drawn = installed.python(DRAW_ALL_PAGES).split()
    assert drawn == ["app.py", *sorted(f"pages/{file.name}" for file in (ROOT / "pages").glob("*.py"))]
    try:
        assert installed.python(RUN_IN_THE_WORKER) == "done \n"
    finally:
        if pid := worker_pid(cache):
            os.kill(pid, signal.SIGKILL)


def test_the_app_starts_anywhere_with_settings_of_its_own(installed: Installation) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [installed.bin / "nmerge", "app", "--port", str(port)],
        cwd=installed.elsewhere,
        env=installed.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert server.stdout
        lines: list[str] = []
        while not (lines and "URL: " in lines[-1]):
            lines.append(server.stdout.readline())
            assert lines[-1], lines
        assert lines[-1].strip() == f"URL: http://127.0.0.1:{port}"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=10) as answer:
            assert answer.status == 200
            assert "_streamlit_xsrf" in answer.headers["Set-Cookie"]
    finally:
        server.kill()
        server.communicate()


def test_an_editable_install_is_the_checkout(tmp_path: Path) -> None:
    editable = Installation(tmp_path, "--editable", ROOT)
    assert editable.run("nmerge", "--version") == f"{__version__}\n"
    assert not (editable.site / "nmerge_core").exists()
    told = editable.python("from nmerge_core import cache, places; print(places.APP, cache.cache_root())")
    assert told == f"{ROOT} {ROOT / 'cache'}\n"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "home/.cache/nmerge"),
        ({"XDG_CACHE_HOME": "{}/large"}, "large/nmerge"),
        ({"XDG_CACHE_HOME": "{}/large", "NMERGE_CACHE": "{}/mine"}, "mine"),
        ({"XDG_CACHE_HOME": "", "NMERGE_CACHE": ""}, "home/.cache/nmerge"),
    ],
)
def test_a_wheel_keeps_results_in_the_users_cache(
    installed: Installation, variables: dict[str, str], expected: str
) -> None:
    folder = installed.home.parent
    set_to = {name: value.format(folder) for name, value in variables.items()}
    told = installed.python("from nmerge_core.cache import cache_root; print(cache_root())", **set_to)
    assert told == f"{folder / expected}\n"


def test_a_checkout_keeps_results_in_its_cache_unless_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("NMERGE_CACHE")
    assert cache_root() == ROOT / "cache"
    monkeypatch.setenv("NMERGE_CACHE", str(tmp_path / "mine"))
    assert cache_root() == tmp_path / "mine"


def test_a_wheel_on_macos_keeps_results_where_macos_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "FROM_WHEEL", True)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setenv("HOME", "/Users/ada")
    assert places.default_cache() == Path("/Users/ada/Library/Caches/nmerge")


def pins(lines: list[str]) -> dict[str, str]:
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def test_the_package_admits_what_is_pinned_and_asks_for_nothing_else() -> None:
    """Ranges in the package, pins for the two make commands: of the same libraries, those for tests left out."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    tests = lines.index("# --- Checks and tests ---")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pinned = pins(lines[:tests])
    optional = pins((ROOT / "requirements-mergekit.txt").read_text().splitlines())
    built = {"hatchling": pins(lines[tests:])["hatchling"]}
    for asked, known in (
        (project["project"]["dependencies"], pinned),
        (project["project"]["optional-dependencies"]["mergekit"], optional),
        (project["build-system"]["requires"], built),
    ):
        ranges = [re.fullmatch(r"([\w-]+)>=([\d.]+),<(\d+)", text) for text in asked]
        assert all(ranges), asked
        found = {match[1]: (match[2], match[3]) for match in ranges if match}
        assert found.keys() == known.keys() and len(found) == len(asked)
        outside = [n for n, (low, high) in found.items() if not numbers(low) <= numbers(known[n]) < numbers(high)]
        assert not outside
