"""A call between two aiortc peers that may use relays alone: messages on a data channel, there and back.

call.py URI USER PASSWORD

A turns: URI is checked against the certificates in SSL_CERT_FILE.
"""

import asyncio
import sys

from aiortc import (
    RTCConfiguration,
    RTCIceServer,
    RTCIceTransportPolicy,
    RTCPeerConnection,
)

COUNT = 20


async def main(uri, user, password):
    server = RTCIceServer(urls=uri, username=user, credential=password)
    relayed = RTCConfiguration(iceServers=[server], iceTransportPolicy=RTCIceTransportPolicy.RELAY)
    alice, bob = RTCPeerConnection(relayed), RTCPeerConnection(relayed)
    received = asyncio.Queue()

    @bob.on("datachannel")
    def on_datachannel(channel):
        channel.on("message", channel.send)

    channel = alice.createDataChannel("echo")
    opened = asyncio.Event()
    channel.on("open", opened.set)
    channel.on("message", received.put_nowait)
    await alice.setLocalDescription(await alice.createOffer())
    await bob.setRemoteDescription(alice.localDescription)
    await bob.setLocalDescription(await bob.createAnswer())
    await alice.setRemoteDescription(bob.localDescription)
    for description in (alice.localDescription, bob.localDescription):
        candidates = [line for line in description.sdp.splitlines() if line.startswith("a=candidate")]
        assert candidates and all(" typ relay" in line for line in candidates), candidates
    await opened.wait()
    for n in range(COUNT):
        # the last ones are longer than a datagram
        message = b"message %d " % n + b"x" * (n * 200)
        channel.send(message)
        assert await received.get() == message
    await asyncio.gather(alice.close(), bob.close())
    print(f"echoed {COUNT} of {COUNT}")


asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), 60))
