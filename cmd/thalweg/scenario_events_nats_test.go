package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/nats-io/nats.go"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/thalweg/thalweg/internal/bus"
)

// eventSender is the program event-sender: it publishes events of value 1 as a site, one after the other, and each until
// somebody answers for it.
func eventSender() {
	natsAddress := flag.String("nats", "", "HOST:PORT of NATS")
	mqttAddress := flag.String("mqtt", "", "HOST:PORT of MQTT")
	site := flag.String("site", "", "name of the site")
	token := flag.String("token", "", "its token")
	number := flag.Int("number", 0, "events")
	flag.Parse()
	send := publishByNATS
	address := *natsAddress
	if *mqttAddress != "" {
		send, address = publishByMQTT, *mqttAddress
	}
	if err := send(address, *site, *token, *number); err != nil {
		fmt.Fprintln(os.Stderr, "event-sender:", err)
		os.Exit(1)
	}
	fmt.Printf("sent %d\n", *number)
}

// publishByNATS repeats a message with the same id, which the server stores once.
func publishByNATS(address, site, token string, number int) error {
	nc, err := nats.Connect("nats://"+address, nats.UserInfo(site, token), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond),
		nats.CustomInboxPrefix(bus.InboxPrefix(site)+".sender"), nats.RetryOnFailedConnect(true))
	if err != nil {
		return err
	}
	defer nc.Close()
	for i := range number {
		m := nats.NewMsg(bus.DefaultRoot.Events(site))
		m.Data = fmt.Appendf(nil, `{"name":"sent_total","value":1,"labels":{"from":%q}}`, site)
		m.Header.Set(nats.MsgIdHdr, site+"."+strconv.Itoa(i))
		for end := time.Now().Add(patience); ; {
			answer, err := nc.RequestMsg(m, time.Second)
			if err == nil && strings.Contains(string(answer.Data), `"seq":`) {
				break
			}
			if time.Now().After(end) {
				return fmt.Errorf("event %d: %v, %v", i, answer, err)
			}
			time.Sleep(10 * time.Millisecond) // nobody may listen at the moment
		}
	}
	return nil
}

// publishByMQTT sends with QoS 1, by which an event may be published twice, and has an id therefore.
func publishByMQTT(address, site, token string, number int) error {
	o := mqtt.NewClientOptions().AddBroker("tcp://" + address).SetClientID("sender-" + site).SetUsername(site).SetPassword(token)
	o.SetConnectRetry(true).SetConnectRetryInterval(100 * time.Millisecond).SetMaxReconnectInterval(100 * time.Millisecond).SetCleanSession(false)
	c := mqtt.NewClient(o)
	if t := c.Connect(); !t.WaitTimeout(patience) || t.Error() != nil {
		return fmt.Errorf("connect: %w", t.Error())
	}
	defer c.Disconnect(100)
	topic := strings.ReplaceAll(bus.DefaultRoot.Events(site), ".", "/")
	for i := range number {
		event := fmt.Sprintf(`{"name":"sent_total","value":1,"labels":{"from":%q},"id":"%s.%d"}`, site, site, i)
		if t := c.Publish(topic, 1, false, event); !t.WaitTimeout(patience) || t.Error() != nil {
			return fmt.Errorf("event %d: %w", i, errors.Join(t.Error(), errors.New("no answer")))
		}
	}
	return nil
}

// cmdPublish publishes what "thalweg events send" would not.
func cmdPublish(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, len(args) == 3, "[!] publish ADDRESS SUBJECT PAYLOAD")
	site := args[1][strings.LastIndexByte(args[1], '.')+1:]
	if _, err := publish(args[0], site, "-", args[1], []byte(args[2])); (err != nil) != neg {
		of(ts).fail(ts, "publish on %s: %v", args[1], err)
	}
}

// cmdTotal adds up a series over the pages of several gateways.
func cmdTotal(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, !neg && len(args) > 2, "total N SERIES URL...")
	want, err := strconv.ParseFloat(args[0], 64)
	ts.Check(err)
	eventually(ts, func() error {
		sum := 0.0
		for _, url := range args[2:] {
			v, err := valueOnPage(url, args[1])
			if err != nil {
				return err
			}
			sum += v
		}
		if sum > want {
			of(ts).fail(ts, "%s comes to %v, which is more than %v", args[1], sum, want)
		}
		if sum < want {
			return fmt.Errorf("%s comes to %v, want %v", args[1], sum, want)
		}
		return nil
	})
}

// valueOnPage returns 0 for a series that is not there.
func valueOnPage(url, series string) (float64, error) {
	answer, err := http.Get(url)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("%s: %s: %w", url, answer.Status, err)
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, series+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(v), 64)
		}
	}
	return 0, nil
}
