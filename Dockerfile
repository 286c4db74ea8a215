# One image for every process of the cluster; `demo` adds what the demo needs.
#   docker build --target cluster .
FROM debian:trixie-slim AS cluster
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 1000 --create-home vcoproc
WORKDIR /opt/vcoproc
COPY requirements/cluster.txt requirements/
RUN python3 -m venv .venv \
    && .venv/bin/pip install --no-cache-dir --quiet --require-hashes -r requirements/cluster.txt
COPY libs libs
COPY services services
RUN .venv/bin/pip install --no-cache-dir --quiet --no-deps --no-build-isolation \
    -e libs/vcoproc -e services/scheduler -e services/coproc-sim -e services/irq-router \
    -e services/toolstack
COPY firmware firmware
COPY examples examples
ENV PATH=/opt/vcoproc/.venv/bin:$PATH VCOPROC_RUN_DIR=/run/vcoproc PYTHONUNBUFFERED=1
USER vcoproc

FROM cluster AS demo
USER root
COPY requirements/demo.txt requirements/
RUN .venv/bin/pip install --no-cache-dir --quiet --require-hashes -r requirements/demo.txt \
    && .venv/bin/pip install --no-cache-dir --quiet --no-deps --no-build-isolation -e examples/demo
USER vcoproc
