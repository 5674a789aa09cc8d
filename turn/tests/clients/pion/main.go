// pion/turn's client, as its examples set it up: allocates, and sends to a peer that
// echoes, first by indications and then, since the client binds one, by a channel.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"time"

	"github.com/pion/logging"
	"github.com/pion/turn/v5"
)

func main() {
	transport := flag.String("transport", "udp", "udp, tcp or tls")
	server := flag.String("server", "", "address of the server")
	peer := flag.String("peer", "", "address of a peer that echoes")
	user := flag.String("user", "", "username")
	password := flag.String("password", "", "password")
	authority := flag.String("ca", "", "file of the certificate to trust")
	count := flag.Int("count", 20, "datagrams to send")
	flag.Parse()
	if err := run(*transport, *server, *peer, *user, *password, *authority, *count); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("echoed %d of %d\n", *count, *count)
}

func run(transport, server, peer, user, password, authority string, count int) error {
	conn, err := dial(transport, server, authority)
	if err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	client, err := turn.NewClient(&turn.ClientConfig{
		STUNServerAddr: server,
		TURNServerAddr: server,
		Conn:           conn,
		Username:       user,
		Password:       password,
		LoggerFactory:  logging.NewDefaultLoggerFactory(),
	})
	if err != nil {
		return err
	}
	defer client.Close()
	if err := client.Listen(); err != nil {
		return err
	}
	if mapped, err := client.SendBindingRequest(); err != nil {
		return fmt.Errorf("binding: %w", err)
	} else if transport == "udp" && mapped.String() != conn.LocalAddr().String() {
		return fmt.Errorf("mapped to %v at %v", mapped, conn.LocalAddr())
	}
	relay, err := client.Allocate()
	if err != nil {
		return fmt.Errorf("allocate: %w", err)
	}
	to, err := net.ResolveUDPAddr("udp", peer)
	if err != nil {
		return err
	}
	buffer := make([]byte, 2000)
	for n := range count {
		message := fmt.Sprintf("message %d %0*d", n, n*60, 0)
		if _, err := relay.WriteTo([]byte(message), to); err != nil {
			return fmt.Errorf("write %d: %w", n, err)
		}
		if err := relay.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return err
		}
		length, from, err := relay.ReadFrom(buffer)
		if err != nil {
			return fmt.Errorf("read %d: %w", n, err)
		}
		if string(buffer[:length]) != message || from.String() != to.String() {
			return fmt.Errorf("%d: %q from %v", n, buffer[:length], from)
		}
	}
	return relay.Close()
}

func dial(transport, server, authority string) (net.PacketConn, error) {
	host, _, err := net.SplitHostPort(server)
	if err != nil {
		return nil, err
	}
	switch transport {
	case "udp":
		return net.ListenPacket("udp", net.JoinHostPort(host, "0"))
	case "tcp":
		conn, err := net.Dial("tcp", server)
		if err != nil {
			return nil, err
		}
		return turn.NewSTUNConn(conn), nil
	case "tls":
		pem, err := os.ReadFile(authority)
		if err != nil {
			return nil, err
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s: no certificate", authority)
		}
		conn, err := tls.Dial("tcp", server, &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12})
		if err != nil {
			return nil, err
		}
		return turn.NewSTUNConn(conn), nil
	}
	return nil, fmt.Errorf("no such transport: %s", transport)
}
