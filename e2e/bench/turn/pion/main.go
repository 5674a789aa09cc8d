// A TURN server of pion/turn's packages as its README sets one up, for bench-turn
// to measure beside the others: UDP, REST credentials, a relay port range.
package main

import (
	"flag"
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/pion/logging"
	"github.com/pion/turn/v5"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:3478", "UDP address to listen on")
	relay := flag.String("relay", "127.0.0.1", "address of relayed transport addresses")
	realm := flag.String("realm", "bench", "realm")
	secret := flag.String("secret", "", "static secret of the REST scheme")
	minPort := flag.Uint("min-port", 10000, "lowest relay port")
	maxPort := flag.Uint("max-port", 65535, "highest relay port")
	flag.Parse()

	socket, err := net.ListenPacket("udp4", *listen)
	if err != nil {
		log.Fatal(err)
	}
	quiet := logging.NewDefaultLoggerFactory()
	quiet.DefaultLogLevel = logging.LogLevelDisabled
	server, err := turn.NewServer(turn.ServerConfig{
		Realm:         *realm,
		AuthHandler:   turn.LongTermTURNRESTAuthHandler(*secret, nil),
		LoggerFactory: quiet,
		PacketConnConfigs: []turn.PacketConnConfig{{
			PacketConn: socket,
			RelayAddressGenerator: &turn.RelayAddressGeneratorPortRange{
				RelayAddress: net.ParseIP(*relay),
				Address:      *relay,
				MinPort:      uint16(*minPort),
				MaxPort:      uint16(*maxPort),
			},
		}},
	})
	if err != nil {
		log.Fatal(err)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	<-stop
	if err := server.Close(); err != nil {
		log.Fatal(err)
	}
}
