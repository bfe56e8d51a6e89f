package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
	"github.com/thalweg/thalweg/internal/frame"
)

// natsPlain is the program nats-plain: a NATS server as many have it, with JetStream, one account and no credentials, or
// as its own configuration file says.
func natsPlain() {
	config := flag.String("config", "", "file in the syntax of nats-server")
	listen := flag.String("listen", "", "HOST:PORT")
	store := flag.String("store", "", "directory")
	flag.Parse()
	if err := runNATS(*config, *listen, *store); err != nil {
		fmt.Fprintln(os.Stderr, "nats-plain:", err)
		os.Exit(1)
	}
}

func runNATS(config, listen, store string) error {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return err
	}
	options := &server.Options{}
	if config != "" {
		if options, err = server.ProcessConfigFile(config); err != nil {
			return err
		}
	}
	if options.Port, err = strconv.Atoi(port); err != nil {
		return err
	}
	options.Host, options.JetStream, options.StoreDir, options.NoSigs = host, true, store, true
	s, err := server.NewServer(options)
	if err != nil {
		return err
	}
	s.ConfigureLogger()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, os.Interrupt)
	s.Start()
	<-stop
	s.Shutdown()
	s.WaitForShutdown()
	return nil
}

// dial connects with the name and token of a site, or of a hub, without anything of package bus that would hold it back.
// refused is told what the server does not permit.
func dial(address, name, token string, refused func(error)) (*nats.Conn, error) {
	o := nats.GetDefaultOptions()
	o.Url, o.User, o.InboxPrefix = "nats://"+address, name, bus.InboxPrefix(name)+".scenario"
	if token != "-" {
		o.Token = token
	}
	o.AsyncErrorCB = func(_ *nats.Conn, _ *nats.Subscription, err error) { refused(err) }
	return o.Connect()
}

// withJetStream does something with the rights of a hub.
func withJetStream(ts *testscript.TestScript, address string, f func(context.Context, jetstream.JetStream) error) {
	nc, err := nats.Connect("nats://"+address, nats.UserInfo("@hub", ""))
	ts.Check(err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	ts.Check(err)
	eventually(ts, func() error { return f(context.Background(), js) })
}

func cmdDeleteStream(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, !neg && (len(args) == 1 || len(args) == 2), "delete-stream ADDRESS [NAME]")
	name := append(args, bus.DefaultStreamConfig().Name)[1]
	withJetStream(ts, args[0], func(ctx context.Context, js jetstream.JetStream) error { return js.DeleteStream(ctx, name) })
}

func cmdCreateStream(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, !neg && len(args) == 2, "create-stream ADDRESS SUBJECT")
	withJetStream(ts, args[0], func(ctx context.Context, js jetstream.JetStream) error {
		_, err := js.CreateStream(ctx, jetstream.StreamConfig{
			Name: bus.DefaultStreamConfig().Name, Subjects: []string{args[1]}, AllowDirect: true, MaxAge: time.Hour, MaxBytes: 64 << 20,
		})
		return err
	})
}

// cmdCopyStream takes the file that "nats stream add --config" takes.
func cmdCopyStream(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, !neg && len(args) == 2, "copy-stream ADDRESS FILE")
	var config jetstream.StreamConfig
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[1])), &config))
	withJetStream(ts, args[0], func(ctx context.Context, js jetstream.JetStream) error {
		_, err := js.CreateStream(ctx, config)
		return err
	})
}

// cmdLink puts a TCP link in front of an address, which can be cut.
func cmdLink(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, !neg && len(args) == 2, "link NAME ADDRESS|cut|mend")
	name, s := args[0], of(ts)
	link := s.links[name]
	switch what := args[1]; {
	case link == nil:
		s.links[name] = bustest.NewProxy(s.t, what)
		ts.Setenv(name, s.links[name].Addr())
	case what == "cut":
		link.Refuse(true)
		link.Cut()
	case what == "mend":
		link.Refuse(false)
	default:
		ts.Fatalf("link %s is there already", name)
	}
}

// cmdSendFrame publishes something on the live lane of a site. The server must store it, except where the lane is not
// the site's: that it must refuse.
func cmdSendFrame(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, len(args) == 4, "[!] send-frame ADDRESS SITE TOKEN|- KIND")
	site, kind := args[1], args[3]
	subject := bus.DefaultRoot.Lane(site, bus.Live)
	if kind == "wrong-part" {
		own := fmt.Sprintf(".%d.%s.", bus.PartOf(site), site)
		subject = strings.Replace(subject, own, fmt.Sprintf(".%d.%s.", (bus.PartOf(site)+1)%bus.Parts, site), 1)
	}
	sequence, err := publish(args[0], site, args[2], subject, hostileFrame(ts, kind))
	switch {
	case !neg && err != nil:
		of(ts).fail(ts, "publish on %s: %v", subject, err)
	case neg && !errors.Is(err, nats.ErrPermissionViolation) && !errors.Is(err, nats.ErrAuthorization):
		of(ts).fail(ts, "publish on %s: stored as %d, %v; the server should have refused it", subject, sequence, err)
	}
}

// publish returns where the stream has stored a message.
func publish(address, name, token, subject string, data []byte) (sequence uint64, err error) {
	timeout, stop := context.WithTimeout(context.Background(), patience)
	defer stop()
	ctx, refuse := context.WithCancelCause(timeout)
	nc, err := dial(address, name, token, refuse)
	if err != nil {
		return 0, err
	}
	defer nc.Close()
	answer, err := nc.RequestWithContext(ctx, subject, data)
	if err != nil {
		return 0, errors.Join(err, context.Cause(ctx))
	}
	var ack struct{ Seq uint64 }
	if err := json.Unmarshal(answer.Data, &ack); err != nil || ack.Seq == 0 {
		return 0, fmt.Errorf("answer of the server: %s", answer.Data)
	}
	return ack.Seq, nil
}

// body of a frame of version 2: the length of its blocks, then they.
func body(blocks []byte) []byte {
	return append(binary.AppendUvarint(nil, uint64(len(blocks))), blocks...)
}

func hostileFrame(ts *testscript.TestScript, kind string) []byte {
	header := frame.Header{
		Kind: frame.Keyframe, Flags: frame.FlagFirst, ID: frame.ID{Epoch: 7, Number: 1}, Rows: 1, Sent: time.Now().UnixMilli(),
	}
	whole := frame.Seal(nil, header, nil)
	switch kind {
	case "garbage", "wrong-part":
		return []byte("GET / HTTP/1.1\r\nHost: not a frame, and long enough to be one if anybody looked at its length only\r\n\r\n")
	case "truncated":
		return frame.Seal(nil, header, make([]byte, 200))[:120]
	case "future":
		whole[3] = frame.Version + 1
		table := crc32.MakeTable(crc32.Castagnoli)
		binary.LittleEndian.PutUint32(whole[4:], crc32.Update(crc32.Checksum(whole[:4], table), table, whole[8:]))
		return whole
	case "bomb": // a few bytes that become 32 MiB
		w, err := zstd.NewWriter(nil, zstd.WithSingleSegment(true), zstd.WithEncoderCRC(false))
		ts.Check(err)
		header.Flags |= frame.FlagZstd
		return frame.Seal(nil, header, body(w.EncodeAll(make([]byte, 32<<20), nil)))
	case "lying": // a block of kind 1 that says that it has 2^62 bytes
		return frame.Seal(nil, header, body(append([]byte{1}, binary.AppendUvarint(nil, 1<<62)...)))
	}
	ts.Fatalf("unknown kind of frame %q", kind)
	return nil
}
