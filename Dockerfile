# medfl in a container; without arguments it runs the quickstart.
#
#   docker build -t medfl .
#   mkdir -p results && docker run --rm --user "$(id -u):$(id -g)" -v "$PWD/results:/results" medfl
#
# With a GPU add `--gpus all`: the wheels bring CUDA with them, so the host needs its NVIDIA driver and container toolkit
# and this image nothing else. With data of your own add `-v /data:/data:ro` and name a pipeline:
#
#   docker run --rm ... medfl run /results/hospitals.yaml
#
# There is no C++ compiler in here, so leave `training.compile` at false.
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1 \
    UV_PYTHON_DOWNLOADS=never

RUN pip install --no-cache-dir uv \
    && useradd --create-home --uid 1000 medfl \
    && install --directory --owner medfl --mode 777 /app /results

USER medfl
WORKDIR /app

# The dependencies, gigabytes that change with pyproject.toml only.
COPY --chown=medfl pyproject.toml ./
RUN uv sync --no-dev --extra weights --no-install-project

# The code, which changes often and installs in seconds.
COPY --chown=medfl . .
RUN uv sync --no-dev --extra weights

# Runs, mlflow.db and the cache land in /results, whoever the user is; a user without a name needs one in USER.
ENV PATH=/app/.venv/bin:$PATH \
    USER=medfl \
    HOME=/results \
    MEDFL_CACHE=/results/.cache/medfl
WORKDIR /results
ENTRYPOINT ["medfl"]
CMD ["run", "/app/pipelines/quickstart.yaml"]
