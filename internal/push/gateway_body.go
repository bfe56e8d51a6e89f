package push

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/snappy"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"google.golang.org/protobuf/proto"
)

// errTooLarge means that a body is beyond its limit.
var errTooLarge = errors.New("body too large")

// readBody reads and decompresses a body of at most limit bytes, decompressed. As in the original what says an encoding
// that is not known is read as it is, and will be no metrics.
func readBody(w http.ResponseWriter, r *http.Request, limit int) ([]byte, error) {
	// What cannot be compressed grows a little.
	raw := http.MaxBytesReader(w, r.Body, int64(limit)+int64(limit)/8+1024)
	var content io.Reader = raw
	switch strings.ToLower(r.Header.Get("Content-Encoding")) {
	case "gzip":
		z, err := gzip.NewReader(raw)
		if err != nil {
			return nil, fmt.Errorf("gzip: %w", err)
		}
		defer z.Close()
		content = z
	case "snappy":
		content = snappy.NewReader(raw)
	}
	var body bytes.Buffer
	if n := r.ContentLength; n > 0 {
		body.Grow(int(min(n, int64(limit))) + bytes.MinRead)
	}
	_, err := body.ReadFrom(io.LimitReader(content, int64(limit)+1))
	if _, beyond := errors.AsType[*http.MaxBytesError](err); beyond || body.Len() > limit {
		return nil, fmt.Errorf("%w: more than %d bytes, decompressed", errTooLarge, limit)
	}
	if err != nil {
		return nil, fmt.Errorf("read body: %w", err)
	}
	return body.Bytes(), nil
}

// decode turns a body into families, sorted by name, of which there is one each. They are not checked.
func decode(body []byte, contentType string) ([]*dto.MetricFamily, error) {
	byName := map[string]*dto.MetricFamily{}
	var err error
	if isDelimited(contentType) {
		err = decodeDelimited(body, byName)
	} else {
		byName, err = decodeText(body)
	}
	if err != nil {
		return nil, err
	}
	families := make([]*dto.MetricFamily, 0, len(byName))
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		families = append(families, byName[name])
	}
	return families, nil
}

// isDelimited reports whether a body is in protobuf. Everything that does not say just that is text.
func isDelimited(contentType string) bool {
	t, parameters, err := mime.ParseMediaType(contentType)
	return err == nil && t == "application/vnd.google.protobuf" && parameters["encoding"] == "delimited" &&
		parameters["proto"] == "io.prometheus.client.MetricFamily"
}

// known leaves out what nobody here knows, which the parser of rows may take for something else.
var known = proto.UnmarshalOptions{DiscardUnknown: true}

// decodeDelimited reads messages that each have their length before them. Of several of a name the last one stays.
func decodeDelimited(body []byte, byName map[string]*dto.MetricFamily) error {
	for at := 0; at < len(body); {
		size, n := binary.Uvarint(body[at:])
		if n <= 0 {
			return fmt.Errorf("decode family at byte %d: its length is no number", at)
		}
		at += n
		if size > uint64(len(body)-at) {
			return fmt.Errorf("decode family at byte %d: %d bytes are announced, %d follow: %w", at, size, len(body)-at, io.ErrUnexpectedEOF)
		}
		f := &dto.MetricFamily{}
		if err := known.Unmarshal(body[at:at+int(size)], f); err != nil {
			return fmt.Errorf("decode family at byte %d: %w", at, err)
		}
		at += int(size)
		byName[f.GetName()] = f
	}
	return nil
}

// decodeText reads the text format as the original does. The parser panics where it meets a series without a name behind a
// family without series (prometheus/common v0.71.0).
func decodeText(body []byte) (byName map[string]*dto.MetricFamily, err error) {
	defer func() {
		if p := recover(); p != nil {
			byName, err = nil, errors.New("text format parsing error: a series has no name")
		}
	}()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	return parser.TextToMetricFamilies(bytes.NewReader(body))
}
