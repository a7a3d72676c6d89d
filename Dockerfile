# Envoy with graygate, built without Rust on your machine. In the project's root directory:
#
#   docker build -t graygate .                                # Envoy, both modules and the tool
#   docker build -t graygate-tool --target tool .             # the command line tool alone
#   docker build --target modules --output dist .             # the modules, into dist/; needs BuildKit
#
# `--build-arg GRAYGATE_COMMIT=$(git rev-parse --short=10 HEAD)` puts the commit into the modules and the tool. They say
# "unknown" without it, as .git is not sent to docker.
#
# The images below are named by version. To pin one by its content, add the digest that `docker buildx imagetools inspect
# IMAGE` prints, as in debian:12-slim@sha256:…

# Debian 12 has a compiler for wasm32 as packages, the one by which `make wasm` builds on Debian. glibc is older here than
# in most images, and the tool runs with any later one.
FROM debian:12-slim AS build
WORKDIR /graygate
RUN apt-get update -qq && \
    apt-get install -y -qq --no-install-recommends ca-certificates gcc libc6-dev >/dev/null
# Installs the compilers in a layer of its own, which a change of the source leaves as it is.
COPY .ci/common .ci/toolchain .ci/wasm-toolchain .ci/binaryen .ci/
RUN bash -c 'source .ci/common && source .ci/wasm-toolchain' && .ci/binaryen wasm-opt --version
COPY . .
ARG GRAYGATE_COMMIT
RUN .ci/wasm
RUN cargo build --release --locked --no-default-features --features tool --bin graygate

FROM scratch AS modules
COPY --from=build /graygate/dist/*.wasm /

FROM debian:12-slim AS tool
COPY --from=build /graygate/target/release/graygate /usr/local/bin/
# The user nobody. The tool reads the directory that is mounted at /work, and writes to its output.
USER 65534:65534
WORKDIR /work
ENTRYPOINT ["graygate"]
CMD ["--help"]

# Without a command, it runs the demo's configuration. For your own, mount it and name it:
#   docker run -v "$PWD:/etc/graygate:ro" graygate envoy -c /etc/graygate/envoy.yaml
FROM envoyproxy/envoy:v1.40.0
COPY --from=build /graygate/target/release/graygate /usr/local/bin/
WORKDIR /graygate
COPY --from=build /graygate/dist/*.wasm dist/
COPY envoy/envoy.yaml envoy/graygate.yaml envoy/docker.sed envoy/
RUN mkdir -p /etc/envoy && sed -f envoy/docker.sed envoy/envoy.yaml >/etc/envoy/envoy.yaml
# The user envoy of the image.
USER 101:101
EXPOSE 10000 10001 9901
CMD ["envoy", "-c", "/etc/envoy/envoy.yaml", "--concurrency", "2"]
