# One image for brokers, for the built-in workers, and for `sage-mesh up`.
#
#   docker build -t sage-mesh .
#   docker run --rm -p 127.0.0.1:8080:8080 -v sage:/data sage-mesh
#
# It runs as user 10001 and writes to /data alone: the rest may be read-only (with /tmp in memory).

FROM python:3.13-slim AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN python -m venv /opt/sage \
    && /opt/sage/bin/pip install --no-cache-dir '.[search]' \
    && /opt/sage/bin/python -P -c "from mesh.transport import pump; assert pump.KIND == 'compiled', pump.why()"

FROM python:3.13-slim
RUN groupadd --gid 10001 sage \
    && useradd --uid 10001 --gid sage --no-create-home --home-dir /data sage \
    && install --directory --owner sage --group sage --mode 700 /data
COPY --from=build /opt/sage /opt/sage
ENV PATH=/opt/sage/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SAGE_MEMORY_DATA=/data/memory \
    SAGE_STORAGE_DATA=/data/storage \
    SAGE_SEARCH_DATA=/data/search \
    SAGE_MONITORING_ADDRESS=0.0.0.0:9090 \
    SAGE_LOG_FORMAT=json
WORKDIR /data
USER 10001:10001
VOLUME /data
EXPOSE 8080 9090
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:9090/health', timeout=4)"]
# Nothing checks yet who connects: publish the port to loopback or to a private network only.
CMD ["env", "SAGE_BROKER_BIND=tcp://*:8080", "SAGE_BROKER_INSECURE=true", "sage-mesh", "up"]
