# The reference app in the profile's limits:
#   docker build -t b1 .
#   docker run --memory 1750m --memory-swap 1750m --cpus 1 --read-only --tmpfs /tmp -p 8000:8000 -e ADMIN_TOKEN=… b1
ARG PYTHON_VERSION=3.13

FROM python:${PYTHON_VERSION}-slim AS builder
# Only what the lock names, checked by hash. The project itself is not installed but copied below, as App Service has
# it: no build backend is needed, and the same `python -m b1` starts both.
COPY requirements.txt /build/requirements.txt
RUN python -m venv --without-pip /opt/venv \
 && pip --python /opt/venv/bin/python install --no-cache-dir --no-input --disable-pip-version-check \
      --require-hashes --only-binary :all: -r /build/requirements.txt \
 && /opt/venv/bin/python -m compileall -q -j 0 /opt/venv/lib

FROM python:${PYTHON_VERSION}-slim
# A number, so that an orchestrator can see that it is not root. No home and no shell: nothing is written outside /tmp.
RUN groupadd --system --gid 10001 b1 \
 && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin b1
COPY --from=builder /opt/venv /opt/venv
WORKDIR /srv/b1
COPY startup.sh ./
COPY b1 ./b1
COPY app ./app
# Compiled here, because at run time the root may be read-only.
RUN /opt/venv/bin/python -m compileall -q -j 0 /srv/b1

# The allocator's three are explained in startup.sh; here they also reach `docker exec … python -m b1`.
ENV PATH=/opt/venv/bin:$PATH \
    B1_ENV=production \
    PORT=8000 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MALLOC_ARENA_MAX=2 \
    MALLOC_TRIM_THRESHOLD_=131072 \
    MALLOC_MMAP_THRESHOLD_=131072

USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
# A socket and nothing more: importing an HTTP client would cost ten times the CPU of the probe, every 30 seconds.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-I", "-S", "-c", "\
import os, socket\n\
probe = socket.create_connection(('127.0.0.1', int(os.environ.get('PORT', '8000'))), 4)\n\
probe.sendall(b'GET /live HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n')\n\
raise SystemExit(b' 200 ' not in probe.recv(64))"]
ENTRYPOINT ["bash", "startup.sh"]
