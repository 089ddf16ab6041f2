"""python -m service: read the settings, open the parts, run the server until SIGTERM."""

import logging
import os
import socket
import sys
from pathlib import Path

from gallery.errors import GalleryError
from service.access import read_access
from service.app import create_app
from service.calibration import find_calibration
from service.crops import tame_pillow
from service.doors import Doors
from service.embedder import granted_cores
from service.errors import ServiceError, SettingRefused, one_line
from service.memory import collect_rarely, share_heaps
from service.parts import open_embedder, open_gallery
from service.processor import compute_in_long_turns
from service.server import connection_limit, make_server
from service.settings import Settings, describe_settings, given_names, read_settings, unknown_settings
from service.shedding import Shedding
from service.telemetry import configure_logging
from service.tls import tls_options
from service.watchdog import systemd

USAGE = """usage: python -m service [--help]

Serves person re-identification over HTTP. Everything is set by environment variables, or by the same lines in ./.env:

{settings}

It stops on SIGTERM or Ctrl-C, after the answers under way."""

DRAIN_EXTRA_S = 5  # beyond the deadline: answers still being written


def main(arguments: list[str]) -> int:
    """Run the service; returns the exit status."""
    if arguments in (["--help"], ["-h"]):
        print(USAGE.format(settings=describe_settings()))
        return 0
    if arguments:
        print(f"got {' '.join(arguments)!r}, wanted no arguments; python -m service --help", file=sys.stderr)
        return 2
    try:
        return serve(read_settings())
    except (ServiceError, GalleryError) as error:
        print(f"cannot start: {one_line(error)}", file=sys.stderr)
        return 1


def serve(settings: Settings) -> int:
    """Open everything that can fail, cheapest first, then serve."""
    compute_in_long_turns()
    share_heaps(granted_cores())
    configure_logging(form=settings.log_format, level=settings.log_level)
    for complaint in unknown_settings(given_names()):
        logging.getLogger("service").warning(complaint)
    tame_pillow()
    refuse_workers(os.environ.get("WEB_CONCURRENCY"))
    read_access(settings)
    tls = tls_options(settings)
    with listen(settings) as listener:
        embedder = open_embedder(settings)
        calibration = find_calibration(settings.own_calibration, settings.model, embedder.model)
        gallery = open_gallery(settings, embedder.model)
        try:
            app = create_app(settings, embed=embedder, gallery=gallery, calibration=calibration, notify=systemd(os.environ))
            doors = Doors(connections=connection_limit(), patience_s=settings.receive_s)
            drain_s, count = settings.deadline_s + DRAIN_EXTRA_S, app.state.telemetry.count_refusal
            server = make_server(app, doors=doors, drain_s=drain_s, on_refusal=count, shed=Shedding(app), **tls)
            announce(settings, listener, Path(settings.gallery))
            collect_rarely()
            server.run(sockets=[listener])
        except KeyboardInterrupt:
            pass  # uvicorn has drained, and then passes Ctrl-C on
        finally:
            gallery.close()
    return 0


def refuse_workers(wanted: str | None) -> None:
    """Refuse what other servers take for a number of processes, rather than ignore it."""
    if wanted not in (None, "", "1"):
        raise SettingRefused(
            f"WEB_CONCURRENCY: got {wanted}, wanted 1: one process owns a gallery; unset it. REID_THREADS gives this one more "
            "cores, and another service wants another REID_GALLERY and REID_PORT"
        )


def listen(settings: Settings) -> socket.socket:
    """Take the port before the slow parts are opened.

    Raises:
        SettingRefused: when the address is no address of this machine, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise SettingRefused(
            f"REID_HOST={settings.host} REID_PORT={settings.port}: got {error.strerror}, wanted a free address; "
            "set another REID_PORT, and for a second service another REID_GALLERY, or stop what listens there"
        ) from None
    listener.set_inheritable(True)
    return listener


def announce(settings: Settings, listener: socket.socket, folder: Path) -> None:
    """Say where the service will be found."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    fields = {
        "url": f"{'https' if settings.tls_cert else 'http'}://{host}:{listener.getsockname()[1]}",
        "gallery": folder.resolve(),
    }
    logging.getLogger("service").info("serving", extra={"fields": fields})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
