# The image of every Marketlake service of docker-compose.yml. It holds no secret and no state.
FROM python:3.11.15-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /opt/marketlake
RUN python -m venv .venv
COPY requirements.txt ./
RUN .venv/bin/pip install --require-hashes -r requirements.txt
COPY . .
RUN .venv/bin/pip install --no-build-isolation --no-deps -e . \
    && .venv/bin/python -m compileall -q include dags plugins

FROM python:3.11.15-slim
# libgomp1: LightGBM's and XGBoost's threads.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*
# A named volume takes over the owner of the folder it is mounted on.
RUN useradd --uid 10001 --create-home marketlake \
    && install --directory --owner marketlake --group marketlake \
      /var/lib/marketlake /var/lib/marketlake/ledger /var/lib/marketlake/sandbox \
      /var/lib/marketlake/logs /var/lib/marketlake/logs/tasks
COPY --from=build /opt/marketlake /opt/marketlake
ENV PATH=/opt/marketlake/.venv/bin:$PATH MARKETLAKE_HOME=/var/lib/marketlake
USER 10001
WORKDIR /var/lib/marketlake
CMD ["marketlake", "--help"]
