# gateway-websocket as an image, in the classic syntax: `docker build -t gateway-websocket .` works
# with and without BuildKit.
#
#   runtime   small and without a program: a user, the directories, how it is run and asked
#   build     compiles the program
#   (last)    the two joined
#
# For a mirror, or bases of your own, of the same Debian:
#   docker build --build-arg RUNTIME_IMAGE=... --build-arg BUILD_IMAGE=... .

ARG RUNTIME_IMAGE=debian:bookworm-slim
ARG BUILD_IMAGE=rust:1.95-bookworm

FROM ${RUNTIME_IMAGE} AS runtime
LABEL org.opencontainers.image.title="gateway-websocket" \
      org.opencontainers.image.description="WebSocket gateway that is driven over gRPC" \
      org.opencontainers.image.licenses="Apache-2.0"
# A number, so that an orchestrator can see that it isn't root. The control socket's directory is a
# volume, so that it can be written when nothing else can.
RUN mkdir -p /etc/gateway-websocket /run/gateway-websocket \
    && chown 10001:10001 /run/gateway-websocket \
    && chmod 0700 /run/gateway-websocket
VOLUME ["/etc/gateway-websocket", "/run/gateway-websocket"]
# Published ports reach no loopback. Beyond it gRPC wants to know who may call: give it
# GWS_GRPC__TOKEN_FILES, GWS_GRPC__ALLOW or GWS_GRPC__CLIENT_CA, or the start ends with 78.
ENV GWS_GRPC__LISTEN=0.0.0.0:20819 \
    GWS_ADMIN__LISTEN=0.0.0.0:20820
EXPOSE 20818 20819 20820
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s --retries=3 \
    CMD ["/usr/bin/gateway-websocket", "health"]
ENTRYPOINT ["/usr/bin/gateway-websocket"]
CMD ["serve"]

FROM ${BUILD_IMAGE} AS build
WORKDIR /src
# Not rust-toolchain.toml: the image is the toolchain.
COPY Cargo.toml Cargo.lock build.rs ./
COPY proto proto
COPY src src
COPY config config
RUN cargo build --release --locked --bin gateway-websocket

FROM runtime
COPY --from=build /src/target/release/gateway-websocket /usr/bin/gateway-websocket
