package natsd_test

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
	"github.com/thalweg/thalweg/internal/natsd"
)

// withMQTT opens a port for MQTT and returns where it is.
func withMQTT(t *testing.T, o *natsd.Options) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	address = l.Addr().String()
	o.Config.ConfigFile = filepath.Join(t.TempDir(), "nats.conf")
	text := fmt.Sprintf("server_name: one\nmqtt {listen: %q}\n", address)
	if err := os.WriteFile(o.Config.ConfigFile, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return address
}

// device connects an MQTT client.
func device(t *testing.T, address, id, user, password string) (mqtt.Client, error) {
	t.Helper()
	o := mqtt.NewClientOptions().AddBroker("tcp://" + address).SetClientID(id).SetUsername(user).SetPassword(password)
	o.SetAutoReconnect(false).SetConnectRetry(false).SetConnectTimeout(10 * time.Second)
	c := mqtt.NewClient(o)
	token := c.Connect()
	token.Wait()
	t.Cleanup(func() { c.Disconnect(0) })
	return c, token.Error()
}

// TestMQTT: a device of a site publishes its events, and can do nothing else.
func TestMQTT(t *testing.T) {
	tokens := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(tokens, []byte("ams-1 secret\n@hub core\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var address string
	s := bustest.NewServer(t, func(o *natsd.Options) {
		address = withMQTT(t, o)
		o.Config.Auth.TokensFile = tokens
	})
	hub := bustest.Connected(t, bus.Options{Config: bustest.Config(s.URL()), Events: "THALWEG_EVENTS", Login: func() (bus.Login, error) { return bus.Login{Token: "core"}, nil }})
	bustest.EnsureStream(t, hub)
	for _, who := range [][2]string{{"ams-1", "wrong"}, {"ams-2", "secret"}, {"ams-1", ""}, {"@hub", "core"}} {
		if _, err := device(t, address, "x", who[0], who[1]); err == nil {
			t.Errorf("%s was let in with %q", who[0], who[1])
		}
	}
	c, err := device(t, address, "sensor", "ams-1", "secret")
	if err != nil {
		t.Fatal(err)
	}
	for qos := range byte(3) {
		if sent := c.Publish("thalweg/v1/events/ams-1", qos, false, fmt.Sprintf("qos %d", qos)); !sent.WaitTimeout(10*time.Second) || sent.Error() != nil {
			t.Fatalf("QoS %d: %v", qos, sent.Error())
		}
	}
	// What it may not it is not told of, as MQTT has it.
	for _, topic := range []string{"thalweg/v1/events/ams-2", "thalweg/v1/lane/50/ams-1/live", "thalweg/v1/hello/ams-1", "$JS/API/STREAM/DELETE/THALWEG_EVENTS"} {
		c.Publish(topic, 1, false, "not allowed").WaitTimeout(10 * time.Second)
	}
	if heard := c.Subscribe("thalweg/v1/events/#", 0, nil); heard.WaitTimeout(10*time.Second) && heard.Error() == nil {
		for _, result := range heard.(*mqtt.SubscribeToken).Result() {
			if result != 0x80 {
				t.Error("it can subscribe")
			}
		}
	}
	if sent := c.Publish("thalweg/v1/events/ams-1", 1, false, "end"); !sent.WaitTimeout(10*time.Second) || sent.Error() != nil {
		t.Fatal(sent.Error())
	}
	read := []string{}
	done := fmt.Errorf("that was the last one")
	reader, err := hub.NewReader(bus.ReaderOptions{Name: "test", Subjects: []string{hub.Root().AllEvents()}, Handle: func(m bus.Message) error {
		read = append(read, m.Subject+" "+string(m.Payload))
		if string(m.Payload) == "end" {
			return done
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := reader.Run(t.Context()); !strings.Contains(err.Error(), done.Error()) {
		t.Fatal(err)
	}
	const subject = "thalweg.v1.events.ams-1 "
	if got, want := strings.Join(read, ", "), subject+"qos 0, "+subject+"qos 1, "+subject+"qos 2, "+subject+"end"; got != want {
		t.Errorf("the stream has %s", got)
	}
}

// A server whose streams have reserved more than a smaller limit has starts all the same, if it has no MQTT.
func TestMQTTReservesNothing(t *testing.T) {
	dir := t.TempDir()
	s := bustest.NewServer(t, func(o *natsd.Options) { o.StoreDir = dir })
	hub := bustest.Connected(t, bus.Options{Config: bustest.Config(s.URL()), Events: "THALWEG_EVENTS"})
	bustest.EnsureStream(t, hub)
	hub.Close()
	s.Stop()
	bustest.NewServer(t, func(o *natsd.Options) {
		o.StoreDir = dir
		o.Config.ConfigFile = filepath.Join(t.TempDir(), "nats.conf")
		if err := os.WriteFile(o.Config.ConfigFile, []byte("jetstream {max_file: 1GB}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	})
}

// TestMQTTWithoutTokens: where no device can log in, the log says why.
func TestMQTTWithoutTokens(t *testing.T) {
	for tokens, want := range map[string]bool{"": true, filepath.Join(t.TempDir(), "tokens"): false} {
		if tokens != "" {
			if err := os.WriteFile(tokens, []byte("ams-1 secret\n@hub core\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		log := &lines{}
		var address string
		bustest.NewServer(t, func(o *natsd.Options) {
			address = withMQTT(t, o)
			o.Config.Auth.TokensFile = tokens
			o.Logger = slog.New(slog.NewTextHandler(log, nil))
		})
		if _, err := device(t, address, "x", "ams-1", "secret"); (err != nil) != want {
			t.Errorf("with tokens %q: %v", tokens, err)
		}
		if said := strings.Contains(log.String(), "no MQTT client can log in"); said != want {
			t.Errorf("with tokens %q the log is %s", tokens, log)
		}
	}
}
