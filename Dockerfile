# One image for every part of a cluster: the head, the workers, the command line. It runs without root.
#
#   docker build --tag nas-service .                                                              for CPUs
#   docker build --tag nas-service --build-arg TORCH=https://download.pytorch.org/whl/cu130 .     for NVIDIA GPUs
#
# All versions are those of constraints.txt. PYTHON takes a digest, too: python:3.11.14-slim-bookworm@sha256:…
ARG PYTHON=python:3.11.14-slim-bookworm
FROM ${PYTHON}

ARG TORCH=https://download.pytorch.org/whl/cpu

WORKDIR /nas

# What nas needs comes before its code, so that an edit installs nothing anew: torch alone takes minutes.
COPY constraints.txt pyproject.toml ./
COPY deploy/requirements.py deploy/
RUN python deploy/requirements.py torch >torch.txt \
    && python deploy/requirements.py >requirements.txt \
    && pip install --no-cache-dir --no-deps --index-url "${TORCH}" --requirement torch.txt \
    && pip install --no-cache-dir --constraint constraints.txt --requirement requirements.txt

COPY README.md LICENSE ./
COPY nas nas
COPY search_spaces search_spaces
COPY controllers controllers
COPY examples examples
RUN pip install --no-cache-dir --no-deps --no-build-isolation . \
    && useradd --uid 1000 --create-home nas \
    && install --directory --owner=nas --group=nas /data /artifacts /work

ENV PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    NAS_DATA=/data \
    NAS_ARTIFACTS=/artifacts
USER 1000:1000
WORKDIR /work
ENTRYPOINT ["nas"]
