package scrape

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http/httptrace"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	promconfig "github.com/prometheus/prometheus/config"
)

// Values of encodingLabel.
const (
	identity  = "identity"
	gzipped   = "gzip"
	zstandard = "zstd"
)

// encoding decides how a target may compress its answers. To undo gzip takes ten times as long as to parse the body, so
// that compression pays only where the network is the bottleneck: targets on this machine and at private addresses are
// asked not to compress, others for zstd and then gzip.
type encoding struct {
	fixed string // from encodingLabel or enable_compression; empty: it depends on where the target is
	look  bool   // every connection tells where it is
	near  atomic.Bool
}

func (e *encoding) init(t *target, cfg *promconfig.ScrapeConfig) {
	e.fixed = t.encoding
	if e.fixed == "" && !cfg.EnableCompression {
		e.fixed = identity
	}
	switch {
	case e.fixed != "":
	case t.socket != "":
		e.near.Store(true)
	case cfg.HTTPClientConfig.ProxyURL.URL != nil || cfg.HTTPClientConfig.ProxyFromEnvironment:
		// The address we connect to says nothing about the target.
	default:
		ip := net.ParseIP(t.url.Hostname())
		e.near.Store(isNear(ip))
		e.look = ip == nil
	}
}

// accept is the value of the Accept-Encoding header for a target that is near or not.
func (e *encoding) accept(near bool) string {
	switch {
	case e.fixed != "":
		return e.fixed
	case near:
		return identity
	}
	return "zstd, gzip;q=0.9" // some servers take the one they like best among equals
}

// trace notes where the target is, for the next request.
func (e *encoding) trace(ctx context.Context) context.Context {
	if !e.look {
		return ctx
	}
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		if a, ok := info.Conn.RemoteAddr().(*net.TCPAddr); ok {
			e.near.Store(isNear(a.IP))
		}
	}})
}

func isNear(ip net.IP) bool { return ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast() }

// memory is what scrapes of all targets reuse.
type memory struct {
	gzip    sync.Pool // of *gzip.Reader
	zstd    sync.Pool // of *zstd.Decoder
	buffers sync.Pool // of *bytes.Buffer
}

const (
	// Buffers above maxPooled are left to the garbage collector, so that one huge body is not kept for ever.
	maxPooled = 16 << 20
	// maxWindow bounds what a target can make a decoder allocate, as in Prometheus.
	maxWindow = 8 << 20
)

func newMemory() *memory {
	return &memory{
		gzip: sync.Pool{New: func() any { return new(gzip.Reader) }},
		zstd: sync.Pool{New: func() any {
			d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
			if err != nil {
				panic("BUG: scrape: make zstd decoder: " + err.Error())
			}
			return d
		}},
		buffers: sync.Pool{New: func() any { return new(bytes.Buffer) }},
	}
}

func (m *memory) buffer() *bytes.Buffer { return m.buffers.Get().(*bytes.Buffer) }

func (m *memory) release(b *bytes.Buffer) {
	if b.Cap() <= maxPooled {
		b.Reset()
		m.buffers.Put(b)
	}
}

// decoder undoes a content encoding. It is closed before body is.
func (m *memory) decoder(contentEncoding string, body io.Reader) (io.ReadCloser, error) {
	switch contentEncoding {
	case "", identity:
		return io.NopCloser(body), nil
	case gzipped:
		z := m.gzip.Get().(*gzip.Reader)
		if err := z.Reset(body); err != nil {
			m.gzip.Put(z)
			return nil, fmt.Errorf("read gzip header: %w", err)
		}
		return pooled{z, func() { m.gzip.Put(z) }}, nil
	case zstandard:
		z := m.zstd.Get().(*zstd.Decoder)
		if err := z.Reset(body); err != nil {
			m.zstd.Put(z)
			return nil, fmt.Errorf("read zstd header: %w", err)
		}
		return pooled{z, func() {
			if z.Reset(nil) == nil { // it must not hold on to the body
				m.zstd.Put(z)
			}
		}}, nil
	}
	return nil, fmt.Errorf("unknown content encoding %.100q", contentEncoding)
}

// pooled is a reader that goes back to its pool when it is closed.
type pooled struct {
	io.Reader
	putBack func()
}

func (p pooled) Close() error {
	p.putBack()
	return nil
}
