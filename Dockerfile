# The official image of the pinned version brings CUDA, torch and vLLM's kernels.
FROM vllm/vllm-openai:v0.32.0

COPY --chmod=644 pyproject.toml README.md /opt/phi-vision/
COPY server /opt/phi-vision/server
# Of its dependencies the base image has all but pypdfium2. The package brings the plugins that vLLM loads by name.
RUN python3 -m pip install --no-cache-dir --no-deps --constraint /opt/phi-vision/server/constraints/cuda.txt \
        /opt/phi-vision pypdfium2 \
    && useradd --create-home --uid 10001 phi \
    && mkdir -p /home/phi/.cache/huggingface /home/phi/.cache/phi-vision/files \
    && chown -R phi:phi /home/phi/.cache

USER 10001
WORKDIR /home/phi
# What outlives the container: the weights, and what vLLM, Triton, inductor, FlashInfer and the driver have compiled.
ENV VLLM_CACHE_ROOT=/home/phi/.cache/vllm \
    CUDA_CACHE_PATH=/home/phi/.cache/cuda \
    TRITON_CACHE_DIR=/home/phi/.cache/triton \
    TORCHINDUCTOR_CACHE_DIR=/home/phi/.cache/inductor
VOLUME /home/phi/.cache
EXPOSE 8000

# The first start fetches 8 GB of weights; a failing check during the start period does not count.
HEALTHCHECK --interval=15s --timeout=5s --start-period=30m --retries=3 \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]

ENTRYPOINT ["phi-vision", "serve", "--host", "0.0.0.0"]
