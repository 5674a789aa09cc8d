# All programs in one image. The context is a folder with the programs alone,
# which `cargo xtask image` fills; there is no shell inside.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY rtc rtc-operator rtc-signaling rtc-turn /usr/local/bin/
ENV PATH=/usr/local/bin
USER 65532:65532
LABEL org.opencontainers.image.source=https://github.com/rtc-operator/rtc-operator \
      org.opencontainers.image.licenses=Apache-2.0
CMD ["rtc", "--help"]
