# The worker, the beat and Flower: one image, the command says which.
FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE celeryconfig.py flowerconfig.py ./
COPY cleanup_tasks cleanup_tasks
COPY lua lua
RUN python -m venv /opt/cleanup \
    && /opt/cleanup/bin/pip install --no-cache-dir --constraint constraints.txt .

FROM python:3.13-slim
COPY --from=build /opt/cleanup /opt/cleanup
WORKDIR /app
# A named volume on /data takes over this owner.
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin cleanup \
    && install --directory --owner cleanup --group cleanup /data
ENV PATH=/opt/cleanup/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
CMD ["celery", "-A", "cleanup_tasks", "worker", "--queues", "cleanup"]
