# docker build -t vertebra .
# docker run -p 8000:8000 -v "$PWD/runs/street:/models/street:ro" vertebra /models/street
FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
# torch without CUDA; another index or a mirror: --build-arg TORCH_INDEX=URL
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python -m venv /opt/vertebra \
    && /opt/vertebra/bin/pip install --no-cache-dir torch torchvision --index-url "$TORCH_INDEX" \
    && /opt/vertebra/bin/pip install --no-cache-dir ".[serve]"

FROM python:3.12-slim
RUN useradd --create-home --uid 1000 vertebra
COPY --from=build /opt/vertebra /opt/vertebra
ENV PATH=/opt/vertebra/bin:$PATH PYTHONUNBUFFERED=1
USER vertebra
WORKDIR /home/vertebra
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["vertebra", "serve", "--host=0.0.0.0", "--port=8000"]
