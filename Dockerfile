# One file for all images: docker build --target api -t headway-api . (or stream, worker, migrate, cli)
#
# For each there is a stage that makes /opt/venv from its own requirements/GROUP.txt, and a last one that takes that and
# the code which this service runs, nothing else. Packages stand before code: a change of code installs nothing.
# Nothing here needs BuildKit, and there is no compiler at any time: all packages come as wheels.
#
# PYTHON: the base, of Debian 12 with Python 3.11. TRACING=yes: api, stream and worker can tell a collector of traces.
# VERSION: for the label.
ARG PYTHON=python:3.11-slim-bookworm

FROM $PYTHON AS wheels
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv --without-pip /opt/venv

FROM wheels AS api-environment
ARG TRACING
COPY requirements/api.txt requirements/tracing.txt /tmp/
RUN python3 -m pip --python /opt/venv install -q --require-hashes --only-binary :all: -r /tmp/api.txt ${TRACING:+-r /tmp/tracing.txt}

FROM wheels AS stream-environment
ARG TRACING
COPY requirements/stream.txt requirements/tracing.txt /tmp/
RUN python3 -m pip --python /opt/venv install -q --require-hashes --only-binary :all: -r /tmp/stream.txt ${TRACING:+-r /tmp/tracing.txt}

FROM wheels AS worker-environment
ARG TRACING
COPY requirements/worker.txt requirements/tracing.txt /tmp/
RUN python3 -m pip --python /opt/venv install -q --require-hashes --only-binary :all: -r /tmp/worker.txt ${TRACING:+-r /tmp/tracing.txt}

FROM wheels AS migrate-environment
COPY requirements/migrate.txt /tmp/
RUN python3 -m pip --python /opt/venv install -q --require-hashes --only-binary :all: -r /tmp/migrate.txt

FROM wheels AS cli-environment
COPY requirements/cli.txt /tmp/
RUN python3 -m pip --python /opt/venv install -q --require-hashes --only-binary :all: -r /tmp/cli.txt

# What the last stages have in common. Everything is compiled ahead, because a root filesystem that is read-only keeps no
# compiled code, and every start would compile all of it again.
FROM $PYTHON AS base
RUN groupadd --gid 10001 headway \
 && useradd --uid 10001 --gid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin headway \
 && install --directory --owner 10001 --group 10001 --mode 0750 /var/lib/headway/uploads
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONPATH=/app \
    HEADWAY_HOST=0.0.0.0 \
    HEADWAY_UPLOADS=/var/lib/headway/uploads \
    HEADWAY_LOG_FORMAT=json
WORKDIR /app
COPY infra/__init__.py infra/
COPY infra/images infra/images/
COPY pyproject.toml ./
RUN python3 infra/images/distribution.py pyproject.toml /app

FROM base AS api
COPY --from=api-environment /opt/venv /opt/venv
COPY clients/js clients/js/
COPY shared shared/
COPY services/__init__.py services/
COPY services/api services/api/
RUN python -m compileall -q /app
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-I", "-S", "/app/infra/images/health.py", "8000"]
CMD ["python", "-m", "services.api"]
ARG VERSION=unknown
LABEL org.opencontainers.image.title="headway-api" org.opencontainers.image.licenses="Apache-2.0" org.opencontainers.image.version=$VERSION

FROM base AS stream
COPY --from=stream-environment /opt/venv /opt/venv
COPY shared shared/
COPY services/__init__.py services/
COPY services/stream services/stream/
RUN python -m compileall -q /app
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-I", "-S", "/app/infra/images/health.py", "8000"]
CMD ["python", "-m", "services.stream"]
ARG VERSION=unknown
LABEL org.opencontainers.image.title="headway-stream" org.opencontainers.image.licenses="Apache-2.0" org.opencontainers.image.version=$VERSION

# Its first process buries the orphans of commands that jobs start: no `--init` is needed.
FROM base AS worker
COPY --from=worker-environment /opt/venv /opt/venv
COPY shared shared/
COPY services/__init__.py services/
COPY services/worker services/worker/
COPY infra/supervisor.py infra/
COPY infra/embedded infra/embedded/
COPY infra/workers infra/workers/
RUN python -m compileall -q /app
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
ENV HEADWAY_WORKER_PORT=8000
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-I", "-S", "/app/infra/images/health.py", "8000"]
CMD ["python", "-m", "infra.workers"]
ARG VERSION=unknown
LABEL org.opencontainers.image.title="headway-worker" org.opencontainers.image.licenses="Apache-2.0" org.opencontainers.image.version=$VERSION

FROM base AS migrate
COPY --from=migrate-environment /opt/venv /opt/venv
COPY shared shared/
COPY infra/migrations infra/migrations/
RUN python -m compileall -q /app
USER 10001:10001
STOPSIGNAL SIGTERM
CMD ["python", "-m", "infra.migrations"]
ARG VERSION=unknown
LABEL org.opencontainers.image.title="headway-migrate" org.opencontainers.image.licenses="Apache-2.0" org.opencontainers.image.version=$VERSION

# The `headway` command, for operators: token, smoke, doctor, submit, watch, workers, migrate, epoch.
FROM base AS cli
COPY --from=cli-environment /opt/venv /opt/venv
COPY shared shared/
COPY infra infra/
RUN python -m compileall -q /app \
 && printf '#!/opt/venv/bin/python\nfrom infra.cli.main import main\n\nmain()\n' >/opt/venv/bin/headway \
 && chmod 0755 /opt/venv/bin/headway
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["headway"]
CMD ["--help"]
ARG VERSION=unknown
LABEL org.opencontainers.image.title="headway-cli" org.opencontainers.image.licenses="Apache-2.0" org.opencontainers.image.version=$VERSION
