# One image for coupon-api and coupon-worker; docker-compose.yml says which of them to run.

FROM rust:1.95-slim-trixie AS build
WORKDIR /source
COPY . .
# For `--version`: .git is not copied. docker build --build-arg GIT_COMMIT="$(git rev-parse --short HEAD)" .
ARG GIT_COMMIT
# The caches stay on the build host: a change of our own code compiles nothing else anew. Symbols
# stay in the programs, for backtraces; debug information does not.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/source/target,sharing=locked \
    cargo build --release --locked -p api -p worker \
    && mkdir /programs \
    && cp target/release/coupon-api target/release/coupon-worker /programs/ \
    && strip --strip-debug /programs/*

# The same C library as above, and a shell for the health checks; nothing is installed.
FROM debian:trixie-slim
# For servers that are reached over TLS.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /programs/ /usr/local/bin/
# Nobody in particular: the programs own no file.
USER 65532:65532
EXPOSE 8080
CMD ["coupon-api"]
