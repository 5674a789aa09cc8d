"""aioice's TURN client: allocates, and sends to a peer that echoes, by the channel that it binds.

client.py TRANSPORT HOST PORT USER PASSWORD PEER_HOST PEER_PORT CA_FILE
"""

import asyncio
import ssl
import sys

from aioice import turn

COUNT = 20


class Echo(asyncio.DatagramProtocol):
    def __init__(self):
        self.received = asyncio.Queue()

    def datagram_received(self, data, addr):
        self.received.put_nowait((data, addr))


async def main(transport, host, port, user, password, peer_host, peer_port, ca_file):
    context = ssl.create_default_context(cafile=ca_file) if transport == "tls" else None
    relay, protocol = await turn.create_turn_endpoint(
        Echo,
        server_addr=(host, int(port)),
        username=user,
        password=password,
        ssl=context,
        transport="udp" if transport == "udp" else "tcp",
    )
    peer = (peer_host, int(peer_port))
    for n in range(COUNT):
        message = b"message %d " % n + b"x" * (n * 60)
        relay.sendto(message, peer)
        received = await asyncio.wait_for(protocol.received.get(), 10)
        assert received == (message, peer), received
    relay.close()
    print(f"echoed {COUNT} of {COUNT}")


asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), 30))
