# rmae_d2 and all it needs, for GPUs or without.
#
#   docker build -t rmae_d2 .                              for GPUs of NVIDIA
#   docker build -t rmae_d2:cpu --build-arg DEVICE=cpu .   smaller by what CUDA takes
#   docker run --gpus all --shm-size 8g -v "$PWD:/work" rmae_d2 \
#       train --config-file pretrain/rmae_vitb.py dataloader.train.dataset.root=photos
FROM python:3.12-slim-bookworm
ARG DEVICE=cuda

# What OpenCV needs, by which Detectron2 draws; Debian keeps one version of each in a release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/rmae_d2
COPY . .
# PyPI's torch brings CUDA; the versions are those that the test suite runs with.
RUN if [ "$DEVICE" = cpu ]; then \
        pip install --no-cache-dir -c constraints.txt torch torchvision \
            --index-url https://download.pytorch.org/whl/cpu; \
    fi \
    && pip install --no-cache-dir -c constraints.txt ".[fast,demo,onnx]" \
    && rmae-d2 install-detectron2 \
    && rmae-d2 doctor

WORKDIR /work
ENTRYPOINT ["rmae-d2"]
