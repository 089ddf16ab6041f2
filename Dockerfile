# syntax=docker/dockerfile:1
# The service alone: service/ and gallery/, no torch. CPU by default; for an NVIDIA GPU: docker build --build-arg VARIANT=gpu .
# For CPUs with AMX: --build-arg VARIANT=cpu,openvino, and REID_PROVIDER=openvino.
# faiss-cpu and faiss-gpu, onnxruntime and onnxruntime-gpu share module folders: VARIANT picks exactly one set.
FROM python:3.11-slim-bookworm AS build
ARG VARIANT=cpu
WORKDIR /src
RUN python -m venv /venv
COPY pyproject.toml constraints.txt README.md LICENSE ./
# Dependencies first, from the project file alone, so that a change of code does not install them again.
RUN --mount=type=cache,target=/root/.cache/pip \
    python - "$VARIANT" > /tmp/requirements.txt <<'PY' \
 && /venv/bin/pip install --disable-pip-version-check --constraint constraints.txt --requirement /tmp/requirements.txt
import sys, tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
print("\n".join(sum((project["optional-dependencies"][one] for one in sys.argv[1].split(",")), project["dependencies"])))
PY

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /app reid && mkdir -p /app /data && chown reid /data
COPY --from=build /venv /venv
COPY gallery /app/gallery
COPY service /app/service
WORKDIR /app
USER reid
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    REID_HOST=0.0.0.0 REID_PORT=8000 REID_GALLERY=/data/gallery REID_SNAPSHOTS=/data/snapshots
VOLUME /data
EXPOSE 8000
# With a certificate the service speaks HTTPS alone; whom the certificate names is no question within the container.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, ssl, urllib.request as u; s = 's' * bool(os.environ.get('REID_TLS_CERT')); u.urlopen(f'http{s}://127.0.0.1:{os.environ[\"REID_PORT\"]}/readyz', timeout=4, context=ssl._create_unverified_context())"]
STOPSIGNAL SIGTERM
CMD ["python", "-m", "service"]
