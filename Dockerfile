# syntax=docker/dockerfile:1

# Pin it by digest where images are built for others: --build-arg PYTHON_IMAGE=python@sha256:...
ARG PYTHON_IMAGE=python:3.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /source
COPY . .
RUN ["packaging/install", "/opt/linstor-affinity-events"]

FROM ${PYTHON_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="linstor-affinity-events" \
      org.opencontainers.image.description="Keeps the node affinity of PersistentVolumes in step with LINSTOR's replicas" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/linstor-affinity-events /opt/linstor-affinity-events
# Nobody in /etc/passwd has the user's number, and not every runtime makes up a home for such a one.
ENV PATH=/opt/linstor-affinity-events/bin:${PATH} \
    HOME=/ \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# A number, so that Kubernetes can see that it is not root.
USER 1000:1000
EXPOSE 8000
ENTRYPOINT ["linstor-affinity-events"]
CMD ["run"]
