"""Sends what the OpenAPI document allows, and what it forbids, to the live application; checks every answer against it.

python -m tests.service.fuzz_contract                      every phase, fuzzing and stateful links until ten minutes are over
python -m tests.service.fuzz_contract --max-time 3600      ... an hour; every other flag of `schemathesis run` may follow

It holds no crops of anybody: pictures are drawn, the model is a double, the gallery is in a temporary folder.
"""

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr

from service.__main__ import listen
from service.app import create_app
from service.doors import Doors
from service.server import make_server
from service.settings import Settings
from tests.service.conftest import FakeEmbedder

ROOT = Path(__file__).parents[2]
KEY = "fuzz"
LONG = ["--max-time", "600", "--max-examples", "100000"]


@contextmanager
def live(folder: Path) -> Iterator[str]:
    """Serve an empty gallery in a thread of this process; gives the address."""
    places = {"gallery": folder / "gallery", "snapshots": folder / "snapshots", "port": 0}
    settings = Settings(_env_file=None, **places, api_keys=SecretStr(KEY), read_only_keys=SecretStr("reader"))
    with listen(settings) as listener:
        app = create_app(settings, embed=FakeEmbedder())
        server = make_server(app, doors=Doors(connections=100, patience_s=30), drain_s=5)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def fuzz(url: str, folder: Path, flags: list[str]) -> "subprocess.CompletedProcess[str]":
    """Run schemathesis with every check against a live service; its status is 0 when no answer was wrong.

    Args: folder: where it may leave what it leaves.
    """
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--checks", "all"]
    command += ["--header", f"Authorization: Bearer {KEY}", "--no-color", "--warnings", "off", "--request-timeout", "30"]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.service.fuzz_hooks", "PYTHONPATH": str(ROOT)}
    return subprocess.run([*command, *flags], cwd=folder, env=environment, capture_output=True, text=True)


def main(flags: list[str]) -> int:
    """Fuzz, and say what was found."""
    with tempfile.TemporaryDirectory() as folder, live(Path(folder)) as url:
        done = fuzz(url, Path(folder), flags or LONG)
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
